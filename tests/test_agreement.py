"""Agreement: numbers against scikit-learn, SciPy and brute force; what is no selection; what is written and shown."""

import csv
import itertools
import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import jaccard_score

from tamis.agreement import Pair, compare, jaccard_by_chance, lines, read_selections, spearman, write
from tamis.config import Config
from tamis.errors import DamagedError, InputError
from tamis.ids import unpack
from tamis.selectors import top_k
from tamis.similarity import save_similarity

EVIL = "<script>alert(1)</script>\x1b[1m"
Cli = Callable[..., Any]
Made = Callable[..., Path]
IDS = [f"{k:032x}" for k in range(40)]

_REST = b', "pool": {"digest": ""}, "method": "", "budget": "", "similarity": null}'


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """made(name, ids, …): a folder like that of a selection of the pool IDS, with a workspace of its own."""

    def make(
        name: str, ids: list[str], similarity: np.ndarray | None = None, pool: list[str] = IDS, **settings: Any
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        rank = np.arange(1, len(ids) + 1)[::-1]  # the file need not be in the order of the ranks
        pq.write_table(pa.table({"rank": rank, "id": ids[::-1]}), folder / "picks.parquet")
        manifest = {
            "n_usable": len(pool),
            "pool": {"digest": str(hash(tuple(pool)))},
            "method": "less",
            "budget": "5%",
            "similarity": None if similarity is None else "s",
        }
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        tree = yaml.safe_load(Config(workspace=str(folder / "ws")).to_yaml())
        for key, value in settings.items():
            stage, _, last = key.partition("__")
            tree[stage][last] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        if similarity is not None:
            targets = [f"t{k}" for k in range(len(similarity))]
            save_similarity(folder / "ws" / "similarity" / "s.npy", similarity, targets, pool)
        return folder

    return make


def pair_of(*folders: Path) -> Pair:
    (pair,) = compare(read_selections([str(folder) for folder in folders]))
    return pair


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_shared_picks_and_ranks_against_scikit_learn_and_scipy(made: Made) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.permutation(IDS)[:n].tolist() for n in (15, 22))
    pair = pair_of(made("a", a), made("b", b))
    assert pair.jaccard == pytest.approx(jaccard_score([i in a for i in IDS], [i in b for i in IDS]))
    shared = sorted(set(a) & set(b))
    assert (pair.n_a, pair.n_b, pair.n_shared) == (15, 22, len(shared))
    assert pair.rank_rho == pytest.approx(spearmanr([a.index(i) for i in shared], [b.index(i) for i in shared])[0])
    assert pair.by_chance == pytest.approx(jaccard_by_chance(15, 22, 40))
    assert (pair.pool_rho, pair.n_joined, pair.differ, pair.note) == (None, None, (), "")


def test_a_table_worked_by_hand(made: Made) -> None:
    a, b = made("a", IDS[:4]), made("b", [IDS[2], IDS[1], IDS[0], IDS[9]])
    pair = pair_of(a, b)
    assert (pair.n_shared, pair.jaccard, pair.rank_rho) == (3, 0.6, -1.0)
    two = pair_of(a, made("c", IDS[2:6]))
    assert (two.n_shared, two.rank_rho) == (2, None)  # of two rows ranks tell nothing
    none = pair_of(a, made("d", IDS[20:30]))
    assert (none.n_shared, none.jaccard, none.rank_rho) == (0, 0.0, None)
    assert none.cells == ("a", "d", "4 / 10", "0", "0.000", f"{none.by_chance:.3f}", "", "")


def test_equal_rows_that_are_all_candidates_count_one_by_one(made: Made) -> None:
    pair = pair_of(made("a", [IDS[0], IDS[0], IDS[1]]), made("b", [IDS[0], IDS[1], IDS[2]]))
    assert (pair.n_shared, pair.jaccard) == (2, 0.5)


