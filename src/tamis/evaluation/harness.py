"""lm-eval's tasks on a model in memory, offline where the tasks' data are: see `harness_tasks` for files of one's own.

lm-eval (EleutherAI/lm-evaluation-harness) makes the prompts, reads the answers and scores; conversations are written by
the same chat template as everywhere in tamis, and answers end where tamis ends them (`generate.Stops`).
"""

import copy
import difflib
import importlib.util
import io
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tamis.data.chat import Chat
from tamis.errors import InputError
from tamis.evaluation.generate import Stops


@dataclass(frozen=True, slots=True)
class HarnessResults:
    """By task: its metrics with their standard errors as lm-eval names them, its version, and every sample."""

    metrics: dict[str, dict[str, Any]]
    versions: dict[str, Any]
    samples: dict[str, list[dict[str, Any]]]

    def save(self, folder: Path) -> None:
        """Write harness.json, and harness/TASK.jsonl with what was asked, answered and scored, row by row."""
        (folder / "harness").mkdir()
        for task, samples in self.samples.items():
            lines = (json.dumps(sample, ensure_ascii=False, default=str) + "\n" for sample in samples)
            with (folder / "harness" / f"{task}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(lines)
        content = {"metrics": self.metrics, "versions": self.versions}
        (folder / "harness.json").write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class HarnessSettings:
    """How tasks are run.

    include_path   a folder of task files, whose Python functions run
    limit          rows of each task
    batch_size     rows that go through the model together
    show           whether lm-eval's own progress bars are
    """

    include_path: str | None = None
    limit: int | None = None
    batch_size: int = 8
    max_new_tokens: int = 256
    seed: int = 0
    show: bool = False


@dataclass(frozen=True, slots=True)
class LoadedTasks:
    """Names of tasks, and what lm-eval made of them."""

    names: tuple[str, ...]
    loaded: dict[str, Any]


def check_harness(tasks: Sequence[str], include_path: str | None) -> Any:
    """lm-eval's manager of these tasks. InputError: lm-eval is not installed, or has no such task."""
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError('tasks of lm-eval need lm-eval: pip install "tamis[harness]"')
    from lm_eval.tasks import TaskManager

    if include_path is not None and not Path(include_path).is_dir():
        raise InputError(f"{include_path}: expected a folder of lm-eval task files (*.yaml), found none")
    # Those that come with lm-eval are thousands of files: they are looked at where a name is not among one's own
    manager = None if include_path is None else TaskManager(include_path=include_path, include_defaults=False)
    if manager is None or not set(tasks) <= set(manager.all_tasks):
        manager = TaskManager(include_path=include_path)
    for task in tasks:
        if task not in manager.all_tasks:
            near = difflib.get_close_matches(task, manager.all_tasks, n=3)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise InputError(f"lm-eval has no task {task!r} (in {include_path or 'what comes with it'}){hint}")
    return manager


def load_tasks(tasks: Sequence[str], settings: HarnessSettings) -> LoadedTasks:
    """Tasks of lm-eval with their data, without a model: what they lack is known before hours of work.

    InputError: lm-eval is not installed, has no such task, or cannot get its data.
    """
    manager = check_harness(tasks, settings.include_path)
    with _reported("load", tasks, settings):
        loaded = manager.load(list(tasks))
        for task in loaded["tasks"].values():
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=settings.seed)
    return LoadedTasks(tuple(tasks), loaded)


def run_harness(
    model: nn.Module, tokenizer: Any, chat: Chat, max_tokens: int, tasks: LoadedTasks, settings: HarnessSettings
) -> HarnessResults:
    """Run tasks of lm-eval on a model, with or without an adapter, that lies in memory.

    max_tokens   longer prompts are cut on the left

    InputError: lm-eval cannot run them.
    """
    from lm_eval.evaluator import evaluate

    with _reported("run", tasks.names, settings), torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        found = evaluate(
            lm=_language_model(model, tokenizer, chat, max_tokens, settings),
            task_dict=tasks.loaded,
            limit=settings.limit,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            log_samples=True,
            bootstrap_iters=1000,
        )
    return HarnessResults(found["results"], found["versions"], found["samples"])


@contextmanager
def _reported(what: str, tasks: Sequence[str], settings: HarnessSettings) -> Iterator[None]:
    """lm-eval's errors in one sentence, and its log and bars not at all, unless shown."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        with nullcontext() if settings.show else redirect_stderr(io.StringIO()):
            yield
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"lm-eval cannot {what} {', '.join(tasks)}: {said[:400]}") from error


def _language_model(model: nn.Module, tokenizer: Any, chat: Chat, max_tokens: int, settings: HarnessSettings) -> Any:
    from lm_eval.models.huggingface import HFLM

    own = copy.deepcopy(tokenizer)  # lm-eval sets a padding token and a side
    own.chat_template = chat.template
    stops = Stops.of(model, tokenizer, chat.stops)
    until = [*stops.texts, *(own.decode([i]) for i in stops.ids)]

    class LanguageModel(HFLM):  # type: ignore[misc]
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            for request in requests:
                wanted = request.args[1].get("until") or []
                request.args[1]["until"] = [*([wanted] if isinstance(wanted, str) else wanted), *until]
            return list(super().generate_until(requests, disable_tqdm=disable_tqdm))

        @property
        def max_gen_toks(self) -> int:
            return settings.max_new_tokens

    return LanguageModel(
        pretrained=model.eval(),
        tokenizer=own,
        backend="causal",
        batch_size=settings.batch_size,
        max_length=max_tokens,
        add_bos_token=False,  # the template writes it
    )
