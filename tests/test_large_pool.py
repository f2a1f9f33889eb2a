"""What a very large pool cannot afford: lists of an object for each of its rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.config import load_config
from tamis.data import index
from tamis.data.pool import Pool
from tamis.ids import unpack
from tamis.pipeline import Pipeline, select
from tamis.similarity import load_similarity

N_ROWS, N_TARGET = 300, 3


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A pool of many rows, of which the first of every hundred are about figs; lists of its rows are forbidden."""
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(list("abcdefghijk"), 12)) for _ in range(N_ROWS)]
    about = ["a fig is a sweet fruit and figs are fruit" if k % 100 < 2 else words[k] for k in range(N_ROWS)]
    rows = [
        {"id": f"r{k}", "source": f"s{k % 3}", "prompt": f"{k}?", "completion": text} for k, text in enumerate(about)
    ]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = [{"prompt": f"{k}, is a fig sweet?", "completion": "a fig is sweet fruit"} for k in range(N_TARGET)]
    (tmp_path / "target.jsonl").write_text("".join(json.dumps(row) + "\n" for row in target))
    monkeypatch.setattr(index, "_HELD_BYTES", 1 << 10)
    for name in ("ids", "sources", "groups"):
        monkeypatch.setattr(Pool, name, property(_few(getattr(Pool, name).fget)))
    return {
        "data.pool": str(tmp_path / "pool.jsonl"),
        "data.target": str(tmp_path / "target.jsonl"),
        "pick.budget": 6,
        "represent.dim": 64,
        "represent.shard_rows": 64,
        "workspace": str(tmp_path / "ws"),
        "out": str(tmp_path / "picked"),
    }


def _few(column: Any) -> Any:
    def of(pool: Pool) -> list[Any]:
        assert len(pool) < 100, "a list of an object for each row of the pool"
        found: list[Any] = column(pool)
        return found

    return of


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("ngrams", {}),
        ("ngrams+round_robin", {"represent.store_dtype": "int8"}),
        ("ngrams+k_center", {}),
        ("ngrams", {"data.keep_duplicates": True, "represent.normalize": False}),
        ("bm25", {}),
        ("dsir", {}),
        ("random", {"pick.options": {"balanced": True}, "pick.quotas": {"s0": 3}, "pick.floors": {"s1": 1}}),
    ],
)
def test_no_list_of_a_pool_s_rows_is_made(files: dict[str, Any], method: str, changes: dict[str, Any]) -> None:
    selection = select(load_config(None, {**files, "pick.method": method, **changes}))
    assert len(selection) == 6
    assert selection.facts["sources"]
    if method in ("ngrams", "bm25"):
        assert {example.row_id for example in selection.examples} <= {f"r{k}" for k in range(N_ROWS) if k % 100 < 2}


def test_a_second_run_computes_only_new_rows(files: dict[str, Any], recorder: Any) -> None:
    config = load_config(None, {**files, "pick.method": "ngrams", "data.limit": 200})
    select(config, first := recorder())
    assert first.n_todo == {"target features 1/1": 3, "pool features 1/1": 200}
    select(load_config(None, {**files, "pick.method": "ngrams"}), second := recorder())
    assert second.n_todo == {"target features 1/1": 0, "pool features 1/1": 100}


def test_the_similarity_of_another_order_is_joined_by_ids(files: dict[str, Any], tmp_path: Path) -> None:
    scored = Pipeline(load_config(None, {**files, "pick.method": "ngrams"})).score()
    _, target_ids, pool_ids = load_similarity(scored.path)
    assert pool_ids is not None
    assert (target_ids, len(pool_ids)) == (scored.targets.ids, N_ROWS)
    turned = tmp_path / "turned.jsonl"
    lines = Path(files["data.pool"]).read_text().splitlines(keepends=True)
    turned.write_text("".join(lines[::-1]))
    config = load_config(None, {**files, "data.pool": str(turned), "pick.similarity": str(scored.path)})
    joined = Pipeline(config)
    own = select(load_config(None, {**files, "pick.method": "ngrams"}))
    assert set(joined.pick().ids) == set(own.ids)
    assert unpack(joined.inputs.pool.packed_ids) == unpack(pool_ids)[::-1]
