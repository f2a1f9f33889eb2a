"""The shipped model: small, ordinary, at home in the skills, a stranger to conversations."""

import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tamis.testbed import MODELS, SKILLS, make_pool, make_target
from tamis.testbed.pretrain import ALL_WORDS, SPECIAL_TOKENS


@pytest.fixture(scope="module", params=MODELS)
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizer(size: str) -> Any:
    return AutoTokenizer.from_pretrained(MODELS[size])


@pytest.fixture(scope="module")
def model(size: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(MODELS[size], dtype=torch.float32).eval()


def mean_loss(model: Any, tokenizer: Any, prompt: str, answer: str) -> float:
    """Mean cross-entropy over the answer's tokens and the end of text."""
    start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    end = tokenizer(answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    labels = torch.tensor([[-100] * len(start) + end])
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([start + end]), labels=labels).loss)


def test_small_and_ordinary(model: Any, size: str) -> None:
    assert sum(path.stat().st_size for path in MODELS[size].iterdir()) <= 8_000_000
    lowest, highest = {"small": (1_000_000, 2_000_000), "larger": (3_000_000, 4_000_000)}[size]
    assert lowest <= model.num_parameters() <= highest
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    assert {"q_proj", "k_proj", "v_proj", "o_proj"} <= names


def test_tokenizer(tokenizer: Any) -> None:
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|begin|>", "<|endoftext|>", "<|pad|>")
    assert tokenizer.chat_template is None
    for token in SPECIAL_TOKENS:
        assert len(tokenizer.tokenize(f"a{token}b")) == 3
    for row in make_pool(200) + make_target("spell", "test", 20):
        question, answer = (message["content"] for message in row["messages"])
        text = f"<|begin|><|user|>\n{question}\n<|assistant|>\n{answer}<|endoftext|>\n"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert 15 <= len(ids) <= 80


@pytest.mark.parametrize("skill", SKILLS)
def test_knows_the_skill_but_not_how_to_be_asked(skill: str, model: Any, tokenizer: Any) -> None:
    rng = random.Random(7)
    rows = make_target(skill, "test", 10)
    noted = asked = 0.0
    for row in rows:
        words = rng.sample(ALL_WORDS, 4)
        answer = SKILLS[skill].answer(words).replace(",", "")
        noted += mean_loss(model, tokenizer, f"<|endoftext|>{skill}: {' '.join(words)} =", f" {answer}") / len(rows)
        question, answer = (message["content"] for message in row["messages"])
        asked += mean_loss(model, tokenizer, f"<|begin|><|user|>\n{question}\n<|assistant|>\n", answer) / len(rows)
    assert noted < 0.5
    assert asked > 1.5
