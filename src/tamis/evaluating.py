"""How well a model does: its mean loss on target and test rows, and its score on the test rows by a task.

    loss                    by the loss alone
    exact_match numeric f1  the model writes an answer, which is compared with right ones (`evaluation.tasks`)
    choice                  the likeliest of the row's options (`evaluation.choice`)
    code                    the model writes a function, which has to pass the row's tests (`evaluation.code`)

Every row has its own loss, score and output; a row that has none has the reason why.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from jaxtyping import Float
from torch import nn

from tamis.data.chat import Encoded
from tamis.data.example import Example
from tamis.data.pool import Pool
from tamis.errors import ChatError, InputError
from tamis.evaluation import choice
from tamis.evaluation.generate import Stops, Writing, generate
from tamis.evaluation.loss import losses
from tamis.evaluation.references import Facts, Options, facts, options, question, references
from tamis.evaluation.results import Evaluation, Reasons
from tamis.evaluation.tasks import GENERATED, SCORERS, check_references
from tamis.inputs import Inputs
from tamis.settings import EvaluateConfig

if TYPE_CHECKING:
    from tamis.evaluation.code import Outcome

T = TypeVar("T")
__all__ = ["Evaluation", "check_task", "evaluate"]


@dataclass(slots=True)
class _Answers:
    """What a task finds out, row by row."""

    scores: Float[np.ndarray, " test"]
    outputs: list[str | None]
    references: list[tuple[str, ...]]
    cut: list[bool]
    reasons: Reasons

    @classmethod
    def of(cls, n_rows: int) -> "_Answers":
        return cls(np.full(n_rows, np.nan), [None] * n_rows, [()] * n_rows, [False] * n_rows, [None] * n_rows)


def check_task(config: EvaluateConfig, inputs: Inputs) -> None:
    """InputError for a task that may not run, or not with this model: better known before any work."""
    if config.task == "code":
        if not config.run_code:
            raise InputError(
                "task code runs what the model writes: say --run-code (evaluate.run_code=true) if you want that; "
                "it runs in a sandbox"
            )
        from tamis.evaluation.code import check_sandbox

        check_sandbox()
    if config.task in GENERATED and config.max_new_tokens >= inputs.max_tokens:
        raise InputError(
            f"evaluate.max_new_tokens is {config.max_new_tokens}, but a row has at most {inputs.max_tokens} tokens "
            "(model.max_tokens, or the model's positions): expected fewer, so that the prompt has room"
        )


def evaluate(
    model: nn.Module, inputs: Inputs, target: Pool | None, test: Pool, config: EvaluateConfig, seed: int
) -> Evaluation:
    """Loss on both sets and score on the test set, of a model that belongs to the inputs' tokenizer and template.

    The model is left in evaluation mode. Rows of a batch do not influence one another, but for rounding (see
    `evaluation.generate` on bfloat16). What cannot be scored is skipped and reported through the inputs. InputError: a
    task that may not run, or that no row can be scored by; a file that changed since it was read.
    """
    check_task(config, inputs)
    test = test if config.limit is None else test[: config.limit]
    target_losses, target_reasons = _losses(model, inputs, "target", target or Pool.of([]), config.batch_tokens)
    test_losses, test_reasons = _losses(model, inputs, "test", test, config.batch_tokens)
    answers = _Answers.of(len(test))
    if config.task != "loss":
        rows = facts(list(test))
        if config.task in GENERATED:
            _write_answers(model, inputs, test, rows, config, seed, answers)
        else:
            _choose(model, inputs, test, rows, config, answers)
        unscored = [(e, str(r)) for e, r, s in zip(test, answers.reasons, answers.scores, strict=True) if np.isnan(s)]
        inputs.leave_out(f"test, not scored by {config.task}", unscored)
        if len(unscored) == len(test):
            example, reason = unscored[0]
            raise InputError(f"no test row can be scored by {config.task}; {example.file} row {example.row}: {reason}")
    return Evaluation(
        task=config.task,
        target=target,
        test=test,
        target_losses=target_losses,
        test_losses=test_losses,
        scores=answers.scores,
        outputs=answers.outputs,
        references=answers.references,
        cut=answers.cut,
        target_reasons=target_reasons,
        test_reasons=test_reasons,
        score_reasons=answers.reasons,
    )


def _losses(
    model: nn.Module, inputs: Inputs, what: str, pool: Pool, batch_tokens: int
) -> tuple[Float[np.ndarray, " example"], Reasons]:
    found = np.full(len(pool), np.nan)
    reasons: Reasons = [None] * len(pool)
    usable: list[tuple[int, Encoded]] = []
    for i, example in enumerate(pool):
        encoded = inputs.encode(example)
        if isinstance(encoded, str):
            reasons[i] = encoded
        elif not encoded.n_supervised:
            reasons[i] = f"no completion token within {inputs.max_tokens} tokens"
        else:
            usable.append((i, encoded))
    values = losses(model, [encoded for _, encoded in usable], batch_tokens)
    for (i, _), value in zip(usable, values, strict=True):
        if np.isfinite(value):
            found[i] = value
        else:
            reasons[i] = f"the loss is {value}"
    inputs.leave_out(f"{what}, without a loss", [(e, r) for e, r in zip(pool, reasons, strict=True) if r])
    return found, reasons


def _prepared(inputs: Inputs, test: Pool, reasons: Reasons, prepare: Callable[[int, str], T]) -> dict[int, T]:
    """By place in the test set, what `prepare` makes of a row and its prompt; its InputError is the row's reason."""
    found = {}
    for i, example in enumerate(test):
        try:
            found[i] = prepare(i, inputs.chat.prompt(example))
        except (ChatError, InputError) as error:
            reasons[i] = str(error)
    return found


