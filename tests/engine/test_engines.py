"""What every engine keeps to: the same suite over the one of this process and the one of Ray's workers."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pytest

import tamis.pipeline
from tamis.config import load_config
from tamis.engine import Engine
from tamis.engine.local import LocalEngine
from tamis.errors import EngineError, InputError, ModelError
from tamis.pipeline import Pipeline
from tamis.progress import Silent, Told
from tamis.study.run import Study
from tamis.study.settings import load_study

KINDS = ("local", "ray")
Worker = Callable[[int, Told], int]


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "local":
        return LocalEngine(1)
    found: Engine = request.getfixturevalue("ray_engine")
    return found


class Listener:
    """Adds up what it is told."""

    def __init__(self) -> None:
        self.done = 0
        self.notes: list[str] = []

    def advance(self, n_tokens: int) -> None:
        self.done += n_tokens

    @property
    def told(self) -> Told:
        return Told(self.advance, self.notes.append)


def squares() -> Worker:
    def work(task: int, told: Told) -> int:
        told.advance(task)
        told.note(f"task {task}")
        return task * task

    return work


# ---- the contract --------------------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_tasks_and_all_is_told(engine: Engine) -> None:
    listener = Listener()
    assert list(engine.run(squares, [3, 1, 2, 9, 4], listener.told)) == [9, 1, 4, 81, 16]
    assert listener.done == 19
    assert sorted(listener.notes) == [f"task {n}" for n in (1, 2, 3, 4, 9)]


def test_no_worker_is_made_for_no_task(engine: Engine) -> None:
    def make() -> Worker:
        pytest.fail("a model was loaded for nothing")

    assert list(engine.run(make, [], Told())) == []


def test_a_worker_is_made_once_a_process(engine: Engine, tmp_path: Path) -> None:
    def make() -> Worker:
        (tmp_path / f"made-{os.getpid()}").touch(exist_ok=False)
        return squares()

    assert list(engine.run(make, range(8), Told())) == [n * n for n in range(8)]
    assert len(list(tmp_path.iterdir())) == (1 if isinstance(engine, LocalEngine) else 2)


class Lazy(Sequence[int]):
    """Tasks that are made when they are asked for; the one at `bad` cannot be."""

    def __init__(self, n: int, bad: int | None = None) -> None:
        self.n, self.bad = n, bad
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, number: int) -> int: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[int]: ...
    def __getitem__(self, number: Any) -> Any:
        if number >= self.n:
            raise IndexError
        self.asked.append(number)
        if number == self.bad:
            raise InputError("pool.jsonl: the file is gone")
        return number


def test_tasks_are_made_when_workers_are_free_for_them(engine: Engine) -> None:
    tasks = Lazy(12)
    results = engine.run(squares, tasks, Told())
    assert [next(results), next(results)] == [0, 1]
    results.close()  # type: ignore[attr-defined]  # a generator
    assert len(tasks.asked) < 12
    tasks = Lazy(3)
    assert list(engine.run(squares, tasks, Told())) == [0, 1, 4]
    assert sorted(tasks.asked) == [0, 1, 2]


def test_a_task_that_cannot_be_made_ends_the_run_with_its_error(engine: Engine) -> None:
    with pytest.raises(InputError, match="the file is gone"):
        list(engine.run(squares, Lazy(4, bad=2), Told()))


def test_an_error_of_tamis_ends_the_run_as_it_is(engine: Engine, tmp_path: Path) -> None:
    def make() -> Worker:
        def work(task: int, _: Told) -> int:
            with (tmp_path / "tries").open("a") as file:
                file.write("x")
            raise ModelError(f"layer {task} has no gradient")

        return work

    with pytest.raises(ModelError, match="layer 7 has no gradient"):
        list(engine.run(make, [7], Told()))
    assert (tmp_path / "tries").read_text() == "x"


def test_a_worker_that_cannot_be_made_ends_the_run(engine: Engine) -> None:
    def make() -> Worker:
        raise InputError("no such model")

    with pytest.raises(InputError, match="no such model"):
        list(engine.run(make, [1, 2], Told()))


def test_a_bug_is_shown_with_its_place(engine: Engine) -> None:
    def make() -> Worker:
        def work(task: int, _: Told) -> int:
            return [1, 2][task]

        return work

    with pytest.raises(IndexError) as caught:
        list(engine.run(make, [5], Told()))
    shown = "".join([*getattr(caught.value, "__notes__", []), str(caught.traceback)])
    assert __file__ in shown


# ---- whole runs ----------------------------------------------------------------------------------------------------


def stores(workspace: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(workspace)): path.read_bytes()
        for part in ("features", "similarity")
        for path in (workspace / part).rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.fixture
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Similarities and clusters of any size are left to the engine."""
    monkeypatch.setattr(tamis.pipeline, "_WORTH_WORKERS", 0)


