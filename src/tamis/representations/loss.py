"""One number a row: how hard its answer is to the model, with the prompt and without.

    loss         mean cross-entropy ℓ(z; θ) of the completion tokens (nats a token)
    perplexity   exp(ℓ)
    ifd          instruction-following difficulty: ℓ with the prompt / ℓ without (arXiv 2308.12032)

They look at no target: a row of the similarity is the pool's ranking, the wanted end first.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from tamis.data.chat import Encoded
from tamis.model.batch import collate, example_losses

Prefer = Literal["highest", "lowest", "middle"]


def loss_given_prompt(model: nn.Module, encoded: Sequence[Encoded], device: torch.device) -> Float[Tensor, "batch 1"]:
    """ℓ of each row."""
    return example_losses(model, collate(encoded, device))[:, None]


def loss_alone(model: nn.Module, encoded: Sequence[Encoded], device: torch.device) -> Float[Tensor, "batch 1"]:
    """ℓ of each row's supervised tokens when they follow nothing but the row's first token (as a rule: begin of text).

    The same tokens are predicted as with the prompt.
    """
    return example_losses(model, collate([alone(e) for e in encoded], device))[:, None]


def alone(encoded: Encoded) -> Encoded:
    """The row's first token and its supervised ones."""
    kept = encoded.mask.copy()
    kept[0] = True
    mask = encoded.mask[kept]
    mask[0] = False
    return Encoded(encoded.input_ids[kept], mask, 0)


def ranking(
    name: str, losses: Mapping[str, Float32[np.ndarray, " pool"]], prefer: Prefer
) -> Float32[np.ndarray, " pool"]:
    """The pool's similarity row: higher is better.

    losses     "loss", and for ifd "loss_alone", of every pool row
    prefer     `highest`: the number itself. `lowest`: its negative. `middle`: −|its place in the pool − ½|, places
               going from 0 to 1

    Of ifd `highest`, a row at 1 or above goes last, as the paper discards it: there the prompt does not help.
    """
    value = losses["loss"].astype(np.float64)
    if name not in ("loss", "perplexity", "ifd"):
        raise ValueError(f"expected loss, perplexity or ifd, got {name!r}")
    if name == "perplexity":
        value = np.minimum(np.exp(np.minimum(value, 700)), np.finfo(np.float32).max)  # of a loss above 88: no infinity
    if name == "ifd":
        value = value / losses["loss_alone"]
    if prefer == "lowest":
        value = -value
    elif prefer == "middle":
        place = np.argsort(np.argsort(value, kind="stable"), kind="stable") / max(1, len(value) - 1)
        value = -np.abs(place - 0.5)
    elif name == "ifd":
        value = np.where(value < 1, value, -value)
    return value.astype(np.float32)
