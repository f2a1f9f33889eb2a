"""Studies, reports, comparisons and exports whose folders are on an object store: as on a disk, whole or absent."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from tamis.config import load_config
from tamis.errors import InputError, RemoteError
from tamis.pipeline import select
from tamis.remote import RemotePath
from tamis.remote.cache import download
from tamis.remote.folders import edited
from tamis.study.page import write_report
from tamis.study.run import Study
from tamis.study.settings import load_study

Contents = Callable[..., dict[str, bytes]]
MEASURED = {"costs.csv", "report.html", "manifest.json"}  # seconds, and what says where files are
REMADE = ("examples.parquet", "results.csv", "composition.csv", "shown.json", "picks.parquet")


@pytest.fixture(scope="module")
def grid(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A study of two methods and one baseline at one budget with two seeds."""
    folder = tmp_path_factory.mktemp("rows")
    lines = Path(settings["data.target"]).read_text().splitlines()
    (folder / "query.jsonl").write_text("\n".join(lines[:2]))
    (folder / "test.jsonl").write_text("\n".join(lines[2:]))
    of_run = {key: value for key, value in settings.items() if key not in ("data.target", "pick.budget")}
    return {
        **of_run,
        "finetune.steps": 2,
        "finetune.batch_size": 2,
        "finetune.learning_rate": 1e-2,
        "finetune.lora_rank": 4,
        "finetune.lora_alpha": 8,
        "study.targets": {"few": {"query": str(folder / "query.jsonl"), "test": str(folder / "test.jsonl")}},
        "study.methods": ["less", "bm25"],
        "study.baselines": ["zero-shot", "random"],
        "study.budgets": ["4"],
        "study.seeds": [0, 1],
    }