@pytest.mark.parametrize(("n_a", "n_b", "n_pool"), [(1, 1, 1), (2, 3, 6), (4, 4, 5), (1, 5, 6), (3, 3, 7)])
def test_jaccard_by_chance_by_brute_force(n_a: int, n_b: int, n_pool: int) -> None:
    a = set(range(n_a))
    every = [set(b) for b in itertools.combinations(range(n_pool), n_b)]
    assert jaccard_by_chance(n_a, n_b, n_pool) == pytest.approx(np.mean([len(a & b) / len(a | b) for b in every]))


def test_jaccard_by_chance_of_large_sets() -> None:
    assert jaccard_by_chance(50_000, 50_000, 1_000_000) == pytest.approx(0.05 / 1.95, rel=1e-3)
    with pytest.raises(ValueError, match="sets of 1 to 5 rows, got 2 and 6"):
        jaccard_by_chance(2, 6, 5)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=20))
def test_spearman_is_that_of_scipy_where_it_is_defined(rows: list[tuple[int, int]]) -> None:
    a, b = np.array(rows, np.float64).T
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert spearman(a, b) is None
    else:
        assert spearman(a, b) == pytest.approx(spearmanr(a, b)[0])


def test_scores_over_the_pool_are_joined_by_id(made: Made) -> None:
    rng = np.random.default_rng(1)
    one, other = rng.random((3, 40), np.float32), rng.random((5, 30), np.float32)
    order = rng.permutation(40)[:30]
    part = [IDS[k] for k in order]
    a, b = made("a", IDS[:5], one), made("b", part[:5], other, pool=part)
    pair = pair_of(a, b)
    assert pair.pool_rho == pytest.approx(spearmanr(one.mean(axis=0)[order], other.mean(axis=0))[0])
    assert (pair.n_joined, pair.by_chance) == (30, None)
    assert pair.note == "different pools: joined by id, and chance is not known; 30 rows are in both"
    (b / "ws" / "similarity" / "s.npy").unlink()
    assert pair_of(a, b).pool_rho is None


def test_the_score_of_a_row_is_that_of_top_k_without_groups(made: Made) -> None:
    similarity = np.random.default_rng(2).random((4, 40), np.float32)
    selection = read_selections([str(made("a", IDS[:3], similarity)), str(made("b", IDS[:3]))])[0]
    assert selection.scores is not None
    best = selection.scores.ids[np.argsort(-selection.scores.values)]
    assert unpack(best) == [IDS[k] for k in top_k(similarity, n_examples=40).indices]


def test_settings_that_differ_are_listed(made: Made) -> None:
    a = made("a", IDS[:3], represent__dim=512, pick__method="less", data__pool=["x.jsonl", "y.jsonl"])
    b = made("b", IDS[:3], pick__options={"reduce": "max"}, pick__method="less", data__pool=["z" * 90 + ".jsonl"])
    assert pair_of(a, b).differ == (
        f"data.pool: x.jsonl, y.jsonl / …{'z' * 53}.jsonl",
        "represent.dim: 512 / 8192",
        "pick.options.reduce: not set / max",
    )


# ---- names and what is no selection --------------------------------------------------------------------------------


def test_names_are_the_shortest_that_tell_folders_apart(made: Made) -> None:
    one, two, three = made("x/1/picked", IDS[:3]), made("x/2/picked", IDS[:3]), made("x/2/other", IDS[:3])
    names = [s.name for s in read_selections([str(one), str(two), str(three)])]
    assert names == ["1/picked", "2/picked", "2/other"]
    assert [s.name for s in read_selections([str(one), str(three)])] == ["picked", "other"]
    assert [s.name for s in read_selections([f"dim 8={one}", str(two)])] == ["dim 8", "2/picked"]
    same = read_selections([f"a={one}", f"b={one}"])
    assert compare(same)[0].jaccard == 1
    with pytest.raises(InputError, match=r"two selections are called 'a'; name them: NAME="):
        read_selections([f"a={one}", f"a={two}"])
    with pytest.raises(InputError, match="two selections are called"):
        read_selections([str(one), str(one)])
    with pytest.raises(InputError, match="expected FOLDER or NAME=FOLDER, got '=x'"):
        read_selections(["=x", str(one)])