@pytest.mark.usefixtures("worth_it")
def test_stores_are_the_same_bytes_and_picks_the_same(
    engine: Engine, settings: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    changes = {"workspace": str(tmp_path / "ws"), "represent.shard_rows": 3}
    there = Pipeline(load_config(None, {**settings, **changes}), None, engine).pick()
    here = Pipeline(load_config(None, {**settings, **changes, "workspace": str(tmp_path / "here")})).pick()
    assert stores(tmp_path / "ws") == stores(tmp_path / "here")
    assert there.ids == here.ids
    assert there.scores == here.scores
    assert there.manifest["stores"] == here.manifest["stores"]
    n_shards = len(list((tmp_path / "ws" / "features").rglob("*.safetensors")))
    assert n_shards == 2 * (2 + -(-19 // 3))  # 4 target rows and 19 pool rows at 2 checkpoints


@pytest.mark.usefixtures("worth_it")
@pytest.mark.parametrize("method", ["rds+tagcos", "ngrams+tagcos", "loss"])
def test_other_methods_pick_the_same(engine: Engine, method: str, settings: dict[str, Any], tmp_path: Path) -> None:
    asked = {**settings, "pick.method": method, "workspace": str(tmp_path / "ws")}
    if method.endswith("tagcos"):
        asked["pick.options"] = {"n_clusters": 3}
    there = Pipeline(load_config(None, asked), None, engine).pick()
    here = Pipeline(load_config(None, {**asked, "workspace": str(tmp_path / "here")})).pick()
    assert (there.ids, there.scores, there.weights) == (here.ids, here.scores, here.weights)
    assert stores(tmp_path / "ws") == stores(tmp_path / "here")


def test_a_study_finds_the_same(engine: Engine, settings: dict[str, Any], tmp_path: Path) -> None:
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"prompt": "How much is 6 and 2?", "completion": "It is 8."}) + "\n")
    target = {"query": settings["data.target"], "test": str(test), "task": "exact_match"}
    grid = {
        **{key: value for key, value in settings.items() if key not in ("data.target", "pick.budget")},
        **{"study.methods": ["rds+top_k"], "study.baselines": ["zero-shot", "random"], "study.budgets": ["4"]},
        **{"study.targets": {"few": target}, "study.seeds": [0], "evaluate.max_new_tokens": 4},
        **{"finetune.epochs": 1, "finetune.batch_size": 2, "finetune.micro_batch_size": 1, "finetune.lora_rank": 2},
    }
    for name, chosen in (("there", engine), ("here", LocalEngine())):
        study = Study(load_study(None, {**grid, "workspace": str(tmp_path / name / "ws")}), Silent(), chosen)
        study.run(tmp_path / name / "out")
    for table in ("results.csv", "examples.parquet", "picks.parquet"):
        assert (tmp_path / "there" / "out" / table).read_bytes() == (tmp_path / "here" / "out" / table).read_bytes()
    assert len((tmp_path / "there" / "out" / "results.csv").read_text().splitlines()) == 1 + 3


def test_settings_choose_the_engine(settings: dict[str, Any]) -> None:
    def chosen(**changes: Any) -> Any:
        config = load_config(None, {**settings, **{f"engine.{key}": value for key, value in changes.items()}})
        return Pipeline(config).engine

    assert chosen() == LocalEngine(None)
    assert chosen(threads_per_worker=2) == LocalEngine(2)
    assert type(chosen(workers=2)).__name__ == "RayEngine"
    assert chosen(workers="2-4", threads_per_worker=3).workers == (2, 4)
    assert chosen(address="auto").address == "auto"
    assert chosen(kind="ray").workers is None
    for wrong in ({"kind": "local", "workers": 2}, *({"workers": n} for n in ("4-2", 0, "many", "-3", "2-"))):
        with pytest.raises(InputError, match="engine"):
            chosen(**wrong)


