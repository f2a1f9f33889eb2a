"""A model's answers in text: batched, seeded, each row by itself.

Prompts are padded on the left and the padding masked, longest first. An answer ends at the end of turn that the chat
template writes, where a user's turn would begin (a base model goes on with one), at an end-of-text token, or after
max_new_tokens. At a temperature T > 0 a token is drawn from softmax(logits / T) as the highest of logits / T + Gumbel
noise, whose generator is the row's own: so in float32 neither the batch nor its order changes what a row gets. In
bfloat16 and float16 a batch of another shape rounds otherwise, and where two tokens are nearly as likely the answer may
go another way (of 32 greedy answers in bfloat16, 5 did).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor, nn

from tamis.errors import ModelError
from tamis.model.batch import token_batches
from tamis.model.load import input_device

Ids = Int32[np.ndarray, " _"]  # each of its own length


@dataclass(frozen=True, slots=True)
class Writing:
    """How answers are written. batch_tokens: rows × (longest prompt + max_new_tokens) of one batch."""

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    batch_tokens: int = 4096


@dataclass(frozen=True, slots=True)
class Stops:
    """Where an answer ends: token ids, and texts that no single token writes."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]

    @classmethod
    def of(cls, model: nn.Module, tokenizer: Any, texts: Sequence[str]) -> "Stops":
        """Texts that begin with a special token end an answer there; to them come the end-of-text tokens."""
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        ids, spelled = set(), []
        for text in texts:
            first = tokenizer(text.strip(), add_special_tokens=False)["input_ids"][:1]
            if first and first[0] in special:
                ids.add(first[0])
            elif text.strip():
                spelled.append(text.rstrip())
        known = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        ids |= set(known if isinstance(known, list) else [known]) | {tokenizer.eos_token_id}
        return cls(tuple(sorted(i for i in ids if i is not None)), tuple(spelled))

    def cut(self, text: str) -> str:
        """The text before the first of the stops that are texts."""
        ends = [place for stop in self.texts if (place := text.find(stop)) >= 0]
        return text[: min(ends, default=len(text))]


class Answer(NamedTuple):
    """What a model wrote, and whether max_new_tokens ended it, not the model."""

    text: str
    cut: bool


@torch.no_grad()
def generate(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Ids],
    stops: Stops,
    writing: Writing,
    keys: Sequence[str] = (),
) -> list[Answer]:
    """The answer to each prompt. The model is left in evaluation mode.

    keys  what each row's draws depend on beside the seed, at a temperature above 0: hexadecimal, such as ids

    ModelError: a model that cannot write.
    """
    inner = _inner(model).eval()
    if not hasattr(inner, "generate"):
        raise ModelError(f"{type(inner).__name__} cannot write text: expected a causal language model of transformers")
    lengths = [len(ids) + writing.max_new_tokens for ids in prompts]
    answers = [Answer("", False)] * len(prompts)
    for batch in _batches(inner, prompts, lengths, writing.batch_tokens):
        draws = [_Draws(writing.seed, keys[i]) for i in batch] if writing.temperature else []
        written = _write(inner, tokenizer, [prompts[i] for i in batch], stops, writing, draws)
        for i, ids in zip(batch, written, strict=True):
            ends = np.flatnonzero(np.isin(ids, stops.ids))
            kept = ids[: ends[0]] if len(ends) else ids
            text = tokenizer.decode(kept.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
            kept_text = stops.cut(text)
            answers[i] = Answer(kept_text, not len(ends) and kept_text == text and len(ids) >= writing.max_new_tokens)
    return answers


def _inner(model: nn.Module) -> Any:
    """The model within PEFT's: its adapter lies in its layers, and it takes a generation's settings as they are."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def _batches(
    model: nn.Module, prompts: Sequence[Ids], lengths: Sequence[int], batch_tokens: int
) -> Iterator[list[int]]:
    """Rows that go together, by length; only rows of one length where the model minds padding on the left."""
    if _heeds_mask(model):
        yield from token_batches(lengths, batch_tokens)
        return
    for length in sorted({len(ids) for ids in prompts}, reverse=True):
        same = [i for i, ids in enumerate(prompts) if len(ids) == length]
        for batch in token_batches([lengths[i] for i in same], batch_tokens):
            yield [same[i] for i in batch]


def _heeds_mask(model: nn.Module) -> bool:
    """Whether the next token of a row is the same with masked padding before it."""
    vocab = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    row = torch.arange(1, 9, device=input_device(model))[None] * 7 % vocab
    padded = torch.cat([row.new_zeros(1, 5), row], dim=1)
    mask = torch.cat([row.new_zeros(1, 5), torch.ones_like(row)], dim=1)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    try:
        with_padding = model(input_ids=padded, attention_mask=mask, position_ids=places, use_cache=False).logits[0, -1]
    except TypeError:  # a model without positions
        with_padding = model(input_ids=padded, attention_mask=mask, use_cache=False).logits[0, -1]
    alone = model(input_ids=row, use_cache=False).logits[0, -1]
    tolerance = 1e-3 if alone.dtype == torch.float32 else 1e-1
    return bool(torch.allclose(with_padding.float(), alone.float(), rtol=tolerance, atol=tolerance))


def _write(
    model: Any, tokenizer: Any, prompts: list[Ids], stops: Stops, writing: Writing, draws: list["_Draws"]
) -> Int64[np.ndarray, "batch new"]:
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    width = max(map(len, prompts))
    pad = stops.ids[0] if stops.ids else 0
    ids = np.full((len(prompts), width), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    device = input_device(model)

    def noisy(_: Tensor, logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch vocab"]:
        noise = torch.from_numpy(np.stack([draw.gumbel(logits.shape[1]) for draw in draws]))
        return logits.float() / writing.temperature + noise.to(logits.device)

    def spelled(written: Int64[Tensor, "batch seq"], _: Any, **__: Any) -> Bool[Tensor, " batch"]:
        tail = max(len(stop.encode()) for stop in stops.texts) + 1  # a token writes a byte or more
        texts = tokenizer.batch_decode(written[:, max(width, written.shape[1] - tail) :])
        return torch.tensor([any(stop in text for stop in stops.texts) for text in texts], device=written.device)

    make: Any = GenerationConfig
    settings = make(
        max_new_tokens=writing.max_new_tokens,
        do_sample=False,
        eos_token_id=list(stops.ids) or None,
        pad_token_id=pad,
    )
    with _own_settings(model):
        written = model.generate(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=torch.from_numpy(mask).to(device),
            generation_config=settings,
            logits_processor=LogitsProcessorList([noisy] if draws else []),
            stopping_criteria=StoppingCriteriaList([spelled] if stops.texts else []),
        )
    found: np.ndarray = written[:, width:].cpu().numpy()
    return found


@contextmanager
def _own_settings(model: Any) -> Iterator[None]:
    """Without those that came with the model: repetition penalties, temperatures and lengths that nobody asked for."""
    from transformers import GenerationConfig

    make: Any = GenerationConfig
    before, model.generation_config = model.generation_config, make()
    try:
        yield
    finally:
        model.generation_config = before


class _Draws:
    """The noise of one row."""

    def __init__(self, seed: int, key: str) -> None:
        self._rng = np.random.default_rng([seed, int(key, 16)])

    def gumbel(self, n: int) -> np.ndarray:
        """The next n numbers: −log(−log u)."""
        return self._rng.gumbel(size=n).astype(np.float32)
