"""Loss of a model on examples, against transformers' own."""

from pathlib import Path

import numpy as np
import torch

from tamis.data.chat import Encoded
from tamis.evaluation.loss import losses
from tamis.model.load import ModelSource, load_base


def test_losses_are_transformers_own_whatever_the_batches(tiny_model: Path) -> None:
    rng = np.random.default_rng(0)
    encoded = []
    for n in (9, 30, 14, 5, 22):
        mask = np.arange(n) >= n // 2
        encoded.append(Encoded(rng.integers(0, 250, n).astype(np.int32), mask, 0))
    model = load_base(ModelSource(str(tiny_model))).train()
    found = [losses(model, encoded, batch_tokens) for batch_tokens in (1, 40, 4096)]
    assert not model.training
    for example, loss in zip(encoded, found[0], strict=True):
        ids = torch.from_numpy(example.input_ids.astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(example.mask), ids, -100)
        with torch.no_grad():
            expected = model(input_ids=ids, labels=labels).loss
        assert np.isclose(loss, expected, atol=1e-5)
    assert len(set(found[0].tolist())) == 5
    assert np.allclose(found[1], found[0], atol=1e-5)
    assert np.allclose(found[2], found[0], atol=1e-5)