def test_a_folder_with_an_equals_sign_is_a_folder(made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made("dim=512", IDS[:3])
    made("dim=8192", IDS[:4])
    monkeypatch.chdir(tmp_path)
    pair = pair_of(Path("dim=512"), Path("dim=8192"))
    assert (pair.a, pair.b, pair.n_a, pair.n_b) == ("dim=512", "dim=8192", 3, 4)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("", None, r"no such folder; give the --out folder of `tamis select`"),
        ("picks.parquet", None, "no selection: it holds no picks.parquet; give the --out folder"),
        ("manifest.json", None, "no selection: it holds no manifest.json"),
        ("config.yaml", None, "no selection: it holds no config.yaml"),
        ("picks.parquet", b"", "picks.parquet: damaged"),
        ("picks.parquet", b"PAR1" + bytes(40) + b"PAR1", "picks.parquet: damaged"),
        ("manifest.json", b"{", "manifest.json: damaged"),
        ("manifest.json", b"[]", "manifest.json: damaged"),
        ("manifest.json", b"\xff", "manifest.json: damaged"),
        ("manifest.json", b'{"n_usable": "many"}', "manifest.json: damaged"),
        ("manifest.json", b'{"n_usable": Infinity' + _REST, "manifest.json: damaged"),
        ("manifest.json", b'{"n_usable": 1000000000000' + _REST, "manifest.json: damaged"),
        ("manifest.json", b'{"n_usable": 2, "pool": {"digest": ""}, "method": "", "budget": "", "similarity": null}',
         "3 picks of 2 usable rows"),
        ("config.yaml", b"pick: [", "config.yaml: not valid YAML.*select anew into"),
        ("config.yaml", b"pikc: {}", "config.yaml: unknown setting 'pikc'.*select anew into"),
    ],
)  # fmt: skip
def test_what_is_no_selection_is_named(made: Made, file: str, content: bytes | None, message: str) -> None:
    good, bad = made("good", IDS[:3]), made("bad", IDS[:3])
    if not file:
        shutil.rmtree(bad)
    elif content is None:
        (bad / file).unlink()
    else:
        (bad / file).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_selections([str(good), str(bad)])
    assert str(bad) in str(error.value)


@pytest.mark.parametrize(
    "table",
    [{"id": ["a"]}, {"rank": [1]}, {"id": [None], "rank": [1]}, {"id": [7], "rank": [1]}, {"id": [], "rank": []}],
)
def test_other_tables_are_no_picks(made: Made, table: dict[str, list[Any]]) -> None:
    bad = made("bad", IDS[:3])
    pq.write_table(pa.table(table), bad / "picks.parquet")
    with pytest.raises(InputError, match=r"picks.parquet: (damaged|expected picks with ids).*select anew"):
        read_selections([str(made("good", IDS[:3])), str(bad)])


def test_cut_short_parquet_is_damaged_at_every_length(made: Made) -> None:
    good, bad = made("good", IDS[:3]), made("bad", IDS[:3])
    whole = (bad / "picks.parquet").read_bytes()
    for length in range(0, len(whole), 37):
        (bad / "picks.parquet").write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged"):
            read_selections([str(good), str(bad)])


