"""A tiny model with a warmed-up adapter, and examples of several lengths."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from tamis.data.chat import Encoded
from tamis.model.batch import collate, example_losses
from tamis.model.checkpoint import Checkpoint, save_checkpoint
from tamis.model.load import LoraSettings, add_lora, trainable
from tiny import random_llama


class Warm(NamedTuple):
    model: nn.Module
    optimizer: torch.optim.Optimizer
    checkpoint: Checkpoint
    examples: list[Encoded]


def tiny_llama() -> LlamaForCausalLM:
    return random_llama(tie_word_embeddings=True)


@pytest.fixture(scope="session")
def examples() -> list[Encoded]:
    rng = np.random.default_rng(0)

    def one(n: int) -> Encoded:
        mask = np.zeros(n, dtype=bool)
        mask[n // 2 : n - 2] = True  # two tokens after the last supervised one
        return Encoded(rng.integers(0, 64, n).astype(np.int32), mask, 0)

    return [one(int(n)) for n in (9, 30, 14, 5, 22, 30, 7, 18)]


@pytest.fixture(scope="session", params=["attention", "all-linear"])
def warm(request: pytest.FixtureRequest, examples: list[Encoded], tmp_path_factory: pytest.TempPathFactory) -> Warm:
    """Four AdamW steps, so that both moments and lora_B are not zero."""
    torch.manual_seed(1)
    model = add_lora(tiny_llama(), LoraSettings(4, 8, 0.1, request.param), seed=3)
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-2, weight_decay=0.0)
    model.train()
    for start in range(0, 8, 2):
        optimizer.zero_grad()
        example_losses(model, collate(examples[start : start + 2], torch.device("cpu"))).mean().backward()
        optimizer.step()
    folder = Path(tmp_path_factory.mktemp("warm")) / "epoch-1"
    checkpoint = save_checkpoint(folder, model, optimizer, mean_learning_rate=1e-2, base_digest="tiny")
    return Warm(model.eval(), optimizer, checkpoint, examples)
