"""RDS+: what the model itself makes of an example, without any gradient (arXiv 2503.01807)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tamis.data.chat import Encoded
from tamis.errors import ModelError


def weighted_mean(model: nn.Module, encoded: Sequence[Encoded], device: torch.device) -> Float[Tensor, "batch hidden"]:
    """Σᵢ i·hᵢ / Σᵢ i over the tokens i = 1 … n of each row, h the last hidden layer (after its last norm), in float32.

    Every token of the row counts, prompt and completion; padding does not. Rows are padded on the right, where a causal
    model's real tokens do not see it.
    """
    lengths = torch.tensor([len(e.input_ids) for e in encoded])
    ids = torch.zeros(len(encoded), int(lengths.max()), dtype=torch.long)
    for row, e in enumerate(encoded):
        ids[row, : len(e.input_ids)] = torch.from_numpy(e.input_ids)
    decoder = getattr(model, "base_model", model)
    hidden = getattr(decoder(input_ids=ids.to(device), use_cache=False), "last_hidden_state", None)
    if hidden is None or hidden.shape[:2] != ids.shape:
        raise ModelError(
            f"{type(decoder).__name__} gives no last_hidden_state [batch, seq, hidden], which RDS+ is made of: use "
            "another model or representation"
        )
    place = torch.arange(1, ids.shape[1] + 1)
    weight = torch.where(place <= lengths[:, None], place, 0).to(hidden.device, torch.float32)
    weight = weight / weight.sum(1, keepdim=True)
    return torch.bmm(weight[:, None], hidden.float())[:, 0]