def test_a_damaged_similarity_is_not_compared_by(made: Made) -> None:
    a, b = (made(name, IDS[:3], np.ones((2, 40), np.float32)) for name in "ab")
    with (b / "ws" / "similarity" / "s.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(DamagedError, match="Delete it"):
        pair_of(a, b)


@pytest.mark.parametrize("arguments", [[], ["a"]])
def test_fewer_than_two_are_not_compared(arguments: list[str]) -> None:
    with pytest.raises(InputError, match=f"two or more selections to compare, got {len(arguments)}"):
        read_selections(arguments)


# ---- what is shown -------------------------------------------------------------------------------------------------


def test_the_folder(made: Made, tmp_path: Path) -> None:
    similarity = np.random.default_rng(3).random((2, 40), np.float32)
    folders = [made("a", IDS[:9], similarity), made("b", IDS[3:20], similarity**2, represent__dim=64)]
    selections = read_selections([str(folder) for folder in [*folders, made("c", IDS[:2])]])
    pairs = compare(selections)
    write(tmp_path / "out", selections, pairs)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "agreement.csv", "agreement.pdf", "agreement.png", "agreement.svg", "manifest.json", "report.html",
    ]  # fmt: skip
    with (out / "agreement.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["a"], row["b"]) for row in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert float(rows[0]["jaccard"]) == pytest.approx(6 / 20)
    assert float(rows[0]["pool_rho"]) == pytest.approx(pairs[0].pool_rho)
    assert rows[0]["differ"] == "represent.dim: 8192 / 64"
    assert rows[1]["pool_rho"] == rows[1]["rank_rho"] == ""
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "How far 3 selections agree" in html
    assert "represent.dim: 8192 / 64" in html
    assert html.count("<svg") == 1
    assert "src=" not in html
    ET.parse(out / "agreement.svg")
    write(out, selections, pairs)  # a report may take the place of an earlier one


def test_names_become_no_markup(made: Made, tmp_path: Path) -> None:
    a, b = made("a", IDS[:3], pick__exclude=[EVIL[:25]]), made("b", IDS[:3])
    selections = read_selections([f"{EVIL}={a}", f"\udcff={b}"])
    pairs = compare(selections)
    write(tmp_path / "out", selections, pairs)
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "\x1b" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "\\udcff" in html
    assert "\x1b" not in "".join(lines(pairs))


def test_from_the_command_line(
    settings: dict[str, Any], finished: Path, workspace: Path, tmp_path: Path, cli: Cli
) -> None:
    given = [f"{key}={value}" for key, value in settings.items()]
    for method in ("less+round_robin", "bm25"):
        cli("select", *given, "--workspace", workspace, "--method", method, "--out", tmp_path / method)
    folders = finished / "out", f"turns={tmp_path / 'less+round_robin'}", tmp_path / "bm25"
    shown = cli("compare", *folders, "--out", tmp_path / "cmp").stdout.splitlines()
    assert shown[0].split() == [
        "selection",
        "and",
        "picks",
        "shared",
        "Jaccard",
        "by",
        "chance",
        *["ρ", "of", "shared", "ρ", "of", "pool"],
    ]
    assert shown[1].startswith("out        turns")
    assert shown[1].endswith("1.000")  # the same scores, other selectors
    assert shown[2] == "    pick.method: less / less+round_robin"
    assert shown[-1].startswith(f"written to {tmp_path / 'cmp'}: agreement.csv")
    with (tmp_path / "cmp" / "agreement.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    ids = [
        pq.read_table(folder / "picks.parquet")["id"].to_pylist() for folder in (finished / "out", tmp_path / "bm25")
    ]
    assert int(rows[1]["n_shared"]) == len(set(ids[0]) & set(ids[1]))
    assert float(rows[1]["by_chance"]) == pytest.approx(jaccard_by_chance(6, 6, 20), abs=0.02)
    assert -1 <= float(rows[1]["pool_rho"]) <= 1


def test_mistakes_on_the_command_line(finished: Path, tmp_path: Path, cli: Cli) -> None:
    out = finished / "out"
    assert "two or more selections to compare, got 1" in cli("compare", out, code=2).stderr
    assert f"{tmp_path}: no selection" in cli("compare", out, tmp_path, code=2).stderr
    wrong = cli("compare", out, f"again={out}", "--out", out, code=2)
    assert "holds a selection, which would be replaced" in wrong.stderr


def test_names_are_no_markup_on_a_terminal(made: Made, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = made("a", IDS[:3], represent__dim=64), made("b", IDS[:3])
    plain = cli("compare", f"[red]x[/red]={a}", b).stdout
    assert plain.splitlines()[1].startswith("[red]x[/red]  b")
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = cli("compare", f"[red]x[/red]={a}", b).stdout
    assert "\x1b[1mselection" in coloured
    assert "[red]x[/red]  b" in coloured