# ---- workers that are lost -----------------------------------------------------------------------------------------


def once(flag: Path, then: Callable[[], None]) -> None:
    """Do something in the first attempt at a task alone."""
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        return
    then()


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_task_of_a_killed_worker_is_done_by_another(ray_engine: Engine, tmp_path: Path) -> None:
    def make() -> Worker:
        def work(task: int, told: Told) -> int:
            told.advance(10)
            if task == 3:
                once(tmp_path / "killed", kill_me)
            return task

        return work

    listener = Listener()
    assert list(ray_engine.run(make, range(8), listener.told)) == list(range(8))
    assert (tmp_path / "killed").exists()
    assert listener.done == 80  # what the lost worker told of its task does not count twice


def test_a_task_that_kills_every_worker_ends_the_run(ray_engine: Engine) -> None:
    def make() -> Worker:
        def work(task: int, _: Told) -> int:
            if task == 1:
                kill_me()
            return task

        return work

    with pytest.raises(EngineError, match="task 1 was begun 3 times and cost each worker its life"):
        list(ray_engine.run(make, range(3), Told()))


def test_a_task_that_fails_is_tried_again_with_a_new_worker(ray_engine: Engine, tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("the network blinked")

    def make() -> Worker:
        (tmp_path / f"made-{len(list(tmp_path.glob('made-*')))}-{os.getpid()}").touch()

        def work(task: int, told: Told) -> int:
            told.advance(5)
            once(tmp_path / "failed", fail)
            return task

        return work

    listener = Listener()
    assert list(ray_engine.run(make, [4], listener.told)) == [4]
    assert len(list(tmp_path.glob("made-*"))) == 2
    assert listener.done == 5
    [note] = listener.notes
    assert "OSError: the network blinked; tried again" in note


def test_a_killed_worker_leaves_the_store_as_it_would_have_been(
    ray_engine: Engine, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"represent.shard_rows": 2, "warmup.epochs": 0}
    real = tamis.representing.fill_in_turn

    def killing(makers: Any) -> Any:
        work = real(makers)

        def killed_once(task: Any, told: Told) -> int:
            if task[1][0].row > 10:
                once(tmp_path / "killed", kill_me)
            return work(task, told)

        return killed_once

    monkeypatch.setattr(tamis.representing, "fill_in_turn", killing)
    asked = {**settings, **changes}
    there = Pipeline(load_config(None, {**asked, "workspace": str(tmp_path / "ws")}), None, ray_engine).pick()
    monkeypatch.undo()
    assert (tmp_path / "killed").exists()
    here = Pipeline(load_config(None, {**asked, "workspace": str(tmp_path / "here")})).pick()
    assert stores(tmp_path / "ws") == stores(tmp_path / "here")
    assert there.ids == here.ids
    assert not list((tmp_path / "ws").rglob(".*.tmp"))


def test_a_store_that_the_worker_does_not_see_is_an_error(
    ray_engine: Engine, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tamis.representing.fill_in_turn

    def elsewhere(makers: Any) -> Any:  # as on a host where the folder is another one
        for maker in makers:
            for store in maker.args[1]:
                (store.folder / "recipe.json").unlink(missing_ok=True)
        return real(makers)

    monkeypatch.setattr(tamis.representing, "fill_in_turn", elsewhere)
    asked = {**settings, "warmup.epochs": 0, "workspace": str(tmp_path / "ws")}
    with pytest.raises(tamis.errors.StoreError, match=r"no feature store here.*on host"):
        Pipeline(load_config(None, asked), None, ray_engine).pick()


def test_arrays_come_back_as_they_were(engine: Engine) -> None:
    def make() -> Callable[[int, Told], np.ndarray]:
        return lambda task, _: np.arange(task, dtype=np.float32)

    results: Iterator[np.ndarray] = engine.run(make, [3, 200_000], Told())
    assert [len(result) for result in results] == [3, 200_000]
