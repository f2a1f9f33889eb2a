"""One training example: a conversation, and where it came from."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `role` is system, user, assistant or tool; an assistant turn not `in_loss` is read but not learnt."""

    role: str
    content: str
    tool_calls: tuple[dict[str, Any], ...] | None = None
    in_loss: bool = True


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation with its origin. Make one with `Example.of`, which computes the id.

    id           32 hex digits: 128-bit digest of exactly the messages and tools, so equal conversations have equal ids
    row_id       the data's own id, if it has one
    source       field `source`, else `dataset`, else the file's stem
    group        field `subtask`, else `group`, else None
    file, row    the file as it was named, and the line in it, counted from 1
    line_digest  digest of the original line, by which export notices a file that changed
    instance     where a row holds several examples: which one, counted from 1
    """

    messages: tuple[Message, ...]
    id: str
    row_id: str | None
    source: str
    group: str | None
    file: str
    row: int
    tools: tuple[dict[str, Any], ...] | None = None
    line_digest: str = ""
    instance: int | None = None

    @classmethod
    def of(
        cls,
        messages: Sequence[Message],
        *,
        source: str,
        file: str = "",
        row: int = 0,
        row_id: str | None = None,
        group: str | None = None,
        tools: tuple[dict[str, Any], ...] | None = None,
        line_digest: str = "",
        instance: int | None = None,
    ) -> "Example":
        """An example with its id computed."""
        id_ = conversation_id(messages, tools)
        return cls(tuple(messages), id_, row_id, source, group, file, row, tools, line_digest, instance)

    @property
    def text(self) -> str:
        """The conversation as plain lines `role: content`, for methods that read words."""
        lines = []
        for message in self.messages:
            calls = "" if message.tool_calls is None else json.dumps(message.tool_calls, ensure_ascii=False)
            lines.append(f"{message.role}: {message.content}{calls}")
        return "\n".join(lines)


def conversation_id(messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None) -> str:
    """BLAKE2b-128 of the canonical JSON [[[role, content, tool_calls], ...], tools]: sorted keys, no spaces.

    A turn that is left out of the loss has `false` as a fourth entry: its example has another gradient.
    """
    turns = [
        f"[{json.dumps(m.role)},{json.dumps(m.content)},{_canonical(m.tool_calls)}{'' if m.in_loss else ',false'}]"
        for m in messages
    ]
    return digest(f"[[{','.join(turns)}],{_canonical(tools)}]".encode())


def _canonical(value: Sequence[dict[str, Any]] | None) -> str:
    return "null" if value is None else json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(data: bytes) -> str:
    """BLAKE2b-128 in hex."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
