"""Losses with and without the prompt, against plain transformers; and the rankings made of them."""

import numpy as np
import pytest
import torch
from torch import nn

from tamis.data.chat import Encoded
from tamis.representations.loss import alone, loss_alone, loss_given_prompt, ranking
from tiny import random_llama

CPU = torch.device("cpu")


def plain(model: nn.Module, encoded: Encoded) -> float:
    """transformers' own loss of one row alone."""
    ids = torch.tensor(encoded.input_ids[None].astype(np.int64))
    labels = torch.where(torch.from_numpy(encoded.mask)[None], ids, -100)
    return float(model(input_ids=ids, labels=labels).loss)


def test_losses_are_those_of_plain_transformers(examples: list[Encoded]) -> None:
    model = random_llama()
    with torch.no_grad():
        with_prompt = loss_given_prompt(model, examples, CPU)[:, 0].numpy()
        without = loss_alone(model, examples, CPU)[:, 0].numpy()
        for row, encoded in enumerate(examples):
            assert with_prompt[row] == pytest.approx(plain(model, encoded), abs=1e-5)
            answer = encoded.input_ids[encoded.mask]
            ids = np.concatenate([encoded.input_ids[:1], answer]).astype(np.int32)
            assert without[row] == pytest.approx(plain(model, Encoded(ids, np.arange(len(ids)) > 0, 0)), abs=1e-5)


def test_the_same_tokens_are_predicted_with_and_without_the_prompt() -> None:
    ids = np.arange(9, dtype=np.int32)
    several = Encoded(ids, np.isin(ids, (3, 4, 8)), 0)  # two turns
    assert alone(several).input_ids.tolist() == [0, 3, 4, 8]
    assert alone(several).mask.tolist() == [False, True, True, True]
    from_the_start = Encoded(ids, ids < 3, 0)  # whose first token nothing predicts
    assert alone(from_the_start).input_ids.tolist() == [0, 1, 2]
    assert alone(from_the_start).n_supervised == from_the_start.n_supervised == 2


def test_rankings_by_hand() -> None:
    losses = {"loss": np.float32([1, 3, 2, 4, 0.5]), "loss_alone": np.float32([2, 2, 4, 3.2, 5])}
    assert ranking("loss", losses, "highest").tolist() == [1, 3, 2, 4, 0.5]
    assert ranking("loss", losses, "lowest").tolist() == [-1, -3, -2, -4, -0.5]
    np.testing.assert_allclose(ranking("perplexity", losses, "highest"), np.exp(losses["loss"]), rtol=1e-6)
    # places 1, 3, 2, 4, 0 of 0 … 4
    np.testing.assert_allclose(ranking("perplexity", losses, "middle"), [-0.25, -0.25, 0, -0.5, -0.5])
    # 0.5, 1.5, 0.5, 1.25, 0.1: those at 1 or above go last, the farthest above at the very end
    np.testing.assert_allclose(ranking("ifd", losses, "highest"), [0.5, -1.5, 0.5, -1.25, 0.1], rtol=1e-6)
    np.testing.assert_allclose(ranking("ifd", losses, "lowest"), [-0.5, -1.5, -0.5, -1.25, -0.1], rtol=1e-6)
    assert ranking("loss", {"loss": np.float32([2])}, "middle").tolist() == [-0.5]
    assert np.isfinite(ranking("perplexity", {"loss": np.float32([88, 90, 1e4])}, "highest")).all()
    with pytest.raises(ValueError, match="expected loss, perplexity or ifd, got 'los'"):
        ranking("los", losses, "highest")
