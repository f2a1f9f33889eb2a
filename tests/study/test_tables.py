"""A study's tables as files, and tables that others published: what comes back, and what is refused, by name."""

import json
from pathlib import Path

import pandas as pd
import pytest
from made import BINS, LOSSES, made_study, made_tables

from tamis.errors import InputError
from tamis.study import foreign, tables
from tamis.study.tables import RESULT_COLUMNS, Results, frame, is_study, kind, read, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "study", made_study())
    return tmp_path / "study"


# ---- a study -------------------------------------------------------------------------------------------------------


def test_what_is_written_comes_back(folder: Path) -> None:
    made, found = made_study(), read(folder)
    for name in ("results", "examples", "costs", "composition"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(made, name), check_exact=True)
    assert found.shown == made.shown
    assert found.manifest == made.manifest
    assert is_study(folder)
    assert not list(folder.glob(".*"))


def test_writing_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "again", read(folder))
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_only_results_and_manifest_must_be_there(folder: Path) -> None:
    for name in ("examples.parquet", "costs.csv", "composition.csv", "shown.json"):
        (folder / name).unlink()
    found = read(folder)
    assert len(found.results) == len(made_study().results)
    assert (len(found.examples), len(found.costs), len(found.composition), found.shown) == (0, 0, 0, [])
    (folder / "study.json").unlink()
    with pytest.raises(InputError, match=r"no results.csv and study.json"):
        read(folder)


def test_what_is_not_known_is_not_zero() -> None:
    one = frame([{"experiment": "budget", "target": "t", "seed": None}], RESULT_COLUMNS).iloc[0]
    assert one["method"] == ""
    assert one["seed"] is pd.NA
    assert pd.isna(one["test_loss"])
    with pytest.raises(ValueError, match="got loss"):
        frame([{"loss": 1.0}], RESULT_COLUMNS)
    assert len(Results.of_rows([]).results) == 0


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("results.csv", "n_tokens", "tokens", r"results.csv: expected the columns experiment, .*found .*tokens"),
        ("costs.csv", "60.0", "a minute", r"costs.csv line 2: expected a number as seconds, found 'a minute'"),
        ("costs.csv", "60.0", "inf", r"costs.csv line 2: expected a number as seconds, found 'inf'"),
        ("composition.csv", ",0,a", ",0.5,a", r"composition.csv line 2: expected a number as seed, found '0.5'"),
        ("costs.csv", "model,", '"model,', r"costs.csv: cannot be read as a CSV"),
        ("study.json", "{", "[", r"study.json: cannot be read as JSON"),
        ("shown.json", '"picked"', '"took"', r"shown.json: expected entries with .*picked.*, not so entry 0"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, name: str, old: str, new: str, message: str) -> None:
    text = (folder / name).read_text(encoding="utf-8")
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read(folder)