@pytest.fixture(scope="module")
def done(grid: dict[str, Any], recorder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the workspace `ws` and the study `out`, on a disk. Not to be changed."""
    folder = tmp_path_factory.mktemp("study")
    Study(load_study(None, {**grid, "workspace": str(folder / "ws")}), recorder()).run(folder / "out")
    return folder


def put_there(folder: Path, to: RemotePath) -> RemotePath:
    for file in (file for file in folder.rglob("*") if file.is_file()):
        (to / str(file.relative_to(folder))).upload(file)
    return to


@pytest.fixture
def study(done: Path, s3: RemotePath) -> RemotePath:
    """A copy of the finished study in a bucket."""
    return put_there(done / "out", s3 / "study")


# ---- a study -----------------------------------------------------------------------------------------------------


def test_a_study_in_a_bucket_is_the_one_on_a_disk_and_goes_on(
    done: Path, s3: RemotePath, cli: Callable[..., Any], contents: Contents, downloaded: Contents
) -> None:
    places = ("--workspace", s3 / "ws", "--out", s3 / "out", "--progress", "plain")
    shown = cli("study", done / "out" / "config.yaml", *places)
    assert f"written to {s3}/out: report.html" in shown.stdout
    assert "0 found, 7 to compute" in shown.stderr
    there, here = downloaded(s3 / "out"), contents(done / "out")
    assert there.keys() == here.keys()
    assert {"results.csv", "study.json", "report.html", "tables/ranks.csv"} <= there.keys()
    for name in REMADE:
        assert there[name] == here[name], name
    assert len(pd.read_csv(done / "out" / "results.csv")) == 7
    assert [path.name for path in s3.iterdir()] == ["out", "ws"]  # neither locks nor scratch beside them

    (s3 / "out" / "notes.txt").write_bytes(b"mine")
    shown = cli("study", done / "out" / "config.yaml", *places, "study.seeds=[0,1,2]")
    assert "7 found, 3 to compute" in shown.stderr
    results = pd.read_csv((s3 / "out" / "results.csv").open())
    assert len(results) == 10
    assert (s3 / "out" / "notes.txt").read_bytes() == b"mine"
    assert not (s3 / "out" / ".unfinished").exists()


def test_two_processes_share_a_study_in_a_bucket(
    grid: dict[str, Any], s3: RemotePath, done: Path, recorder: Any, downloaded: Contents
) -> None:
    config = load_study(None, {**grid, "workspace": f"{s3}/ws"})
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(Study(config, recorder()).run, s3 / "out") for _ in range(2)]
    assert both[0].result() == both[1].result()
    there = downloaded(s3 / "out")
    assert there["results.csv"] == (done / "out" / "results.csv").read_bytes()
    assert json.loads(there["study.json"])["n_pending"] == 0


def test_an_upload_that_broke_off_is_no_study_and_is_written_again(
    grid: dict[str, Any], done: Path, study: RemotePath, cli: Callable[..., Any], recorder: Any,
    monkeypatch: pytest.MonkeyPatch, downloaded: Contents,
) -> None:  # fmt: skip
    upload, n_left = RemotePath.upload, [2]

    def breaks_off(path: RemotePath, source: Path) -> None:
        n_left[0] -= 1
        if n_left[0] < 0:
            raise KeyboardInterrupt
        upload(path, source)

    config = load_study(None, {**grid, "workspace": str(done / "ws")})
    before = downloaded(study)
    with monkeypatch.context() as broken:
        broken.setattr(RemotePath, "upload", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            Study(config, recorder()).run(study)
    assert not (study / "study.json").exists()
    said = cli("report", study, code=2).stderr
    assert "expected a whole folder, but its upload broke off" in " ".join(said.split())
    Study(config, recorder()).run(study)
    assert downloaded(study).keys() == before.keys()


def test_a_study_takes_no_foreign_place(grid: dict[str, Any], s3: RemotePath, recorder: Any, tmp_path: Path) -> None:
    (s3 / "mine" / "thesis.txt").write_bytes(b"years of work")
    study = Study(load_study(None, {**grid, "workspace": str(tmp_path / "ws")}), recorder())
    for place in (s3 / "mine", s3 / "mine" / "thesis.txt"):
        with pytest.raises(InputError, match=rf"{place}: this holds something else than a study"):
            study.run(place)
    with pytest.raises(RemoteError, match=r"s3://no-such-bucket.* cannot be written"):  # before hours of work
        study.run(RemotePath("s3://no-such-bucket/out"))
    assert not (tmp_path / "ws").exists()


# ---- reports -----------------------------------------------------------------------------------------------------


def test_the_report_of_a_study_is_made_anew_in_its_folder(
    study: RemotePath, done: Path, cli: Callable[..., Any], downloaded: Contents
) -> None:
    (study / "report.html").write_bytes(b"old")
    (study / "tables" / "old.csv").write_bytes(b"of an older version")
    manifest = (study / "study.json").stat()
    shown = cli("report", study).stdout
    assert shown.endswith(f"written to {study}: report.html, figures/, tables/\n")
    there = downloaded(study)
    assert there["report.html"] == (done / "out" / "report.html").read_bytes()
    assert "tables/old.csv" not in there
    assert (study / "study.json").stat() == manifest  # nothing that did not change is written


@pytest.mark.parametrize("where", ["here to there", "there to here", "there to there"])
def test_the_report_of_a_study_in_another_place(
    where: str, done: Path, study: RemotePath, s3: RemotePath, tmp_path: Path, cli: Callable[..., Any],
    contents: Contents, downloaded: Contents,
) -> None:  # fmt: skip
    source, _, to = where.split()
    out = s3 / "page" if to == "there" else tmp_path / "page"
    write_report(done / "out", tmp_path / "expected")
    before = downloaded(study)
    cli("report", study if source == "there" else done / "out", "--out", out)
    made = downloaded(out) if isinstance(out, RemotePath) else contents(out)
    assert made == contents(tmp_path / "expected")
    assert downloaded(study) == before
    if source == "there":
        assert cli("report", study, "--out", study).exit_code == 0  # the same as without


def test_a_report_that_broke_off_leaves_the_study(
    study: RemotePath, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks_off(path: RemotePath, source: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(RemotePath, "upload", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            write_report(study)
    cli("report", study)
    assert (study / "study.json").exists()


def test_a_damaged_study_is_named_by_its_url(study: RemotePath, cli: Callable[..., Any], tmp_path: Path) -> None:
    (study / "results.csv").write_bytes(b"method,loss\nless,1\n")
    for words in ((), ("--out", tmp_path / "page")):
        assert f"tamis: {study}/results.csv" in cli("report", study, *words, code=2).stderr
    said = cli("report", f"{study}-none", code=2).stderr
    assert f"{study}-none: expected the folder of a study, a selection or result tables, found nothing" in said


def test_the_report_of_a_selection_and_of_tables_of_others(
    finished: Path, s3: RemotePath, cli: Callable[..., Any], downloaded: Contents
) -> None:
    selection = put_there(finished / "out", s3 / "picked")
    before = downloaded(selection)
    (selection / "report.html").unlink()
    assert f"written to {selection}: " in cli("report", selection).stdout
    after = downloaded(selection)
    assert after["report.html"] == before["report.html"]
    assert {name: after[name] for name in before} == before
    assert any(name.endswith(".pdf") for name in after.keys() - before.keys())

    rows = [f"t,{method},10,{seed},{seed + 1}.5,{seed + 2}.5" for method in ("a", "random") for seed in (0, 1, 2)]
    (s3 / "theirs" / "all.csv").write_bytes("\n".join(["dataset,method,num_samples,seed,dev,test", *rows]).encode())
    assert f"written to {s3}/theirs-report: " in cli("report", s3 / "theirs").stdout
    assert (s3 / "theirs-report" / "report.html").exists()
    said = cli("report", s3 / "theirs", "--out", s3 / "theirs" / "page", code=2).stderr
    assert "a report is not written among the tables it is on" in said


# ---- comparisons and exports -------------------------------------------------------------------------------------


def test_a_comparison_is_written_to_a_bucket_and_tells_of_urls(
    finished: Path, s3: RemotePath, cli: Callable[..., Any]
) -> None:
    first, second = put_there(finished / "out", s3 / "a" / "out"), put_there(finished / "out", s3 / "b" / "out")
    shown = cli("compare", first, second, "--out", s3 / "page").stdout
    assert f"written to {s3}/page: agreement.csv" in shown
    found = json.loads((s3 / "page" / "manifest.json").read_text())
    assert found == {"selections": {"a/out": str(first), "b/out": str(second)}}
    assert b"1.0" in (s3 / "page" / "agreement.csv").read_bytes()
    said = cli("compare", first, second, "--out", first, code=2).stderr
    assert f"{first}: this folder holds a selection, which would be replaced" in " ".join(said.split())


@pytest.mark.parametrize("trainer", ["llama-factory", "axolotl", "trl", "messages", "parquet"])
def test_an_export_in_a_bucket_is_read_from_a_copy(
    trainer: str, settings: dict[str, Any], s3: RemotePath, cli: Callable[..., Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    select(load_config(None, {**settings, "pick.method": "random", "workspace": "ws", "out": f"{s3}/picked"}))
    cli("export", s3 / "picked", "--for", trainer, "--out", tmp_path / "local" / "data")
    shown = cli("export", s3 / "picked", "--for", trainer, "--out", s3 / "data").stdout
    assert f"written to {s3}/data: " in shown
    assert f"use: copy {s3}/data to ./data, then `" in shown
    assert f"copy {s3}/data" in (s3 / "data" / "README.md").read_text()
    download(s3 / "data", tmp_path / "data")
    for path in sorted((tmp_path / "local" / "data").iterdir()):
        copy = tmp_path / "data" / path.name
        if path.name not in ("README.md", "axolotl.yaml"):
            assert copy.read_bytes() == path.read_bytes()
    assert not any(str(tmp_path) in path.read_text() for path in (tmp_path / "data").glob("*.yaml"))
    if trainer == "axolotl":
        given = yaml.safe_load((tmp_path / "data" / "axolotl.yaml").read_text())
        assert pq.read_table(given["datasets"][0]["path"]).num_rows == 6
    assert "holds a selection" in cli("export", s3 / "picked", "--for", trainer, "--out", s3 / "picked", code=2).stderr
    assert f"{s3}/none" in cli("export", s3 / "none", "--for", trainer, code=2).stderr


# ---- the way it is done ------------------------------------------------------------------------------------------


def test_what_an_edit_changes_is_changed_there_and_nothing_else(s3: RemotePath, downloaded: Contents) -> None:
    for name in ("whole", "a", "b", "deep/c", "deep/d"):
        (s3 / "x" / name).write_bytes(name.encode())
    times = [(s3 / "x" / name).stat().st_mtime for name in ("whole", "b", "deep/d")]
    with edited(s3 / "x", "whole") as here:
        (here / "a").write_bytes(b"a new")
        (here / "deep" / "c").unlink()
        (here / "deep" / "e").write_bytes(b"e")
    expected = {"whole": b"whole", "a": b"a new", "b": b"b", "deep/d": b"deep/d", "deep/e": b"e"}
    assert downloaded(s3 / "x") == expected
    assert [(s3 / "x" / name).stat().st_mtime for name in ("whole", "b", "deep/d")] == times

    def fail() -> None:
        with edited(s3 / "x", "whole") as here:
            (here / "a").write_bytes(b"lost")
            raise InputError(f"{here / 'a'}: no")

    with pytest.raises(InputError, match=r"^s3://bucket-\d+/x/a: no$"):
        fail()
    assert downloaded(s3 / "x") == expected


@pytest.mark.parametrize("key", ["x//tmp/tamis-escaped", "x/../../tamis-escaped"])
def test_no_key_leads_out_of_the_folder(s3: RemotePath, tmp_path: Path, key: str) -> None:
    RemotePath(f"{s3}/{key}").write_bytes(b"from outside")
    with pytest.raises(RemoteError, match="expected a file below"):
        download(s3 / "x", tmp_path / "a" / "b" / "x")
    assert list(tmp_path.rglob("tamis-escaped")) == []
    assert not Path("/tmp/tamis-escaped").exists()
