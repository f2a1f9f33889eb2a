"""A selection's folder: what is in it, and that it is whole or as it was."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tamis.data.files import read
from tamis.data.selection import Selection, check_free, writing_folder
from tamis.errors import InputError


@pytest.fixture
def selection(write) -> Selection:
    rows = [{"question": f"q{k}", "answer": "a", **({"id": 7} if k else {})} for k in (0, 1)]
    examples = read([write("pool.jsonl", *rows)]).examples[::-1]
    return Selection(examples, [0.5, 0.25], [2.0, 1.0], ["t", None], [3, 4], {})


def test_what_is_saved(selection: Selection, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    selection.save(tmp_path / "out", {"é": 1}, "seed: 0\n")
    table = pq.read_table(tmp_path / "out" / "picks.parquet").to_pydict()
    assert table["row"] == [2, 1]
    assert table["row_id"] == ["7", None]
    assert (table["rank"], table["score"], table["weight"]) == ([1, 2], [0.5, 0.25], [2.0, 1.0])
    assert (table["tokens"], table["target"], table["source"]) == ([3, 4], ["t", None], ["pool", "pool"])
    assert table["id"] == selection.ids
    assert json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")) == {"é": 1}
    assert (tmp_path / "out" / "config.yaml").read_text() == "seed: 0\n"
    assert len((tmp_path / "out" / "selected.jsonl").read_text().splitlines()) == len(selection) == 2


def test_a_folder_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    for name in ("first", "second"):
        with writing_folder(out) as folder:
            (folder / "manifest.json").write_text(name)
            (folder / name).touch()
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "second"]

    with writing_folder(out) as folder:
        (folder / "manifest.json").write_text("second")
        (folder / "second").mkdir()
        (folder / "second" / "file").touch()
    assert (out / "second" / "file").exists()

    def fail() -> None:
        with writing_folder(out) as folder:
            (folder / "third").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "second"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_earlier_selection_is_not_lost_when_the_new_one_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with writing_folder(out) as folder:
        (folder / "manifest.json").write_text("first")
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if target == out:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output"), writing_folder(out) as folder:
        (folder / "manifest.json").write_text("second")
    assert [path.read_text() for path in tmp_path.glob(".*/manifest.json")] == ["first"]


def test_only_free_folders_are_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    check_free(tmp_path / "empty")
    check_free(tmp_path / "none")
    (tmp_path / "empty" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"no tamis selection \(no manifest.json\); choose another --out"):
        check_free(tmp_path / "empty")
    with pytest.raises(InputError, match="expected a folder to write to, found a file"):
        check_free(tmp_path / "empty" / "thesis.tex")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for here in (".", "..", str(tmp_path / "work")):
        with pytest.raises(InputError, match="a selection replaces its folder, and this one is in use"):
            check_free(Path(here))
