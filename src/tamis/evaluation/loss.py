"""Loss of a model on examples."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from tamis.data.chat import Encoded
from tamis.model.batch import collate, example_losses, token_batches


@torch.no_grad()
def losses(model: nn.Module, encoded: Sequence[Encoded], batch_tokens: int = 4096) -> Float32[np.ndarray, " example"]:
    """Mean cross-entropy (nats a token) of each example's supervised tokens; the model is left in eval mode."""
    model.eval()
    device = next(model.parameters()).device
    out = np.zeros(len(encoded), dtype=np.float32)
    for batch in token_batches([len(e.input_ids) for e in encoded], batch_tokens):
        out[batch] = example_losses(model, collate([encoded[i] for i in batch], device)).float().cpu().numpy()
    return out