def test_other_damage(folder: Path) -> None:
    (folder / "study.json").write_text("[]")
    with pytest.raises(InputError, match=r"study.json: expected a JSON object"):
        read(folder)
    (folder / "study.json").write_text("{}")
    whole = (folder / "examples.parquet").read_bytes()
    (folder / "examples.parquet").write_bytes(whole[:100])
    with pytest.raises(InputError, match=r"examples.parquet: cannot be read"):
        read(folder)
    pd.DataFrame({"id": ["a"]}).to_parquet(folder / "examples.parquet")
    with pytest.raises(InputError, match=r"examples.parquet: expected the columns experiment, .*found id"):
        read(folder)
    (folder / "examples.parquet").unlink()
    (folder / "costs.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"costs.csv: cannot be read as a CSV"):
        read(folder)


def test_kind() -> None:
    assert [kind(name) for name in ("budget", "quantile", "quantile:bins")] == ["budget", "quantile", "quantile"]


# ---- published tables ----------------------------------------------------------------------------------------------


def test_published_tables_by_their_columns(tmp_path: Path) -> None:
    found = foreign.read(made_tables(tmp_path / "t")).results
    assert list(found) == list(RESULT_COLUMNS)
    assert found.groupby("experiment").size().to_dict() == {"budget": 2 * 3 * 2 * 3 + 2, "quantile": 2 * 3 * 5}
    one = found[(found["target"] == "t2") & (found["method"] == "A") & (found["budget"] == "50") & (found["seed"] == 2)]
    assert one[["n_examples", "target_loss", "test_loss", "score"]].values.tolist() == [[50, 3.0, 5.0, 0.3]]
    assert set(found["method"]) == {"A", "B", "random", "zero-shot", *BINS}  # a baseline by its reserved name
    down = found[(found["method"] == "down") & (found["target"] == "t1")].sort_values("bin")
    assert down["target_loss"].tolist() == BINS["down"]
    assert down["score"].tolist() == [value / 100 for value in BINS["down"]]
    zero = found[found["method"] == "zero-shot"]
    assert zero[["target", "test_loss"]].values.tolist() == [[target, 9.5] for target in LOSSES]


def test_file_names_do_not_matter(tmp_path: Path) -> None:
    folder = made_tables(tmp_path / "t")
    before = foreign.read(folder).results
    for path in folder.iterdir():
        path.rename(folder / f"x{path.name}")
    pd.testing.assert_frame_equal(foreign.read(folder).results, before)
    (folder / "xbins_loss.csv").rename(folder / "losses.csv")
    (folder / "xbins_metric.csv").rename(folder / "accuracies.csv")
    pd.testing.assert_frame_equal(foreign.read(folder).results, before)


def test_experiments_of_one_kind_are_told_apart_by_what_their_files_share(tmp_path: Path) -> None:
    folder = made_tables(tmp_path / "t")
    for end in ("loss", "metric"):
        (folder / f"bins_near_{end}.csv").write_bytes((folder / f"bins_{end}.csv").read_bytes())
    found = foreign.read(folder).results
    assert set(found["experiment"]) == {"budget", "quantile:bins", "quantile:bins_near"}
    assert not found.loc[found["experiment"] != "budget", ["target_loss", "score"]].isna().any(axis=None)


def test_a_table_without_its_other_half(tmp_path: Path) -> None:
    folder = made_tables(tmp_path / "t")
    (folder / "bins_loss.csv").unlink()
    found = foreign.read(folder).results
    bins = found[found["experiment"] == "quantile"]
    assert bins["target_loss"].isna().all()
    assert bins["score"].notna().all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", r"more.csv: expected the columns dataset, .*found a, b"),
        ("dataset,method,bin\nt,A,0\n", r"more.csv: expected .*found dataset, method, bin"),
        ("dataset,method,bin,dev,test,size\nt,A,0,1,1,1\n", r"more.csv: expected .*found .*size"),
        ("dataset,method,bin,dev\nt,A,0,low\n", r"more.csv line 2: expected a number as dev, found 'low'"),
        ("dataset,method,bin,dev\nt,A,0,1\nt,A,0,2\n", r"more.csv line 3: expected each dataset, method, bin once"),
        ("dataset,method,bin,true_metric\nt,A,0,101\n", r"more.csv: expected a true_metric in percent"),
        ("dataset,test\nt,1\n", r"expected one model before fine-tuning, found results of several: more, zero"),
        ("", r"more.csv: cannot be read as a CSV"),
    ],
)
def test_what_is_no_table_of_results_is_named(tmp_path: Path, text: str, message: str) -> None:
    folder = made_tables(tmp_path / "t")
    (folder / "more.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        foreign.read(folder)


def test_no_table_at_all(tmp_path: Path) -> None:
    assert not foreign.is_foreign(tmp_path)
    with pytest.raises(InputError, match=r"found no \.csv"):
        foreign.read(tmp_path)


def test_the_published_study(shared: Path) -> None:
    found = foreign.read(shared / "data/published_study")
    assert found.results.groupby("experiment").size().to_dict() == {
        "budget": 5 * 8 * 5 * 3 + 5,
        "quantile:binning": 150,
        "quantile:sub_bin0_focus": 150,
    }
    assert not found.results[["target_loss", "test_loss", "score"]].isna().any(axis=None)
    assert "EMBED (RR)" in set(found.results["method"])
    assert len(found.manifest["files"]) == 8
    assert json.dumps(found.manifest)
    assert tables.kind("quantile:binning") == "quantile"
