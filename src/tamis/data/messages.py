"""One turn of a conversation, as the many ways to write it down agree on it."""

import json
import unicodedata
from collections.abc import Sequence
from typing import Any

from tamis.data.example import Message
from tamis.data.lines import BadRow

ROLES = ("system", "user", "assistant", "tool")
# Compared without regard to case
_ROLE_NAMES = {role: role for role in ROLES} | {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "developer": "system",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "function_call": "function_call",
    "tool_call": "function_call",
}
_LOSS_FLAGS = ("train", "weight", "loss")


def is_blank(text: str) -> bool:
    """Nothing but white space and characters without a glyph, such as the zero-width space."""
    for char in text:  # noqa: SIM110  # as a rule the first one tells, and a generator for each text is slow
        if not (char.isspace() or unicodedata.category(char) == "Cf"):
            return False
    return True


def kind(value: Any) -> str:
    """What a JSON value is, for people."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def turns(value: Any, field: str) -> tuple[Message, ...]:
    """A list of turns, or the JSON string of one (as CSV has it), as messages. BadRow for anything else."""
    value = decoded(value)
    if not isinstance(value, list):
        raise BadRow(f"field {field} is {kind(value)}, expected a list")
    if not value:
        raise BadRow(f"{field} is empty")
    return tuple(message(turn, number) for number, turn in enumerate(value, 1))


def message(turn: Any, number: int) -> Message:
    """One turn: `role` or `from`, `content` or `value`, `tool_calls`, and the flags train, weight, loss."""
    if not isinstance(turn, dict):
        raise BadRow(f"message {number} is {kind(turn)}, expected an object with role and content")
    role = _role(_first(turn, "role", "from"), number)
    content = _content(_first(turn, "content", "value"), number)
    calls = _calls(turn, number)
    if role == "function_call":
        role, content, calls = "assistant", "", _call_of(content, number)
    if content is None:
        if not calls:
            raise BadRow(f"content of message {number} ({role}) is null, expected a string")
        content = ""
    if role in ("user", "assistant") and not calls and is_blank(content):
        raise BadRow(f"message {number} ({role}) is empty")
    return Message(role, content, calls, _in_loss(turn, role, number))


def objects(value: Any, what: str) -> tuple[dict[str, Any], ...]:
    """A list of JSON objects as a tuple, from a list or a JSON string. BadRow for anything else."""
    value = decoded(value)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRow(f"{what}: found {kind(value)}, expected a list of objects")
    return tuple(value)


def decoded(value: Any) -> Any:
    """The JSON array or object that a string holds, else the value as it is; an empty string is null."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        inner = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return inner if isinstance(inner, list | dict) else value


def _first(turn: dict[str, Any], *names: str) -> Any:
    for name in names:
        if (value := turn.get(name)) is not None:
            return value
    return None


def _role(name: Any, number: int) -> str:
    role = _ROLE_NAMES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        found = "no role" if name is None else f"the unknown role {repr(name)[:40]}"
        raise BadRow(f"message {number} has {found}, expected one of {', '.join(ROLES)}")
    return role


def _content(value: Any, number: int) -> str | None:
    """Text, or the text of a list of parts, joined."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise BadRow(f"content of message {number} is {kind(value)}, expected a string")
    texts = []
    for part in value:
        text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else part
        if not isinstance(text, str):
            found = part.get("type") if isinstance(part, dict) else None
            what = f"of type {str(found)[:40]}" if found and found != "text" else "without text"
            raise BadRow(f"message {number} has a part {what}: only text is read")
        texts.append(text)
    return "".join(texts)


def _calls(turn: dict[str, Any], number: int) -> tuple[dict[str, Any], ...] | None:
    """Tool calls with arguments as objects: chat templates print them as JSON, which would quote a string twice."""
    if turn.get("tool_calls") is not None:
        return tuple(map(_with_arguments, objects(turn["tool_calls"], f"tool_calls of message {number}"))) or None
    if turn.get("function_call") is not None:  # before there were tools
        return _call_of(turn["function_call"], number)
    return None


def _call_of(value: Any, number: int) -> tuple[dict[str, Any], ...]:
    """{"name": ..., "arguments": ...}, or several, also as a JSON string."""
    calls = decoded(value)
    if isinstance(calls, dict):
        calls = [calls]
    if not isinstance(calls, list) or not calls or not all(isinstance(c, dict) and "name" in c for c in calls):
        raise BadRow(f"the function call of message {number} is not JSON with name and arguments")
    return tuple(_with_arguments({"type": "function", "function": call}) for call in calls)


def _with_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    return {**call, "function": {**function, "arguments": decoded(function["arguments"]) or {}}}


def _in_loss(turn: dict[str, Any], role: str, number: int) -> bool:
    """False where a flag takes an assistant turn out of the loss."""
    if turn.keys().isdisjoint(_LOSS_FLAGS):
        return True
    flags: Sequence[str] = [name for name in _LOSS_FLAGS if turn.get(name) is not None]
    for name in flags:
        if turn[name] not in (0, 1):
            raise BadRow(f"{name} of message {number} is {repr(turn[name])[:40]}, expected true or false, or 1 or 0")
        if turn[name] and role != "assistant":
            raise BadRow(
                f"{name} of message {number} asks to learn a {role} turn: only assistant turns are learnt from"
            )
    return role != "assistant" or all(turn[name] for name in flags)
