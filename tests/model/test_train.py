"""The training loop against one written by hand, and going on after an interruption."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tamis.data.chat import Encoded
from tamis.errors import ModelError
from tamis.model import train as module
from tamis.model.batch import Batch
from tamis.model.checkpoint import TrainSettings, finished_checkpoints
from tamis.model.load import LoraSettings, ModelSource, add_lora, load_base, trainable
from tamis.model.train import Course, train

SETTINGS = TrainSettings(
    epochs=2,
    learning_rate=1e-2,
    batch_size=4,
    micro_batch_size=2,
    warmup_ratio=0.3,
    weight_decay=0.1,
    seed=5,
)
N_STEPS = 6  # ten rows: 4, 4, 2, twice
RATES = [0.0, 0.5e-2, 1e-2, 0.75e-2, 0.5e-2, 0.25e-2]  # ceil(0.3 · 6) = 2 steps up, then down to 0


@pytest.fixture(scope="module")
def rows() -> list[Encoded]:
    rng = np.random.default_rng(0)
    made = []
    for n in (9, 30, 14, 5, 22, 41, 7, 18, 12, 26):
        mask = np.arange(n) >= n // 2
        made.append(Encoded(rng.integers(0, 250, n).astype(np.int32), mask, 0))
    return made


@pytest.fixture
def fresh(tiny_model: Path) -> Callable[..., nn.Module]:
    """fresh(dropout=0.0): the tiny model with a new adapter, always the same."""
    base = ModelSource(str(tiny_model))
    return lambda dropout=0.0: add_lora(load_base(base), LoraSettings(4, 8, dropout, "attention"), seed=0)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Encoded]:
    """The rows that the training takes, in its order."""
    order: list[Encoded] = []
    collate = module._to_inputs

    def to_inputs(batch: list[tuple[Encoded, float]]) -> dict[str, torch.Tensor]:
        order.extend(row for row, _ in batch)
        return collate(batch)

    monkeypatch.setattr(module, "_to_inputs", to_inputs)
    return order


def by_hand(
    model: nn.Module,
    steps: Sequence[Sequence[Encoded]],
    rates: Sequence[float] = RATES,
    weight: Callable[[Encoded], float] = lambda _: 1.0,
) -> list[float]:
    """One row at a time; returns the norms of the gradients before they are clipped to 1."""
    parameters = list(trainable(model).values())
    optimizer = torch.optim.AdamW(parameters, weight_decay=SETTINGS.weight_decay)
    norms = []
    model.train()
    for rows, rate in zip(steps, rates, strict=True):
        loss = torch.tensor(0.0)
        for row in rows:
            ids = torch.from_numpy(row.input_ids.astype(np.int64))
            chance = torch.log_softmax(model(input_ids=ids[None]).logits[0], 1)
            supervised = [k for k in range(1, len(ids)) if row.mask[k]]
            loss = loss - weight(row) * sum(chance[k - 1, ids[k]] for k in supervised) / len(supervised) / len(rows)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(parameters, 1.0)))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return norms


def difference(first: nn.Module, second: nn.Module) -> float:
    """The largest between two models' trained weights."""
    weights = trainable(second)
    return max(float((weight - weights[name]).detach().abs().max()) for name, weight in trainable(first).items())


def cut(order: Sequence[Encoded]) -> list[Sequence[Encoded]]:
    epochs = [order[:10], order[10:]]
    return [epoch[start : start + 4] for epoch in epochs for start in (0, 4, 8)]


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_it_is_the_loop_by_hand_whatever_the_micro_batch(
    fresh: Callable[..., nn.Module], rows: list[Encoded], seen: list[Encoded], tmp_path: Path, micro_batch_size: int
) -> None:
    model = fresh()
    settings = replace(SETTINGS, micro_batch_size=micro_batch_size)
    checkpoints = train(model, rows, settings, tmp_path, base_digest="tiny")
    assert not model.training
    for epoch in (seen[:10], seen[10:]):
        assert sorted(map(id, epoch)) == sorted(map(id, rows))
    assert seen[:10] != seen[10:]  # shuffled anew

    expected = fresh()
    norms = by_hand(expected, cut(seen))
    assert max(norms) > 1  # so the clipping matters
    wanted = trainable(expected)
    moved = max(float((wanted[name] - start).detach().abs().max()) for name, start in trainable(fresh()).items())
    assert difference(model, expected) < 1e-5 < 1e-2 < moved  # Adam blows rounding up where gradients are small
    assert [checkpoint.step for checkpoint in checkpoints] == [3, 6]
    assert [c.mean_learning_rate for c in checkpoints] == pytest.approx([sum(RATES[:3]) / 3, sum(RATES[3:]) / 3])
    assert (checkpoints[0].betas, checkpoints[0].eps) == ((0.9, 0.999), 1e-8)


