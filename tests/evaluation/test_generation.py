"""Answers in text: of a batch, each as it is alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from representations.families import FAMILIES, family
from tamis.errors import ModelError
from tamis.evaluation.generate import Stops, Writing, generate
from tamis.model.load import LoraSettings, ModelSource, add_lora, load_base, load_tokenizer

QUESTIONS = ["How much is 2 and 5?", "Is iron a fruit?", "Say one twice. And two. And three, four, five.", "O", "Why?"]
KEYS = [f"{i:032x}" for i in range(len(QUESTIONS))]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(ModelSource(str(tiny_model)))


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> nn.Module:
    return load_base(ModelSource(str(tiny_model)))


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[np.ndarray]:
    texts = [f"<|user|>\n{question}\n<|assistant|>\n" for question in QUESTIONS]
    return [np.array(tokenizer(text, add_special_tokens=False)["input_ids"], np.int32) for text in texts]


def greedy(model: nn.Module, ids: np.ndarray, n_tokens: int) -> list[int]:
    """The likeliest token each time, with nothing but forward passes."""
    row = torch.from_numpy(ids.astype(np.int64))[None]
    with torch.no_grad():
        for _ in range(n_tokens):
            row = torch.cat([row, model(input_ids=row).logits[:, -1:].argmax(-1)], 1)
    return row[0, len(ids) :].tolist()


NONE = Stops((), ())


def texts(*given: Any) -> list[str]:
    """What `generate` gives, without whether it was cut."""
    return [answer.text for answer in generate(*given)]


@pytest.mark.parametrize("batch_tokens", [1, 90, 4096])
def test_greedy_answers_are_those_of_forward_passes(
    model: nn.Module, tokenizer: Any, prompts: list[np.ndarray], batch_tokens: int
) -> None:
    assert len({len(ids) for ids in prompts}) > 3
    found = texts(model, tokenizer, prompts, NONE, Writing(24, batch_tokens=batch_tokens))
    expected = [tokenizer.decode(greedy(model, ids, 24), skip_special_tokens=True) for ids in prompts]
    assert found == expected
    assert len(set(found)) > 3


def test_sampled_answers_do_not_depend_on_the_batch(
    model: nn.Module, tokenizer: Any, prompts: list[np.ndarray]
) -> None:
    def sampled(order: list[int], seed: int, batch_tokens: int) -> dict[int, str]:
        writing = Writing(24, temperature=1.0, seed=seed, batch_tokens=batch_tokens)
        found = texts(model, tokenizer, [prompts[i] for i in order], NONE, writing, [KEYS[i] for i in order])
        return dict(zip(order, found, strict=True))

    together = sampled([0, 1, 2, 3, 4], 7, 4096)
    assert sampled([4, 2, 0, 3, 1], 7, 1) == together
    assert sampled([2], 7, 4096)[2] == together[2]
    other = sampled([0, 1, 2, 3, 4], 8, 4096)
    assert all(other[i] != together[i] for i in range(5))


def test_samples_have_the_probabilities_of_the_temperature(tokenizer: Any) -> None:
    """One step of a model whose logits are known, drawn 4,000 times."""
    from tiny import random_llama

    model = random_llama(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=None)
    model.lm_head.weight.mul_(40)
    ids = np.array([5, 6, 7], np.int32)
    with torch.no_grad():
        expected = (model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1] / 2).softmax(-1).numpy()
    keys = [f"{i:x}" for i in range(4000)]
    found = texts(model, tokenizer, [ids] * 4000, NONE, Writing(1, temperature=2.0, batch_tokens=4000), keys)
    tokens = [tokenizer.decode([i], skip_special_tokens=True) for i in range(len(tokenizer))]
    for i in np.argsort(-expected)[:4]:
        same = [j for j, text in enumerate(tokens) if text == tokens[i]]
        share = np.mean([text == tokens[i] for text in found])
        assert share == pytest.approx(expected[same].sum(), abs=0.03)
    assert expected.max() > 0.03


def test_answers_end_at_stops(model: nn.Module, tokenizer: Any, prompts: list[np.ndarray]) -> None:
    written = [greedy(model, ids, 24) for ids in prompts]
    whole = texts(model, tokenizer, prompts, NONE, Writing(24))
    token = written[0][6]
    by_id = texts(model, tokenizer, prompts, Stops((token,), ()), Writing(24))
    for ids, text in zip(written, by_id, strict=True):
        end = ids.index(token) if token in ids else len(ids)
        assert text == tokenizer.decode(ids[:end], skip_special_tokens=True)
    stop = whole[0][5:9]
    n_steps = []
    handle = model.register_forward_hook(lambda *_: n_steps.append(1))
    by_text = texts(model, tokenizer, prompts[:1], Stops((), (stop,)), Writing(24))
    handle.remove()
    assert all(answer.cut for answer in generate(model, tokenizer, prompts, NONE, Writing(24)))
    assert not generate(model, tokenizer, prompts[:1], Stops((), (stop,)), Writing(24))[0].cut
    ended = [answer.cut for answer in generate(model, tokenizer, prompts, Stops((token,), ()), Writing(24))]
    assert ended == [token not in ids for ids in written]
    assert by_text == [whole[0][: whole[0].index(stop)]]
    assert len(n_steps) < 24  # it stopped there: it was not only cut


def test_stops_of_a_template(model: nn.Module, tokenizer: Any) -> None:
    end, user = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|user|>"])
    found = Stops.of(model, tokenizer, ("<|endoftext|>", "\n<|user|>", "\nQ: "))
    assert found == Stops(tuple(sorted((end, user))), ("\nQ:",))


def test_settings_that_come_with_a_model_are_left_aside(
    tiny_model: Path, tokenizer: Any, prompts: list[np.ndarray]
) -> None:
    model: Any = load_base(ModelSource(str(tiny_model)))
    plain = texts(model, tokenizer, prompts, NONE, Writing(24))
    own = model.generation_config
    own.update(do_sample=True, temperature=5.0, repetition_penalty=3.0, no_repeat_ngram_size=1, max_length=20)
    assert texts(model, tokenizer, prompts, NONE, Writing(24)) == plain
    assert model.generation_config is own
    assert own.repetition_penalty == 3.0


def test_an_adapter_writes_too(tiny_model: Path, tokenizer: Any, prompts: list[np.ndarray]) -> None:
    base = load_base(ModelSource(str(tiny_model)))
    plain = texts(base, tokenizer, prompts, NONE, Writing(12))
    adapted = add_lora(base, LoraSettings(4, 8, 0.0, "attention"), 0)
    assert texts(adapted, tokenizer, prompts, NONE, Writing(12)) == plain  # B is still 0
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter.data, std=0.5)
    found = texts(adapted, tokenizer, prompts, NONE, Writing(12))
    assert found != plain
    assert found == [tokenizer.decode(greedy(adapted, ids, 12), skip_special_tokens=True) for ids in prompts]


class MindsPadding(nn.Module):
    """A model that looks at its padding: what it gives depends on the absolute place."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        kwargs.pop("attention_mask", None), kwargs.pop("position_ids", None)
        return self.inner(input_ids=input_ids, **kwargs)

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        assert attention_mask.all()
        return self.inner.generate(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)


def test_a_model_that_minds_padding_gets_none(model: nn.Module, tokenizer: Any, prompts: list[np.ndarray]) -> None:
    found = texts(MindsPadding(model), tokenizer, [*prompts, prompts[0]], NONE, Writing(12))
    assert found[:-1] == [tokenizer.decode(greedy(model, ids, 12), skip_special_tokens=True) for ids in prompts]
    assert found[-1] == found[0]


def test_a_model_that_cannot_write_is_refused(tokenizer: Any, prompts: list[np.ndarray]) -> None:
    with pytest.raises(ModelError, match="Linear cannot write"):
        generate(nn.Linear(2, 2), tokenizer, prompts, NONE, Writing(2))


class Numbers:
    """A tokenizer that writes token ids."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(map(str, ids))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_writes_in_a_batch_as_alone(name: str) -> None:
    model = family(name)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 64, n).astype(np.int32) for n in (9, 3, 14, 6)]
    found = texts(model, Numbers(), prompts, NONE, Writing(12))
    assert found == [Numbers().decode(greedy(model, ids, 12)) for ids in prompts]
