"""Gradient features against the plain backward pass that nobody who trains could avoid.

The two take turns at every batch, not at every pass, so that both meet the same bad moments of a busy machine.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import GIB, Measured, Report, Settings, Side, measure, ratios
from benchmarks.workload import Workload, workload
from tamis.data.chat import Encoded
from tamis.model.load import Dtype


def run(settings: Settings) -> Report:
    """One row a rank and dtype."""
    cases: list[tuple[int, Dtype]] = [(8, "float32"), (128, "float32"), (128, "bfloat16")]
    if settings.quick:
        cases = [(4, "float32")]
    elif settings.device.type == "cuda":
        cases = [(128, "bfloat16")]
    return Report(
        title="gradient features (Adam, sketch) against plain model(**batch).loss.backward() with LoRA",
        target="at least 1.05 times its examples/s; aim 1.2",
        rows=[_compare(settings, rank, dtype) for rank, dtype in cases],
    )


def _compare(settings: Settings, rank: int, dtype: Dtype) -> dict[str, Any]:
    n_batches = 6 if settings.device.type == "cpu" else 100  # on a GPU the whole shard
    work = workload(settings, rank=rank, dtype=dtype, n_batches=n_batches)
    n = len(work.encoded)
    batches = [user_batch([work.encoded[i] for i in batch], work.device) for batch in work.batches]
    by_batch = [
        measure(
            {
                "plain": Side(partial(plain, work.model, [batch])),
                "tamis": Side(partial(work.tamis, [positions]), within=work.features),
            },
            settings,
        )
        for positions, batch in zip(work.batches, batches, strict=True)
    ]
    ours, theirs = (_sum([measured[side] for measured in by_batch]) for side in ("tamis", "plain"))
    return {
        "case": work.name,
        "plain examples/s": n / min(theirs.seconds),
        "tamis examples/s": n / min(ours.seconds),
        "tamis tokens/s": work.n_tokens / min(ours.seconds),
        **ratios(theirs.seconds, ours.seconds),
        **_memory(work, ours.extra_gib, theirs.extra_gib),
        "examples": n,
        "batches": len(batches),
        "padding share": 1 - work.n_tokens / sum(batch["input_ids"].numel() for batch in batches),
        "plain seconds": theirs.seconds,
        "tamis seconds": ours.seconds,
    }


def _sum(batches: Sequence[Measured]) -> Measured:
    """The whole pass: its k-th quickest time is the sum of each batch's k-th quickest."""
    seconds = [sum(times) for times in zip(*(sorted(batch.seconds) for batch in batches), strict=True)]
    extra = [batch.extra_gib for batch in batches if batch.extra_gib is not None]
    return Measured(seconds, max(extra, default=None))


def user_batch(encoded: Sequence[Encoded], device: torch.device) -> dict[str, Tensor]:
    """What a data collator hands to a model: padding, its mask, and labels of -100 where nothing is to be learnt."""
    width = max(len(e.input_ids) for e in encoded)
    ids = np.zeros((len(encoded), width), np.int64)
    attention, labels = np.zeros_like(ids), np.full_like(ids, -100)
    for row, e in enumerate(encoded):
        n = len(e.input_ids)
        ids[row, :n], attention[row, :n] = e.input_ids, 1
        labels[row, :n][e.mask] = e.input_ids[e.mask]
    arrays = {"input_ids": ids, "attention_mask": attention, "labels": labels}
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def plain(model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> None:
    """Forward and backward of each batch; the optimizer's step is left out."""
    for batch in batches:
        model(**batch, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)


def _memory(work: Workload, ours: float | None, theirs: float | None) -> dict[str, float]:
    if ours is None or theirs is None:
        return {}
    held = torch.cuda.memory_allocated(work.device) / GIB
    return {"held GiB": held, "plain peak +GiB": theirs, "tamis peak +GiB": ours}