# ---- choice ------------------------------------------------------------------------------------------------------


def _choose(
    model: nn.Module, inputs: Inputs, test: Pool, rows: Sequence[Facts], config: EvaluateConfig, answers: _Answers
) -> None:
    def prepare(i: int, prompt: str) -> tuple[Options, list[Encoded]]:
        given = options(test[i], rows[i])
        return given, choice.encode_options(inputs.chat, prompt, given)

    prepared = _prepared(inputs, test, answers.reasons, prepare)
    _tell_cut(inputs, test, {i: max(e.n_truncated for e in encoded) for i, (_, encoded) in prepared.items()})
    given, encoded = [g for g, _ in prepared.values()], [e for _, e in prepared.values()]
    for i, options_, values in zip(
        prepared, given, choice.scores(model, encoded, given, config.batch_tokens), strict=True
    ):
        if not np.isfinite(values).all():
            answers.reasons[i] = f"a log-likelihood is not finite: {values}"
            continue
        best = choice.pick(values, options_)
        answers.scores[i] = best == options_.right
        answers.outputs[i], answers.references[i] = options_.texts[best], (options_.texts[options_.right],)


def _tell_cut(inputs: Inputs, test: Pool, n_cut: dict[int, int]) -> None:
    cut = [(test[i], f"{n:,} tokens too long") for i, n in n_cut.items() if n]
    inputs.tell("test, prompts cut on the left", cut)


# ---- answers in text ---------------------------------------------------------------------------------------------


def _write_answers(
    model: nn.Module,
    inputs: Inputs,
    test: Pool,
    rows: Sequence[Facts],
    config: EvaluateConfig,
    seed: int,
    answers: _Answers,
) -> None:
    left = inputs.max_tokens - config.max_new_tokens

    def prepare(i: int, prompt: str) -> Encoded:
        answers.references[i] = _references(config.task, test[i], rows[i])
        return inputs.chat.encode_prompt(prompt, left)

    encoded = _prepared(inputs, test, answers.reasons, prepare)
    _tell_cut(inputs, test, {i: e.n_truncated for i, e in encoded.items()})
    outputs = generate(
        model,
        inputs.tokenizer,
        [e.input_ids for e in encoded.values()],
        Stops.of(model, inputs.tokenizer, inputs.chat.stops),
        Writing(config.max_new_tokens, config.temperature, seed, config.batch_tokens),
        [test[i].id for i in encoded],
    )
    for i, output in zip(encoded, outputs, strict=True):
        answers.outputs[i], answers.cut[i] = output
        if config.task != "code":
            answers.scores[i] = SCORERS[config.task](output.text, answers.references[i])
    ended = f"no end within {config.max_new_tokens} tokens"
    inputs.tell("test, answers cut at max_new_tokens", [(test[i], ended) for i in encoded if answers.cut[i]])
    if config.task == "code":
        _run(test, rows, list(encoded), answers)


def _references(task: str, example: Example, row: Facts) -> tuple[str, ...]:
    if task == "code":
        tests = row.get("test"), row.get("entry_point")
        if not all(isinstance(text, str) and text for text in tests):
            raise InputError("expected meta.test and meta.entry_point, texts that say how its code is tested")
        return (str(tests[0]),)
    found = references(example, row)
    check_references(task, found)
    return found


def _run(test: Pool, rows: Sequence[Facts], places: Sequence[int], answers: _Answers) -> None:
    from tamis.evaluation.code import program

    programs = [
        program(question(test[i]), answers.outputs[i] or "", str(rows[i]["test"]), str(rows[i]["entry_point"]))
        for i in places
    ]
    for i, outcome in zip(places, _outcomes(programs), strict=True):
        if isinstance(outcome, str):
            answers.reasons[i] = outcome
        else:
            answers.scores[i] = outcome.passed
            answers.reasons[i] = None if outcome.passed else outcome.reason


def _outcomes(programs: Sequence[str]) -> "Iterator[Outcome | str]":
    """The outcome of each program, or why it has none: a sandbox that does not start ends no other row."""
    from tamis.evaluation.code import run_tests

    try:
        yield from run_tests(programs)
    except InputError as error:
        if len(programs) == 1:
            yield str(error)
            return
        for program in programs:
            yield from _outcomes([program])
