"""A run whose pool, workspace and output are on an object store: the same files as on a disk, resumed, mended."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tamis.config import load_config
from tamis.errors import InputError, RemoteError, StoreError
from tamis.pipeline import Pipeline, select
from tamis.remote import RemotePath
from tamis.verify import verify_folder

Contents = Callable[..., dict[str, bytes]]


@pytest.fixture
def on_s3(s3: RemotePath, settings: dict[str, Any], pool_file: Path, target_file: Path) -> dict[str, Any]:
    """The settings of the finished run, with all its places in a bucket."""
    for file in (pool_file, target_file):
        (s3 / "data" / file.name).upload(file)
    return {
        **settings,
        "data.pool": f"{s3}/data/pool*.jsonl",
        "data.target": f"{s3}/data/target.jsonl",
        "workspace": f"{s3}/ws",
        "out": f"{s3}/out",
    }


def comparable(files: dict[str, bytes]) -> dict[str, Any]:
    """Locks and scratch left out; lists that PEFT writes in an order of the process's own, in order."""
    found: dict[str, Any] = {}
    for name, data in files.items():
        if name.endswith("adapter_config.json"):
            found[name] = {k: sorted(v) if isinstance(v, list) else v for k, v in json.loads(data).items()}
        elif not name.endswith("lock"):
            found[name] = data
    return found


def test_every_file_is_as_on_a_disk(
    on_s3: dict[str, Any], s3: RemotePath, finished: Path, contents: Contents, downloaded: Contents, recorder: Any
) -> None:
    first, second = recorder(), recorder()
    picked = select(load_config(None, on_s3), first)
    local = comparable(contents(finished / "ws"))
    assert comparable(downloaded(s3 / "ws")) == local
    written, expected = downloaded(s3 / "out"), contents(finished / "out")
    assert written.keys() == expected.keys()
    assert written["selected.jsonl"] == expected["selected.jsonl"]
    assert not any("tmp" in path.name or path.name == ".unfinished" for path in s3.rglob("*"))

    again = select(load_config(None, on_s3), second)
    assert [example.id for example in again.examples] == [example.id for example in picked.examples]
    assert set(second.n_todo.values()) == {0}
    assert "warm up" not in second.stages
    assert "score" not in second.stages


def test_a_table_of_picks_names_the_urls_and_its_settings_replay_it(
    on_s3: dict[str, Any], s3: RemotePath, cli: Callable[..., Any], tmp_path: Path, downloaded: Contents
) -> None:
    select(load_config(None, {**on_s3, "pick.method": "random"}))
    (tmp_path / "picks.parquet").write_bytes((s3 / "out" / "picks.parquet").read_bytes())
    assert set(pq.read_table(tmp_path / "picks.parquet")["file"].to_pylist()) == {f"{s3}/data/pool.jsonl"}
    (tmp_path / "config.yaml").write_bytes((s3 / "out" / "config.yaml").read_bytes())
    before = downloaded(s3 / "out")
    shown = cli("select", tmp_path / "config.yaml").stdout
    assert f"written to {s3}/out: selected.jsonl" in shown
    after = downloaded(s3 / "out")
    assert after["selected.jsonl"] == before["selected.jsonl"]
    assert after["config.yaml"] == before["config.yaml"]


@pytest.mark.parametrize(("stage", "n_advances"), [("warm up", 4), ("pool features 1/2", 2)])
def test_an_interrupted_run_goes_on_to_the_same_files(
    on_s3: dict[str, Any], s3: RemotePath, finished: Path, contents: Contents, downloaded: Contents, recorder: Any,
    stage: str, n_advances: int,
) -> None:  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        select(load_config(None, on_s3), recorder((stage, n_advances)))
    before = downloaded(s3 / "ws")
    assert not (s3 / "out").exists()
    if stage == "warm up":
        assert any(name.endswith("epoch-1/checkpoint.json") for name in before)
        assert not any("epoch-2" in name for name in before)
    again = recorder()
    select(load_config(None, on_s3), again)
    if stage == "warm up":
        assert any("1 done before" in note for note in again.notes)
    after = downloaded(s3 / "ws")
    kept = {name for name in before if name.endswith(".safetensors") and "trainer" not in name}
    assert kept
    assert all(after[name] == before[name] for name in kept)
    assert comparable(after) == comparable(contents(finished / "ws"))


