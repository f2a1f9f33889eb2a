"""Multiple choice by log-likelihood: the option that the model finds likeliest after the question. Nothing is written.

Score of an option o after prompt p: log P(o | p) = sum over the tokens t of o of log P(t | p, what precedes t in o),
without an end of turn. Where options are texts of several lengths it is divided by their characters, as lm-eval's
acc_norm is (Gao et al., EleutherAI/lm-evaluation-harness); letters all have one length and are not. The highest score
wins; the right option is found only where its score is above that of every wrong one (see `pick`).
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import nn

from tamis.data.chat import Chat, Encoded
from tamis.errors import InputError
from tamis.evaluation.loss import losses
from tamis.evaluation.references import Options
from tamis.model.batch import only_at, token_batches
from tamis.model.load import input_device


def encode_options(chat: Chat, prompt: str, options: Options) -> list[Encoded]:
    """Each option after the prompt; the prompt is cut on the left. InputError for an option that leaves it no token."""
    encoded = [chat.encode_answer(prompt, text) for text in options.texts]
    for text, row in zip(options.texts, encoded, strict=True):
        if not row.mask.any() or row.mask[0]:
            raise InputError(f"the option {text[:40]!r} has no token, or leaves none of the prompt")
    return encoded


def scores(
    model: nn.Module, rows: Sequence[Sequence[Encoded]], options: Sequence[Options], batch_tokens: int
) -> list[Float64[np.ndarray, " option"]]:
    """Of each question, the score of each option: log P(o | p), or that by character.

    A question whose options are one token each goes through the model once, any other once for every option.
    """
    once = [i for i, row in enumerate(rows) if _is_one_token(row)]
    sums = dict(zip(once, _of_one_token(model, [rows[i] for i in once], batch_tokens), strict=True))
    several = [i for i in range(len(rows)) if i not in sums]
    flat = [encoded for i in several for encoded in rows[i]]
    means = iter(losses(model, flat, batch_tokens).astype(np.float64))
    for i in several:
        sums[i] = np.array([-next(means) * encoded.n_supervised for encoded in rows[i]])
    lengths = [[len(text) if given.by_length else 1 for text in given.texts] for given in options]
    return [sums[i] / np.array(lengths[i]) for i in range(len(rows))]


def pick(values: Float64[np.ndarray, " option"], options: Options) -> int:
    """The place of the option with the highest score; of equal ones the first wrong one, for a tie shows nothing."""
    best = np.flatnonzero(values == values.max())
    return int(next((place for place in best if place != options.right), best[0]))


def _is_one_token(row: Sequence[Encoded]) -> bool:
    """Whether the options differ in the last token alone."""
    before = row[0].input_ids[:-1]
    return all(e.n_supervised == 1 and e.mask[-1] and np.array_equal(e.input_ids[:-1], before) for e in row)


@torch.no_grad()
def _of_one_token(
    model: nn.Module, rows: Sequence[Sequence[Encoded]], batch_tokens: int
) -> list[Float64[np.ndarray, " option"]]:
    """log P of each option's token after the prompt that a question's options share."""
    head, device = model.eval().get_output_embeddings(), input_device(model)  # type: ignore[operator]
    prompts = [row[0].input_ids[:-1] for row in rows]
    out: list[np.ndarray] = [np.zeros(0)] * len(rows)
    for batch in token_batches([len(prompt) for prompt in prompts], batch_tokens):
        ids = np.zeros((len(batch), max(len(prompts[i]) for i in batch)), dtype=np.int64)
        last = np.zeros(ids.shape, dtype=bool)
        for place, i in enumerate(batch):
            ids[place, : len(prompts[i])] = prompts[i]
            last[place, len(prompts[i]) - 1] = True
        with only_at(head, torch.from_numpy(last).to(device)):
            logits = model(input_ids=torch.from_numpy(ids).to(device), use_cache=False).logits
        logs = logits.float().log_softmax(-1).double().cpu().numpy()
        for place, i in enumerate(batch):
            out[i] = logs[place, [int(encoded.input_ids[-1]) for encoded in rows[i]]]
    return out
