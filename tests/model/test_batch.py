"""Batches, and the loss of each example in one, against transformers' own loss row by row."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertLMHeadModel

from tamis.data.chat import Encoded
from tamis.errors import ModelError
from tamis.model.batch import check_causal, collate, example_losses, token_batches
from tiny import random_llama

CPU = torch.device("cpu")


def example(ids: list[int], mask: list[int]) -> Encoded:
    return Encoded(np.array(ids, np.int32), np.array(mask, bool), 0)


ROWS = [
    example([1, 2, 3, 4, 5, 6], [0, 0, 1, 1, 0, 0]),
    example([7, 8, 9], [0, 1, 1]),
    example([3, 1, 4, 1, 5, 9, 2, 6], [1, 0, 0, 1, 0, 0, 1, 1]),
]


def test_collate_pads_on_the_right_and_shifts_the_mask():
    batch = collate(ROWS[:2], CPU, pad_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4], [7, 8, 9, 0]], "tokens after the last supervised one are dropped"
    assert batch.predicts.tolist() == [[False, True, True, False], [True, True, False, False]]
    assert batch.n_predicted.tolist() == [2, 2]


def test_losses_equal_transformers_row_by_row():
    model = random_llama()
    found = example_losses(model, collate(ROWS, CPU))
    for row, loss in zip(ROWS, found, strict=True):
        ids = torch.from_numpy(row.input_ids.astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(row.mask)[None], ids, -100)
        labels[0, 0] = -100
        torch.testing.assert_close(loss, model(input_ids=ids, labels=labels).loss)


def test_a_row_without_supervised_tokens_has_loss_zero():
    found = example_losses(random_llama(), collate([ROWS[0], example([1, 2], [0, 0])], CPU))
    assert found[1] == 0
    assert found[0] > 0


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(1, 200))
@settings(deadline=None)
def test_token_batches_hold_each_row_once_within_the_budget(lengths, budget):
    batches = token_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
        assert longest == lengths[batch[0]]


def test_a_causal_model_passes_and_another_is_refused():
    check_causal(random_llama(), CPU)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    with pytest.raises(ModelError, match="BertLMHeadModel is not causal"):
        check_causal(BertLMHeadModel(config).eval(), CPU)


def test_a_model_that_changes_hidden_states_before_its_head_is_refused():
    model = random_llama()
    model.get_output_embeddings().register_forward_hook(lambda _, __, logits: logits[:-1])
    with pytest.raises(ModelError, match="expected logits at the 7 supervised positions alone"):
        example_losses(model, collate(ROWS, CPU))