def test_a_seed_decides_the_order(
    fresh: Callable[..., nn.Module], rows: list[Encoded], seen: list[Encoded], tmp_path: Path
) -> None:
    orders = []
    for seed in (5, 5, 6):
        seen.clear()
        train(fresh(), rows, replace(SETTINGS, seed=seed, epochs=1), tmp_path)
        orders.append(list(map(id, seen)))
    assert orders[0] == orders[1] != orders[2]


def test_rows_weigh_what_they_are_given(
    fresh: Callable[..., nn.Module], rows: list[Encoded], seen: list[Encoded], tmp_path: Path
) -> None:
    weights = [0.1, 4.0, 0.5, 2.0, 1.0, 0.0, 3.0, 0.2, 1.5, 0.7]
    share = {id(row): weight / (sum(weights) / 10) for row, weight in zip(rows, weights, strict=True)}
    model, expected, alike = fresh(), fresh(), fresh()
    train(model, rows, SETTINGS, tmp_path, course=Course(weights))
    by_hand(expected, cut(seen), weight=lambda row: share[id(row)])
    by_hand(alike, cut(seen))
    assert difference(model, expected) < 1e-5 < 1e-3 < difference(alike, expected)


def test_rows_in_the_order_given_for_a_number_of_steps(
    fresh: Callable[..., nn.Module], rows: list[Encoded], seen: list[Encoded], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, warmup_ratio=0.0)
    model, expected, told = fresh(), fresh(), list[int]()
    course = Course(steps=5, shuffled=False)
    checkpoints = train(model, rows, settings, tmp_path, course=course, base_digest="tiny", advance=told.append)
    taken = [*rows, *rows[:8]]
    assert list(map(id, seen[:18])) == list(map(id, taken))
    by_hand(expected, cut(taken)[:5], rates=[1e-2 * (5 - k) / 5 for k in range(5)])
    assert difference(model, expected) < 1e-5
    assert [checkpoint.step for checkpoint in checkpoints] == [3, 5]
    n_tokens = sum(len(row.input_ids) for row in rows)
    assert abs(sum(told) - n_tokens * 5 / 3) <= 5
    shutil.rmtree(tmp_path / "epoch-2")
    shutil.rmtree(tmp_path / "epoch-1")
    again = train(fresh(), rows, settings, tmp_path, course=course, base_digest="tiny")
    assert [c.fingerprint for c in again] == [c.fingerprint for c in checkpoints]


def test_steps_go_on_after_an_interruption(
    fresh: Callable[..., nn.Module], rows: list[Encoded], tmp_path: Path
) -> None:
    course = Course([1.0, 2.0] * 5, steps=8)
    whole = train(fresh(0.2), rows, SETTINGS, tmp_path / "whole", course=course, base_digest="tiny")
    told: list[int] = []

    def stop_in_the_third_epoch(n_tokens: int) -> None:
        told.append(n_tokens)
        if len(told) == 1 + 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            fresh(0.2),
            rows,
            SETTINGS,
            tmp_path / "cut",
            course=course,
            base_digest="tiny",
            advance=stop_in_the_third_epoch,
        )
    assert len(finished_checkpoints(tmp_path / "cut")) == 2
    resumed = train(fresh(0.2), rows, SETTINGS, tmp_path / "cut", course=course, base_digest="tiny")
    assert [c.fingerprint for c in resumed] == [c.fingerprint for c in whole]
    assert [c.step for c in whole] == [3, 6, 8]


