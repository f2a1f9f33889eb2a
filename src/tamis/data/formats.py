"""Row formats: a JSON object is recognised by its fields and turned into messages.

To add a format, add a row to `FORMATS`. A row is read as the first format whose required fields it has.
"""

import difflib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tamis.data.example import Message
from tamis.data.lines import BadRow, Row
from tamis.errors import InputError

Fields = Mapping[str, tuple[str, ...]]

ROLES = ("system", "user", "assistant", "tool")
NAMEABLE_FIELDS = ("prompt", "completion", "messages", "id", "source", "group")
_TEXT_FIELDS = ("prompt", "completion")
_END_OF_TEXT = "<|endoftext|>"
_NO_INPUT = re.compile(r"\W*(no ?input( required)?|n/a)\W*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Format:
    """How rows of one format are known and read.

    required   each entry lists alternative fields, of which one must be there; a field that is null is not there
    optional   fields that are read where they are there
    convert    row → messages; raises BadRow
    """

    name: str
    required: tuple[tuple[str, ...], ...]
    optional: tuple[str, ...]
    convert: Callable[[Row], tuple[Message, ...]]

    def fields(self, row: Row) -> tuple[str, ...] | None:
        """The fields this format reads of the row, or None where a required one is missing."""
        found = [_present(row, names) for names in self.required]
        if None in found:
            return None
        return (*(name for name in found if name), *(name for name in self.optional if row.get(name) is not None))


def _present(row: Row, names: Sequence[str]) -> str | None:
    return next((name for name in names if row.get(name) is not None), None)


def is_blank(text: str) -> bool:
    """Nothing but white space and characters without a glyph, such as the zero-width space."""
    return all(char.isspace() or unicodedata.category(char) == "Cf" for char in text)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise BadRow(f"field {name} is {_kind(value)}, expected a string")
    return value


# ---- conversions -------------------------------------------------------------------------------------------------


def _turns(row: Row) -> tuple[Message, ...]:
    turns = row["messages"]
    if not isinstance(turns, list):
        raise BadRow(f"field messages is {_kind(turns)}, expected a list")
    if not turns:
        raise BadRow("messages is empty")
    return tuple(_message(turn, number) for number, turn in enumerate(turns, 1))


def _message(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise BadRow(f"message {number} is {_kind(turn)}, expected an object with role and content")
    role, calls = turn.get("role"), turn.get("tool_calls")
    if role not in ROLES:
        found = "no role" if role is None else f"the unknown role {repr(role)[:40]}"
        raise BadRow(f"message {number} has {found}, expected one of {', '.join(ROLES)}")
    if calls is not None:
        calls = objects(calls, f"tool_calls of message {number}")
    content = "" if calls and turn.get("content") is None else turn.get("content")
    if not isinstance(content, str):
        raise BadRow(f"content of message {number} ({role}) is {_kind(content)}, expected a string")
    if role in ("user", "assistant") and not calls and is_blank(content):
        raise BadRow(f"message {number} ({role}) is empty")
    return Message(role, content, calls or None)


def objects(value: Any, what: str) -> tuple[dict[str, Any], ...]:
    """A list of JSON objects as a tuple. BadRow for anything else."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRow(f"{what}: found {_kind(value)}, expected a list of objects")
    return tuple(value)


def _pair(prompt: str, answers: tuple[str, ...], context: str | None = None) -> Callable[[Row], tuple[Message, ...]]:
    """One user and one assistant turn. A context that is not empty follows the prompt after a blank line."""

    def convert(row: Row) -> tuple[Message, ...]:
        asked = [_text(row, prompt)]
        if context is not None and row.get(context) is not None:
            asked.append(_text(row, context))
        answer_field = _present(row, answers) or answers[0]
        # Old completion files end every answer with this marker; the chat template writes its own end of turn.
        answer = _text(row, answer_field).removesuffix(_END_OF_TEXT)
        question = "\n\n".join(part for part in asked if not is_blank(part))
        # An answer to nothing shows no instruction, just as plain text shows none.
        if not question:
            raise BadRow(f"empty {prompt}")
        if is_blank(answer):
            raise BadRow(f"empty {answer_field}")
        return (Message("user", question), Message("assistant", answer))

    return convert


def _alpaca(row: Row) -> tuple[Message, ...]:
    """Alpaca's generated rows say "<noinput>", "No input", "N/A" where there is no input: nothing is appended then."""
    marker = isinstance(row.get("input"), str) and _NO_INPUT.fullmatch(row["input"])
    return _pair("instruction", ("output", "response"), "input")({**row, "input": None} if marker else row)


_ANSWER = ("completion", "response")
FORMATS = (
    Format("messages", (("messages",),), ("tools",), _turns),
    Format("prompt/completion", (("prompt",), _ANSWER), (), _pair("prompt", _ANSWER)),
    Format(
        "dolly", (("instruction",), ("context",), ("response",)), (), _pair("instruction", ("response",), "context")
    ),
    Format("alpaca", (("instruction",), ("output", "response")), ("input",), _alpaca),
    Format("question/answer", (("question",), ("answer",)), (), _pair("question", ("answer",))),
)
_MESSAGES, _PROMPT_COMPLETION = FORMATS[:2]
EXPECTED = " | ".join(" + ".join(" or ".join(names) for names in f.required) for f in FORMATS)


def recognise(row: Row, first: Format | None = None) -> Format:
    """The format of a row: `first` where it fits, else the first of FORMATS that does. BadRow, naming the fields."""
    for format_ in (*([first] if first else []), *FORMATS):
        if format_.fields(row) is not None:
            return format_
    raise _unknown(row)


def _unknown(row: Row) -> BadRow:
    """What the row lacks of the format it is nearest to."""
    near: list[tuple[int, str]] = []
    for format_ in FORMATS:
        found = [_present(row, names) for names in format_.required]
        missing = [" or ".join(names) for names, name in zip(format_.required, found, strict=True) if name is None]
        if any(found):
            has = " and ".join(name for name in found if name)
            near.append((len(missing), f"{has} without {' and '.join(missing)}"))
    listed = ", ".join(row) or "none"
    return BadRow(f"{min(near)[1]} (fields: {listed})" if near else f"no known fields (found: {listed})")


def messages_of(row: Row, format_: Format) -> tuple[Message, ...]:
    """The row's messages. BadRow where there is no assistant turn to learn from."""
    messages = format_.convert(row)
    if all(message.role != "assistant" for message in messages):
        raise BadRow(f"no assistant turn (roles: {', '.join(message.role for message in messages)})")
    return messages


# ---- fields named by the user ------------------------------------------------------------------------------------


def check_fields(fields: Fields) -> Format | None:
    """Refuse names that cannot be given (InputError). Returns the format that the named fields force, if any."""
    for name, columns in fields.items():
        if name not in NAMEABLE_FIELDS:
            near = difflib.get_close_matches(name, NAMEABLE_FIELDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"--field {name}=...: expected one of {', '.join(NAMEABLE_FIELDS)}, found {name!r}{hint}")
        if not columns or not all(columns) or (len(columns) > 1 and name not in _TEXT_FIELDS):
            several = " or several, joined by commas" if name in _TEXT_FIELDS else ""
            raise InputError(f"--field {name}={','.join(columns)}: expected the name of one column{several}")
    if "messages" in fields:
        if named := [name for name in _TEXT_FIELDS if name in fields]:
            raise InputError(f"--field messages=... and --field {named[0]}=... exclude each other: give one of them")
        return _MESSAGES
    return _PROMPT_COMPLETION if any(name in fields for name in _TEXT_FIELDS) else None


def with_fields(row: Row, fields: Fields) -> Row:
    """The row with the named fields filled from their columns. BadRow where a column is missing.

    Text columns may hold strings or numbers; those that are not empty are joined by a newline.
    """
    named: Row = {}
    for name, columns in fields.items():
        if missing := [column for column in columns if column not in row]:
            raise BadRow(f"no field {missing[0]} (found: {', '.join(row)})")
        # `subtask` is read before `group`, so a group that was asked for is put there
        key = "subtask" if name == "group" else name
        named[key] = _joined(row, columns) if name in _TEXT_FIELDS else row[columns[0]]
    return {**row, **named}


def _joined(row: Row, columns: Sequence[str]) -> str:
    parts = []
    for column in columns:
        value = row[column]
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            raise BadRow(f"field {column} is {_kind(value)}, expected a string or a number")
        parts.append("" if value is None else str(value))
    return "\n".join(part for part in parts if part)
