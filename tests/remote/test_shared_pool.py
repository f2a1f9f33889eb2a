"""Pools on an object store: every container, patterns, names that are not there, streams that break off."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.data.containers import open_rows
from tamis.data.export import original_rows
from tamis.data.files import read
from tamis.data.places import expand
from tamis.errors import InputError, RemoteError
from tamis.remote import RemotePath, attempts

N_ROWS = 300


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same rows in every container, by the name of the file."""
    folder = tmp_path_factory.mktemp("pools")
    rows = [{"instruction": f"How much is {n} and 1? " * 20, "output": f"It is {n + 1}."} for n in range(N_ROWS)]
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    table = pa.Table.from_pylist(rows)
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "c.jsonl.zst").write_bytes(pa.compress(lines, codec="zstd", asbytes=True))
    (folder / "d.json").write_text(json.dumps(rows))
    pq.write_table(table, folder / "e.parquet", row_group_size=100)
    text = "".join(f'"{row["instruction"]}","{row["output"]}"\n' for row in rows)
    (folder / "f.csv").write_text("instruction,output\n" + text)
    (folder / "g.csv.gz").write_bytes(gzip.compress(b"instruction,output\n" + text.encode()))
    return {path.name: path for path in sorted(folder.iterdir())}


@pytest.fixture
def bucket(s3: RemotePath, pools: dict[str, Path]) -> RemotePath:
    for name, path in pools.items():
        (s3 / "data" / name).upload(path)
    return s3


def test_rows_of_every_container_are_those_of_the_local_file(bucket: RemotePath, pools: dict[str, Path]) -> None:
    for name, path in pools.items():
        there = list(open_rows(f"{bucket}/data/{name}"))
        assert there == list(open_rows(str(path)))
        assert len(there) == N_ROWS


def test_original_rows_are_written_out(bucket: RemotePath, pools: dict[str, Path]) -> None:
    for name in ("a.jsonl", "b.jsonl.gz", "e.parquet"):
        found = read([f"{bucket}/data/{name}"])
        some = [found.examples[k] for k in (7, 3, 250)]
        local = read([str(pools[name])])
        assert list(original_rows(some)) == list(original_rows([local.examples[k] for k in (7, 3, 250)]))
        assert {example.source for example in some} == {name[0]}
    (bucket / "data" / "a.jsonl").unlink()
    with pytest.raises(InputError, match=r"a.jsonl: the file is gone since it was read"):
        list(original_rows([read([str(pools["a.jsonl"])]).examples[0].__class__(**vars_of(some[0], bucket))]))


def vars_of(example: Any, bucket: RemotePath) -> dict[str, Any]:
    fields = {name: getattr(example, name) for name in example.__dataclass_fields__}
    return {**fields, "file": f"{bucket}/data/a.jsonl"}


def test_patterns_and_the_same_file_twice(bucket: RemotePath, pools: dict[str, Path], tmp_path: Path) -> None:
    assert expand([f"{bucket}/data/*.jsonl*"]) == [
        f"{bucket}/data/{n}" for n in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst")
    ]
    assert expand([f"{bucket}/**/?.csv", f"{bucket}/data/f.csv"]) == [f"{bucket}/data/f.csv"]
    mixed = expand([str(pools["a.jsonl"]), f"{bucket}/data/a.jsonl"])
    assert mixed == [str(pools["a.jsonl"]), f"{bucket}/data/a.jsonl"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("data/b.jsonl.gs", r"no such file; nearest in s3://.*/data: b.jsonl.gz"),
        ("data/*.tsv", r"no such file; "),
        ("daten/a.jsonl", r"no such file; there is no folder s3://.*/daten"),
        ("data", r"expected files, found a folder; say s3://.*/data/\*.jsonl"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(bucket: RemotePath, path: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        expand([f"{bucket}/{path}"])


def test_names_that_belie_the_content(bucket: RemotePath, pools: dict[str, Path]) -> None:
    (bucket / "x.jsonl").upload(pools["b.jsonl.gz"])
    (bucket / "x.parquet").write_bytes(pools["e.parquet"].read_bytes()[:-20])
    (bucket / "y.jsonl").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    for name, said in (
        ("x.jsonl", "found gzip data under this name"),
        ("x.parquet", "not a whole Parquet file"),
        ("y.jsonl", "Git LFS pointer"),
    ):
        with pytest.raises(InputError, match=said):
            list(open_rows(f"{bucket}/{name}"))
    for name in ("b.jsonl.gz", "c.jsonl.zst"):
        (bucket / name).write_bytes(pools[name].read_bytes()[:-30])
        *_, (_, last) = open_rows(f"{bucket}/{name}")
        assert "the compressed stream is damaged here" in str(last)


@pytest.fixture
def breaking(told: Any, pools: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[[float], RemotePath]:
    """The files on a server of which requests for content fail, each so many times before it is answered."""
    monkeypatch.setattr("tamis.remote.path._BLOCK_BYTES", 5000)
    monkeypatch.setattr(attempts, "_FIRST_WAIT_SECONDS", 0.001)

    def make(n_failures: float) -> RemotePath:
        for name, path in pools.items():
            RemotePath(f"told://b/{name}").upload(path)
        left = [n_failures]

        def before(what: str, _: str) -> None:
            if what == "cat":
                left[0] -= 1
                if left[0] >= 0:
                    raise ConnectionResetError("cut off")
                left[0] = n_failures

        told.before = staticmethod(before)
        return RemotePath("told://b")

    return make


def test_a_stream_that_breaks_off_goes_on_where_it_was(
    breaking: Callable[[float], RemotePath], pools: dict[str, Path]
) -> None:
    folder = breaking(1)
    for name, path in pools.items():
        assert list(open_rows(f"{folder}/{name}")) == list(open_rows(str(path)))


def test_a_stream_that_stays_cut_off_ends_the_run_and_gives_no_half_pool(
    breaking: Callable[[float], RemotePath], pools: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "PATIENCE_SECONDS", 0.2)
    folder = breaking(float("inf"))
    for name in pools:
        with pytest.raises(RemoteError, match=r"no good answer for 0.2 seconds \(cut off\)"):
            read([f"{folder}/{name}"])
