"""Conversations as tokens, with the mask of the tokens that count in the loss.

A chat template writes a conversation as text. The text of every assistant turn, its end-of-turn token included, is
found in that text, and a token counts where it overlaps such a span. How the spans are found:

- generation markers: the template marks the turns itself with `{% generation %}`. Where its marks stop short of the
  end-of-turn token, that token is added.
- prefix difference: the turn is what rendering the conversation up to and with the turn adds to rendering it up to the
  turn with the generation prompt, white space at the end left out. Both are verified to stand in the full text. Where
  they do not, because the template writes an earlier turn in another way than the last (Qwen3 drops earlier thinking),
  or where it has no generation prompt, the turn's content is found by putting another content in its place, verified
  again, and the end-of-turn token of the last turn is added where it follows. What cannot be verified is an error.
- plain: the built-in template, which has markers.

Not covered: an end-of-turn token that only earlier turns have (gpt-oss) does not count without markers. Text in a
conversation that looks like a special token becomes that token, as everywhere in transformers.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Int64
from jinja2 import TemplateError

from tamis.data.example import Example, Message, digest
from tamis.data.template import PLAIN_TEMPLATE, Span, split_sentinels, template_text, with_sentinels
from tamis.errors import ChatError

_PROBE = "\ufdd2"  # a noncharacter: Unicode keeps it out of text, so a template cannot write one by itself
_MASK_RULES = 1  # part of the fingerprint: count up when the same template may give another mask
_REMEDY = "add {% generation %} markers to the template, or use --template plain"


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """An example's tokens. mask: True = the token counts in the loss. n_truncated: tokens cut off on the right."""

    input_ids: Int32[np.ndarray, " seq"]
    mask: Bool[np.ndarray, " seq"]
    n_truncated: int

    @property
    def n_tokens(self) -> int:
        """Tokens of the row."""
        return len(self.input_ids)

    @property
    def n_supervised(self) -> int:
        """Tokens in the loss. The first token of a row is never predicted, so it never counts."""
        return int(self.mask[1:].sum())


