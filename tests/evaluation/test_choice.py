"""Options by log-likelihood, against one row at a time in plain transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tamis.data.chat import Chat
from tamis.errors import InputError
from tamis.evaluation.choice import encode_options, pick, scores
from tamis.evaluation.references import Options
from tamis.model.load import ModelSource, load_tokenizer

PROMPTS = [
    "<|user|>\nHow much is 2 and 5?\nA. 7\nB. 8\nAnswer:\n<|assistant|>\n",
    "<|user|>\nSay one.\n<|assistant|>\n",
    "<|user|>\nIs iron a fruit? Is apple?\n<|assistant|>\n",
    "<|user|>\nX\nA. 1\nB. 2\n<|assistant|>\n",
]
OPTIONS = [
    Options(("A", "B"), 0, False),
    Options(("one", "one and two and three", "two"), 0, True),
    Options(("Yes, it is a fruit.", "No.", "café"), 1, True),
    Options(("A", "B"), 1, False),
]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def chat(tiny_model: Path) -> Chat:
    return Chat(load_tokenizer(ModelSource(str(tiny_model))), max_tokens=96)


def alone(model: nn.Module, chat: Chat, prompt: str, option: str) -> float:
    """log P(option | prompt) of one row, without anything of tamis but the tokenizer."""
    tokenizer = chat._tokenizer
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = tokenizer(prompt + option, add_special_tokens=False)["input_ids"]
    assert ids[: len(before)] == before
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logs[i - 1, ids[i]]) for i in range(len(before), len(ids)))


@pytest.mark.parametrize("batch_tokens", [1, 60, 4096])
def test_scores_are_those_of_each_row_alone(model: nn.Module, chat: Chat, batch_tokens: int) -> None:
    rows = [encode_options(chat, prompt, given) for prompt, given in zip(PROMPTS, OPTIONS, strict=True)]
    assert [len({e.n_supervised for e in row}) > 1 for row in rows] == [False, True, True, False]
    found = scores(model, rows, OPTIONS, batch_tokens)
    for prompt, given, values in zip(PROMPTS, OPTIONS, found, strict=True):
        expected = [alone(model, chat, prompt, text) / (len(text) if given.by_length else 1) for text in given.texts]
        assert np.allclose(values, expected, atol=1e-4)
        assert values.argmax() == np.argmax(expected)


def test_a_model_that_knows_the_letter_chooses_it(chat: Chat) -> None:
    """A model whose next token is always B."""

    class Knows(nn.Module):
        def __init__(self, token: int, n_tokens: int) -> None:
            super().__init__()
            self.token = token
            self.embedding, self.head = nn.Embedding(n_tokens, 4), nn.Linear(4, n_tokens, bias=False)

        def get_input_embeddings(self) -> nn.Module:
            return self.embedding

        def get_output_embeddings(self) -> nn.Module:
            return self.head

        def forward(self, input_ids: torch.Tensor, **_: object) -> object:
            logits = self.head(self.embedding(input_ids)) * 0
            logits[..., self.token] = 9.0
            return type("Output", (), {"logits": logits})

    token = chat._tokenizer("B", add_special_tokens=False)["input_ids"][0]
    knows = Knows(token, len(chat._tokenizer))
    given = Options(("A", "B", "C"), 1, False)
    (values,) = scores(knows, [encode_options(chat, PROMPTS[0], given)], [given], 4096)
    assert values.argmax() == given.right
    assert values[0] == values[2] < values[1]


def test_a_tie_with_the_right_option_is_not_right() -> None:
    given = Options(("right", "wrong", "other"), 0, True)
    assert [pick(np.array(values), given) for values in ([2, 2, 1.0], [2, 1, 1.0], [1, 2, 2.0])] == [1, 0, 1]


def test_an_option_without_tokens_is_refused(chat: Chat) -> None:
    with pytest.raises(InputError, match="has no token"):
        encode_options(chat, PROMPTS[0], Options(("", "B"), 1, False))
    with pytest.raises(InputError, match="leaves none of the prompt"):
        encode_options(chat, PROMPTS[0], Options(("A", "one " * 100), 0, True))