@pytest.mark.parametrize("damage", ["a byte of the features", "cut short", "not a shard", "empty"])
def test_a_damaged_shard_is_named_set_aside_and_made_again(
    on_s3: dict[str, Any], s3: RemotePath, cli: Callable[..., Any], downloaded: Contents, damage: str
) -> None:
    select(load_config(None, on_s3))
    expected = downloaded(s3 / "ws")
    shard = next(path for path in (s3 / "ws" / "features").rglob("*.safetensors") if path.stat().st_size > 1500)
    data = bytearray(shard.read_bytes())
    where = len(data) - 16 * 8 - 40  # features stand before the ids
    data[where] ^= 1
    wrong = {"a byte of the features": data, "cut short": data[:-100], "not a shard": b"x" * 300, "empty": b""}
    shard.write_bytes(bytes(wrong[damage]))
    if damage != "a byte of the features":
        with pytest.raises(StoreError, match=rf"{shard}: damaged shard .*Run `tamis verify {shard.parent}`"):
            Pipeline(load_config(None, on_s3)).represent_all()
    shown = cli("verify", s3 / "ws", code=1).stdout
    assert f"damaged: {shard}.damaged: " in " ".join(shown.split())
    assert "1 damaged" in shown
    assert not shard.exists()
    select(load_config(None, on_s3))
    after = downloaded(s3 / "ws")
    assert after.pop(f"{shard.relative(s3 / 'ws')}.damaged") == bytes(wrong[damage])
    assert after == expected
    assert "0 damaged" in cli("verify", s3 / "ws").stdout
    shown = cli("store", "gc", s3 / "ws", "--yes").stdout
    assert f"{shard}.damaged: set aside as damaged" in shown
    assert downloaded(s3 / "ws") == expected


def test_damaged_checkpoints_and_similarities_are_found_although_copies_are_whole(
    on_s3: dict[str, Any], s3: RemotePath
) -> None:
    select(load_config(None, on_s3))
    [matrix] = (s3 / "ws" / "similarity").glob("*.npy")
    adam = next((s3 / "ws" / "checkpoints").rglob("adam.safetensors"))
    for path in (matrix, adam):
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(bytes(data))
    _, damaged = verify_folder(s3 / "ws")
    assert {str(path) for path, _ in damaged} == {f"{matrix}.damaged", str(adam.parent)}
    assert all(str(s3 / "ws") in reason for _, reason in damaged)


def test_what_a_store_holds(on_s3: dict[str, Any], s3: RemotePath, finished: Path, cli: Callable[..., Any]) -> None:
    select(load_config(None, on_s3))
    assert cli("store", "info", s3 / "ws").stdout == cli("store", "info", finished / "ws").stdout
    assert cli("store", "gc", s3 / "ws").stdout == "nothing to delete\n"
    store = next(path for path in (s3 / "ws" / "features").iterdir())
    assert "shards made" in cli("store", "convert", store, "--dtype", "int8").stdout
    assert "were there" in cli("store", "convert", store, "--dtype", "int8").stdout
    assert "0 damaged" in cli("verify", s3 / "ws").stdout


# ---- outputs ---------------------------------------------------------------------------------------------------------


def test_an_older_selection_is_replaced_and_a_foreign_folder_is_not(
    on_s3: dict[str, Any], s3: RemotePath, downloaded: Contents
) -> None:
    changes = {**on_s3, "pick.method": "random"}
    select(load_config(None, changes))
    names = downloaded(s3 / "out").keys()
    (s3 / "out" / "old.txt").write_bytes(b"of an older version")
    select(load_config(None, {**changes, "seed": 1}))
    assert downloaded(s3 / "out").keys() == names
    (s3 / "mine" / "thesis.txt").write_bytes(b"years of work")
    with pytest.raises(InputError, match=r"mine: this folder holds files that are no tamis selection"):
        select(load_config(None, {**changes, "out": f"{s3}/mine"}))
    with pytest.raises(InputError, match=r"thesis.txt: expected a folder to write to, found a file"):
        select(load_config(None, {**changes, "out": f"{s3}/mine/thesis.txt"}))
    assert downloaded(s3 / "mine") == {"thesis.txt": b"years of work"}
    with pytest.raises(RemoteError, match=r"s3://no-such-bucket.* cannot be written"):
        select(load_config(None, {**changes, "out": "s3://no-such-bucket/out"}))


