"""RDS+ rows: the formula on single rows, and that neither padding, batch nor order matters."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from tamis.data.chat import Encoded
from tamis.errors import ModelError
from tamis.model.load import ModelSource, hidden_size
from tamis.representations.compute import rows_in_batches
from tamis.representations.hidden import weighted_mean
from tiny import random_llama

CPU = torch.device("cpu")


def by_hand(model: nn.Module, encoded: Encoded) -> np.ndarray:
    """One row alone, all hidden states asked for, in float64."""
    with torch.no_grad():
        out = model(input_ids=torch.tensor(encoded.input_ids[None].astype(np.int64)), output_hidden_states=True)
    hidden = out.hidden_states[-1][0].double().numpy()
    place = np.arange(1, len(hidden) + 1)
    return place @ hidden / place.sum()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("model", [random_llama(), gpt2()], ids=["llama", "gpt2"])
def test_a_row_is_the_weighted_mean_of_its_own_tokens(model: nn.Module, examples: list[Encoded]) -> None:
    with torch.no_grad():
        together = weighted_mean(model, examples, CPU).numpy()
    assert together.dtype == np.float32
    for row, encoded in zip(together, examples, strict=True):
        np.testing.assert_allclose(row, by_hand(model, encoded), rtol=1e-4, atol=1e-6)


def test_padding_batches_and_order_do_not_matter(examples: list[Encoded]) -> None:
    model = random_llama()

    @torch.no_grad()
    def rows(items: list[Encoded]) -> np.ndarray:
        return weighted_mean(model, items, CPU).numpy()

    alone = rows_in_batches(rows, examples, [[i] for i in range(8)], lambda _: None)
    for batches in ([list(range(8))], [[7, 0, 1], [5], [3, 2], [6, 4]], [[i] for i in reversed(range(8))]):
        np.testing.assert_allclose(rows_in_batches(rows, examples, batches, lambda _: None), alone, atol=1e-6)


def test_the_prompt_counts_and_so_does_what_follows_the_last_supervised_token(examples: list[Encoded]) -> None:
    model = random_llama()
    first = examples[0]
    with torch.no_grad():
        before = weighted_mean(model, [first], CPU).numpy()
        for place in (0, len(first.input_ids) - 1):
            ids = first.input_ids.copy()
            ids[place] = (ids[place] + 1) % 64
            after = weighted_mean(model, [Encoded(ids, first.mask, 0)], CPU).numpy()
            assert np.abs(after - before).max() > 1e-4


def test_the_width_is_that_of_what_comes_out(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "word_embed_proj_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = OPTConfig(vocab_size=64, ffn_dim=32, max_position_embeddings=64, **shape)
    model = OPTForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    one = Encoded(np.arange(5, dtype=np.int32), np.arange(5) > 2, 0)
    assert weighted_mean(model, [one], CPU).shape[1] == hidden_size(ModelSource(str(tmp_path))) == 16


def test_a_model_without_hidden_states_is_refused(examples: list[Encoded]) -> None:
    class Odd(nn.Module):
        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> torch.Tensor:
            return input_ids

    with pytest.raises(ModelError, match="Odd gives no last_hidden_state"):
        weighted_mean(Odd(), examples, CPU)
