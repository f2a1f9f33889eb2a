"""Batches of tokenised examples, and the loss of each example in one.

Rows are padded on the right and no attention mask is passed: in a causal model a real token never attends to what
follows it, so padding changes nothing, and attention takes its fast path. `check_causal` verifies that this holds for
the model at hand. Logits are computed only at positions that predict a supervised token.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from tamis.data.chat import Encoded
from tamis.errors import ModelError


@dataclass(frozen=True, slots=True)
class Batch:
    """input_ids, padded on the right, and where a supervised token is the next one (the last position never is)."""

    input_ids: Int64[Tensor, "batch seq"]
    predicts: Bool[Tensor, "batch seq"]

    @property
    def n_predicted(self) -> Int64[Tensor, " batch"]:
        """Supervised tokens of each row."""
        return self.predicts.sum(1)


def collate(encoded: Sequence[Encoded], device: torch.device, pad_id: int = 0) -> Batch:
    """Examples as one batch. Tokens after a row's last supervised one cannot matter and are dropped."""
    last = [int(np.flatnonzero(e.mask)[-1]) if e.mask.any() else 0 for e in encoded]
    width = max(last) + 1
    ids = np.full((len(encoded), width), pad_id, dtype=np.int64)
    predicts = np.zeros((len(encoded), width), dtype=bool)
    for row, (e, end) in enumerate(zip(encoded, last, strict=True)):
        ids[row, : end + 1] = e.input_ids[: end + 1]
        predicts[row, :end] = e.mask[1 : end + 1]
    return Batch(torch.from_numpy(ids).to(device), torch.from_numpy(predicts).to(device))


def token_batches(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Positions grouped so that rows × longest row ≤ max_batch_tokens (a longer row goes alone), longest first."""
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= max_batch_tokens:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


@contextmanager
def only_at(head: nn.Module, positions: Bool[Tensor, "batch seq"]) -> Iterator[None]:
    """Logits come at these positions alone, as [position, vocabulary], row after row."""

    def keep(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][positions.to(args[0].device)], *args[1:])

    handle = head.register_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def example_losses(model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
    """Mean cross-entropy (nats) of each row's supervised tokens; 0 for a row without any. Differentiable."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is None:
        raise ModelError(f"{type(model).__name__} has no output embedding layer: a causal language model is needed")
    with only_at(head, batch.predicts):
        logits = model(input_ids=batch.input_ids, use_cache=False).logits
    n_total = int(batch.predicts.sum())
    if logits.shape[:-1] != (n_total,):
        raise ModelError(
            f"expected logits at the {n_total} supervised positions alone, got shape {tuple(logits.shape)}: "
            f"{type(model).__name__} does something to hidden states between its last layer and its output embedding"
        )
    row, column = batch.predicts.nonzero(as_tuple=True)
    labels = batch.input_ids[row, column + 1].to(logits.device)  # another device where the model is spread over several
    row = row.to(logits.device)
    losses = nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    total = torch.zeros(len(batch.input_ids), dtype=losses.dtype, device=losses.device).index_add(0, row, losses)
    return total / batch.n_predicted.clamp(min=1).to(total.device)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


class Attempts:
    """Progress over several attempts at one piece of work: tokens that an earlier one reported do not count again."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance, self._reported = advance, 0

    def new(self) -> Callable[[int], None]:
        """What the next attempt is to call with tokens done."""
        seen = 0

        def advance(n_tokens: int) -> None:
            nonlocal seen
            seen += n_tokens
            if seen > self._reported:
                self._advance(seen - self._reported)
                self._reported = seen

        return advance


@torch.no_grad()
def check_causal(model: nn.Module, device: torch.device) -> None:
    """Refuse a model whose loss of a row depends on padding after it (it would make features depend on the batch)."""
    vocab = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    long = Encoded(np.arange(12, dtype=np.int32) * 7 % vocab, np.arange(12) >= 6, 0)
    short = Encoded(long.input_ids[:8], long.mask[:8], 0)
    alone = example_losses(model, collate([short], device))[0]
    padded = example_losses(model, collate([long, short], device))[1]
    if not (alone.isfinite() and padded.isfinite()):
        raise ModelError(
            f"{type(model).__name__} gives a loss that is not finite ({alone}): look for NaN or infinity in its "
            "weights (fetch a model that was copied in part again), or set model.dtype=float32"
        )
    tolerance = 1e-4 if alone.dtype == torch.float32 and next(model.parameters()).dtype == torch.float32 else 5e-2
    if not torch.isclose(alone, padded, rtol=tolerance, atol=tolerance):
        raise ModelError(
            f"{type(model).__name__} is not causal: the loss of a row changed from {alone:.5f} to {padded:.5f} "
            "with padding after it. tamis needs a decoder-only language model"
        )