def test_an_upload_that_broke_off_is_no_selection_and_is_replaced(
    on_s3: dict[str, Any], s3: RemotePath, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any], tmp_path: Path
) -> None:
    changes = {**on_s3, "pick.method": "random"}
    select(load_config(None, changes))
    upload, n_left = RemotePath.upload, [3]

    def breaks_off(path: RemotePath, source: Path) -> None:
        n_left[0] -= 1
        if n_left[0] < 0:
            raise KeyboardInterrupt
        upload(path, source)

    with monkeypatch.context() as broken:
        broken.setattr(RemotePath, "upload", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            select(load_config(None, {**changes, "seed": 1}))
    shown = cli("export", s3 / "out", "--for", "messages", "--out", tmp_path / "messages", code=2)
    assert "it has no manifest.json" in shown.stderr
    select(load_config(None, {**changes, "seed": 1}))
    assert not (s3 / "out" / ".unfinished").exists()
    assert "written to" in cli("export", s3 / "out", "--for", "messages", "--out", tmp_path / "messages").stdout


def test_a_model_and_a_given_warm_up_may_be_urls(
    on_s3: dict[str, Any], s3: RemotePath, tiny_model: Path, finished: Path, contents: Contents, downloaded: Contents
) -> None:
    for file in (file for file in tiny_model.rglob("*") if file.is_file()):
        (s3 / "model" / str(file.relative_to(tiny_model))).upload(file)
    for file in (file for file in (finished / "ws" / "checkpoints").rglob("epoch-*/*")):
        (s3 / "warm" / str(file.relative_to(finished / "ws" / "checkpoints"))).upload(file)
    [warm] = (s3 / "warm").iterdir()
    changes = {"model.name": f"{s3}/model", "warmup.checkpoints": str(warm)}
    select(load_config(None, {**on_s3, **changes}))
    expected = {name: data for name, data in contents(finished / "ws").items() if name.startswith("features")}
    assert {name: data for name, data in downloaded(s3 / "ws").items() if name.startswith("features")} == expected


def test_training_on_a_selection_of_a_bucket(
    on_s3: dict[str, Any], s3: RemotePath, cli: Callable[..., Any], tmp_path: Path, finished: Path
) -> None:
    select(load_config(None, on_s3))
    words = ["finetune.epochs=2", "finetune.batch_size=2", "finetune.learning_rate=1e-2", "--progress", "plain"]
    cli("finetune", finished / "out", *words, "--out", tmp_path / "tuned", "--workspace", tmp_path / "ws")
    shown = cli("finetune", s3 / "out", *words, "--out", s3 / "tuned", "--workspace", s3 / "ws").stdout
    assert f"written to {s3}/tuned: an adapter" in shown
    name = "adapter_model.safetensors"
    assert (s3 / "tuned" / name).read_bytes() == (tmp_path / "tuned" / name).read_bytes()
    assert list((s3 / "ws" / "finetune").rglob("*.safetensors")) == []
    shown = cli("evaluate", "--model", on_s3["model.name"], "--adapter", s3 / "tuned",
                "--test", on_s3["data.target"], "--out", s3 / "evaluated").stdout  # fmt: skip
    assert "loss" in shown
    assert (s3 / "evaluated" / "manifest.json").exists()
    shown = cli("compare", f"there={s3 / 'out'}", f"here={finished / 'out'}").stdout
    assert "there" in shown
    assert "here" in shown


# ---- what can only be local ------------------------------------------------------------------------------------------


def test_a_url_is_refused_where_a_folder_has_to_be_local(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = cli("demo", "--out", "s3://b/demo", code=2).stderr
    assert re.fullmatch(r"tamis: s3://b/demo: expected a local folder for [^\n]*\n", said)
    assert list(tmp_path.iterdir()) == []