class Chat:
    """A tokenizer with a chat template and a length.

    tokenizer   a fast Hugging Face tokenizer
    max_tokens  longer rows are cut on the right
    template    None: the tokenizer's own, or plain if it has none; "plain"; a Jinja template; a file that holds one
    name        which way the loss mask is found
    fingerprint digest of all that the tokens and the mask depend on

    ChatError: no usable template or tokenizer. Not covered: slow tokenizers, content that is not text.
    """

    def __init__(self, tokenizer: Any, *, max_tokens: int, template: str | None = None) -> None:
        if max_tokens < 2:
            raise ChatError(f"max_tokens: expected at least 2, one to read and one to predict, found {max_tokens}")
        if not getattr(tokenizer, "is_fast", False):
            raise ChatError(f"{type(tokenizer).__name__} has no character offsets: a fast tokenizer is needed")
        self._tokenizer, self._max_tokens = tokenizer, max_tokens
        self._template = template_text(tokenizer, template)
        self._marked = with_sentinels(self._template)
        self.name = "prefix difference" if self._marked is None else "generation markers"
        if self._template == PLAIN_TEMPLATE:
            self.name = "plain"
            if not tokenizer.eos_token:
                raise ChatError("the plain template ends a turn with eos_token, but this tokenizer has none: set one")
        self.fingerprint = self._fingerprint()
        self._end_of_turn = self._find_end_of_turn()
        self._difference_is_turn = self._marked is None and self._check_difference()

    def render(self, example: Example) -> str:
        """The conversation as the template writes it."""
        return self._render(example.messages, example.tools)

    def encode(self, example: Example) -> Encoded:
        """Tokens and loss mask; every assistant turn that is `in_loss` counts, with its end-of-turn token.

        ChatError: the template refuses the conversation, or a turn cannot be found with certainty, or has no token.
        A row that is cut before its first supervised token comes back with n_supervised 0.
        """
        text = self._render(example.messages, example.tools)
        spans = self._spans(example, text)
        ids, offsets = self._tokenize(text)
        mask = np.zeros(len(ids), dtype=bool)
        n_found = 0
        for start, end in spans:
            # A token that reaches into the span counts: some vocabularies join a word with the space before it.
            tokens = (offsets[:, 0] < end) & (offsets[:, 1] > start)
            n_found += bool(tokens.any())
            mask |= tokens
        n_turns = sum(_learnt(message) for message in example.messages)
        if n_found < n_turns:
            raise ChatError(f"only {n_found} of {n_turns} assistant turns have a token in the loss: {_REMEDY}")
        kept = slice(self._max_tokens)
        return Encoded(ids[kept], mask[kept], max(0, len(ids) - self._max_tokens))

    # ---- what a model is to go on from -------------------------------------------------------------------------------

    @property
    def template(self) -> str:
        """The Jinja text that writes conversations."""
        return self._template

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that an answer ends before: the end of an assistant's turn, and what a user's turn begins with."""
        question, answer = Message("user", "x"), Message("assistant", _PROBE)
        _, _, after = self._render((question, answer, replace(question, content=_PROBE))).partition(_PROBE)
        between = after.partition(_PROBE)[0]
        ends = self._up_to_special(between)
        parts = (ends, between.removeprefix(ends))
        return tuple("\n" * part.startswith("\n") + part.strip() for part in parts if part.strip())

    def prompt(self, example: Example) -> str:
        """The conversation before its last assistant turn, and the words with which the template begins that turn.

        ChatError: the template refuses the conversation, or nothing stands before that turn.
        """
        position = max((i for i, m in enumerate(example.messages) if m.role == "assistant"), default=0)
        if position == 0:
            raise ChatError("expected a question before the last assistant turn, found none")
        return self._prompt(example.messages[:position], example.tools)

    def _prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None) -> str:
        prompt = self._render(messages, tools, add_generation_prompt=True)
        if prompt != self._render(messages, tools):
            return prompt
        # No generation prompt. A space before the answer is left for the answer: words are tokens with their space
        return self._render((*messages, Message("assistant", _PROBE)), tools).partition(_PROBE)[0].rstrip(" ")

    @cached_property
    def _opening(self) -> str:
        """What the template writes between a prompt and an answer: nothing, a space, or an empty thought."""
        question, answer = Message("user", "x"), Message("assistant", _PROBE)
        prompt, before = self._prompt((question,)), self._render((question, answer)).partition(_PROBE)[0]
        return before.removeprefix(prompt) if before.startswith(prompt) else ""

    def encode_prompt(self, prompt: str, max_tokens: int) -> Encoded:
        """Tokens of a prompt, none of them in the mask; of more than max_tokens the first are cut off."""
        return self._cut(prompt, len(prompt), max_tokens)

    def encode_answer(self, prompt: str, answer: str) -> Encoded:
        """Tokens of a prompt and an answer, where those that reach into the answer are in the mask.

        Of more tokens than the chat's max_tokens the first are cut off.
        """
        return self._cut(prompt + self._opening + answer, len(prompt + self._opening), self._max_tokens)

    def _cut(self, text: str, n_before: int, max_tokens: int) -> Encoded:
        ids, offsets = self._tokenize(text)
        kept = slice(max(0, len(ids) - max_tokens), None)
        return Encoded(ids[kept], offsets[kept, 1] > n_before, kept.start)

    # ---- spans of the assistant turns in the text ------------------------------------------------------------------

    def _spans(self, example: Example, text: str) -> list[Span]:
        if self._marked is None:
            return [
                self._turn(example, text, position)
                for position, message in enumerate(example.messages)
                if _learnt(message)
            ]
        plain, spans = split_sentinels(self._render(example.messages, example.tools, template=self._marked))
        if plain != text:
            raise ChatError(
                "the generation markers change the text of this row: it holds a character that Unicode reserves "
                "(U+FDD0, U+FDD1), which must go; or the template depends on them: use --template plain"
            )
        flags = [_learnt(message) for message in example.messages if message.role == "assistant"]
        if not all(flags):
            if len(spans) != len(flags):
                raise ChatError(
                    f"{len(flags)} assistant turns have {len(spans)} spans, so none can be left out of the loss"
                )
            spans = [span for span, learnt in zip(spans, flags, strict=True) if learnt]
        return [self._with_end_of_turn(text, span) for span in spans]

    def _turn(self, example: Example, text: str, position: int) -> Span:
        """The span of one assistant turn by prefix difference, or by substitution where that is not exact."""
        messages, tools = example.messages, example.tools
        if position == 0 or not (self._difference_is_turn or messages[position].tool_calls):
            return self._with_end_of_turn(text, self._substituted(example, text, position))
        prefix = self._render(messages[:position], tools, add_generation_prompt=True)
        through = self._render(messages[: position + 1], tools).rstrip()
        if len(through) > len(prefix) and through.startswith(prefix) and text.startswith(through):
            return len(prefix), len(through)
        start, end = self._substituted(example, text, position)
        begins = len(prefix) if text.startswith(prefix) else start
        return self._with_end_of_turn(text, (min(begins, start), end))

    def _substituted(self, example: Example, text: str, position: int) -> Span:
        turn = example.messages[position]
        number = f"assistant turn (message {position + 1})"
        if turn.tool_calls:
            raise ChatError(f"the template writes the {number} in another way when more turns follow: {_REMEDY}")
        probed = list(example.messages)
        probed[position] = replace(turn, content=_PROBE)
        before, _, after = self._render(probed, example.tools).partition(_PROBE)
        start, end = len(before), len(text) - len(after)
        exact = text.startswith(before) and text.endswith(after) and start < end
        if not exact or _PROBE in after or text[start:end].strip() not in turn.content:
            raise ChatError(f"the template rewrites the {number}, so it cannot be found in the text: {_REMEDY}")
        return start, end

    def _check_difference(self) -> bool:
        """False for a template without generation prompt: there the difference begins with the words before a turn."""
        question, answer = Message("user", "x"), Message("assistant", _PROBE)
        prompt = self._render((question,), add_generation_prompt=True)
        header = self._render((question, answer)).partition(_PROBE)[0].removeprefix(prompt)
        return prompt != self._render((question,)) or not header.strip()

    def _find_end_of_turn(self) -> str:
        """What the template writes after an assistant's last word, up to its first special token."""
        probe = (Message("user", "x"), Message("assistant", _PROBE))
        if self._marked is None:
            text = self._render(probe)
            found, after = _PROBE in text, text.partition(_PROBE)[2]
        else:
            text, spans = split_sentinels(self._render(probe, template=self._marked))
            found = _PROBE in "".join(text[start:end] for start, end in spans)
            after = text[spans[-1][1] :] if spans else ""
        if not found:
            where = "inside its generation markers" if self._marked else "at all"
            raise ChatError(f"the template does not write an assistant's text {where}: {_REMEDY}")
        return self._up_to_special(after)

    def _up_to_special(self, text: str) -> str:
        """The text up to and with its first special token, or all of it, without white space at its end."""
        special = [re.escape(token.content) for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        first = re.search("|".join(sorted(special, key=len, reverse=True)), text) if special else None
        return text[: first.end()] if first else text.rstrip()

    def _with_end_of_turn(self, text: str, span: Span) -> Span:
        start, end = span
        return start, end + len(self._end_of_turn) if text.startswith(self._end_of_turn, end) else end

    # ---- template and tokenizer ------------------------------------------------------------------------------------

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = False,
        template: str | None = None,
    ) -> str:
        turns: list[dict[str, Any]] = [{"role": message.role, "content": message.content} for message in messages]
        for turn, message in zip(turns, messages, strict=True):
            if message.tool_calls:
                turn["tool_calls"] = list(message.tool_calls)
        try:
            text = self._tokenizer.apply_chat_template(
                turns,
                tools=list(tools) if tools else None,
                chat_template=template or self._template,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(message.role for message in messages)
            raise ChatError(f"the chat template refuses this conversation (roles: {roles}): {error}") from error
        return str(text)

    def _tokenize(self, text: str) -> tuple[Int32[np.ndarray, " seq"], Int64[np.ndarray, "seq 2"]]:
        """Token ids, and the characters from and to which each reaches."""
        encoding = self._tokenizer(
            text,
            add_special_tokens=False,  # the template writes them
            return_offsets_mapping=True,
            return_attention_mask=False,
            truncation=False,
            padding=False,
            verbose=False,
        )
        offsets = np.asarray(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        return np.asarray(encoding["input_ids"], dtype=np.int32), offsets

    def _fingerprint(self) -> str:
        backend = json.loads(self._tokenizer.backend_tokenizer.to_str())
        for state in ("truncation", "padding"):  # set by earlier calls, no part of what the tokenizer is
            backend.pop(state, None)
        facts = [_MASK_RULES, self._template, backend, self._tokenizer.special_tokens_map, self._max_tokens]
        return digest(json.dumps(facts, sort_keys=True, default=str).encode())


def _learnt(message: Message) -> bool:
    return message.role == "assistant" and message.in_loss