def test_interrupted_then_resumed_is_uninterrupted(
    fresh: Callable[..., nn.Module], rows: list[Encoded], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, epochs=3)
    whole = train(fresh(0.2), rows, settings, tmp_path / "whole", base_digest="tiny")
    told: list[int] = []

    def stop_in_the_third_epoch(n_tokens: int) -> None:
        told.append(n_tokens)
        if len(told) == 1 + 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(fresh(0.2), rows, settings, tmp_path / "cut", base_digest="tiny", advance=stop_in_the_third_epoch)
    assert len(finished_checkpoints(tmp_path / "cut")) == 2
    told.clear()
    resumed = train(fresh(0.2), rows, settings, tmp_path / "cut", base_digest="tiny", advance=told.append)
    n_tokens = sum(len(row.input_ids) for row in rows)
    assert (told[0], len(told)) == (2 * n_tokens, 1 + 3)
    assert [c.fingerprint for c in resumed] == [c.fingerprint for c in whole]
    assert [c.mean_learning_rate for c in resumed] == [c.mean_learning_rate for c in whole]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["epoch-1", "epoch-2", "epoch-3"]

    untouched = fresh(0.2)
    again = train(untouched, rows, settings, tmp_path / "cut", base_digest="tiny")
    assert again == resumed
    assert all(torch.equal(p, trainable(untouched)[name]) for name, p in trainable(fresh(0.2)).items())


def test_activation_checkpointing_changes_nothing_but_rounding(
    fresh: Callable[..., nn.Module], rows: list[Encoded], tmp_path: Path
) -> None:
    models = [fresh(0.2), fresh(0.2)]
    for model, checkpointing in zip(models, (False, True), strict=True):
        train(model, rows, replace(SETTINGS, activation_checkpointing=checkpointing), tmp_path)
    plain, checkpointed = map(trainable, models)
    assert all(torch.allclose(plain[name], checkpointed[name], atol=1e-5) for name in plain)
    assert any(not torch.equal(plain[name], start) for name, start in trainable(fresh(0.2)).items())


def test_without_a_digest_nothing_is_kept(fresh: Callable[..., nn.Module], rows: list[Encoded], tmp_path: Path) -> None:
    model = fresh()
    told: list[int] = []
    assert train(model, rows, SETTINGS, tmp_path / "t", advance=told.append) == []
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not (tmp_path / "t" / "trainer").exists()
    assert abs(sum(told) - 2 * sum(len(row.input_ids) for row in rows)) < N_STEPS


def test_where_memory_runs_out_the_steps_stay_the_same(
    fresh: Callable[..., nn.Module], rows: list[Encoded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, model = fresh(0.2), fresh(0.2)
    train(expected, rows, replace(SETTINGS, micro_batch_size=1), tmp_path / "small")
    losses = module.example_losses
    told: list[int] = []
    notes: list[str] = []

    def allocate(model: nn.Module, batch: Batch) -> torch.Tensor:
        if len(batch.input_ids) > 1 and sum(told) > 0:  # in the second step
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses(model, batch)

    monkeypatch.setattr(module, "example_losses", allocate)
    settings = replace(SETTINGS, micro_batch_size=4)
    train(model, rows, settings, tmp_path / "t", advance=told.append, note=notes.append)
    assert [note.split(":")[0] for note in notes] == [
        "out of memory with 4 rows at once",
        "out of memory with 2 rows at once",
    ]
    assert all(torch.equal(trainable(model)[name], weight) for name, weight in trainable(expected).items())
    assert abs(sum(told) - 2 * sum(len(row.input_ids) for row in rows)) < N_STEPS

    def never(model: nn.Module, batch: Batch) -> torch.Tensor:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(module, "example_losses", never)
    with pytest.raises(ModelError, match="out of memory with single rows of up to 41 tokens: use a smaller"):
        train(fresh(), rows, SETTINGS, tmp_path / "never")


def test_a_batch_must_be_whole_micro_batches(
    fresh: Callable[..., nn.Module], rows: list[Encoded], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="batch_size 4 must be a multiple of micro_batch_size 3"):
        train(fresh(), rows, replace(SETTINGS, micro_batch_size=3), tmp_path)
