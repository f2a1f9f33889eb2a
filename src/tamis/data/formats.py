"""Row formats: a JSON object is recognised by its fields and turned into messages.

To add a format, add a row to `FORMATS`. A row is read as the first format whose required fields it has.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from tamis.data.example import Message
from tamis.data.lines import BadRow, Row, UnknownRow
from tamis.data.messages import decoded, is_blank, kind, message, turns
from tamis.errors import InputError

Fields = Mapping[str, tuple[str, ...]]
Messages = tuple[Message, ...]

NAMEABLE_FIELDS = ("prompt", "completion", "messages", "system", "tools", "id", "source", "group")
_TEXT_FIELDS = ("prompt", "completion")
_END_OF_TEXT = "<|endoftext|>"
_NO_INPUT = re.compile(r"\W*(no ?input( required)?|n/a)\W*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Format:
    """How rows of one format are known and read.

    required   each entry lists alternative fields, of which one must be there; a field that is null is not there
    optional   fields that are read where they are there
    convert    row → messages; raises BadRow
    split      row → rows of one example each, where a row may hold several
    """

    name: str
    required: tuple[tuple[str, ...], ...]
    optional: tuple[str, ...]
    convert: Callable[[Row], Messages]
    split: Callable[[Row], list[Row]] | None = None

    def fits(self, row: Row) -> bool:
        """Whether every required field is there."""
        return None not in [_present(row, names) for names in self.required]

    def fields(self, row: Row) -> tuple[str, ...] | None:
        """The fields this format reads of the row, or None where a required one is missing."""
        if not self.fits(row):
            return None
        found = (_present(row, names) for names in self.required)
        return (*(name for name in found if name), *(name for name in self.optional if row.get(name) is not None))


def _present(row: Row, names: Sequence[str]) -> str | None:
    for name in names:
        if row.get(name) is not None:
            return name
    return None


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise BadRow(f"field {name} is {kind(value)}, expected a string")
    return value


# ---- conversions -------------------------------------------------------------------------------------------------


def _conversation(*names: str) -> Callable[[Row], Messages]:
    def convert(row: Row) -> Messages:
        name = _present(row, names) or names[0]
        return turns(row[name], name)

    return convert


def _question(row: Row, prompt: str, context: str | None = None) -> str:
    """The prompt. A context that is not empty follows it after a blank line."""
    asked = [_text(row, prompt)]
    if context is not None and row.get(context) is not None:
        asked.append(_text(row, context))
    question = "\n\n".join(part for part in asked if not is_blank(part))
    if not question:  # an answer to nothing shows no instruction, just as plain text shows none
        raise BadRow(f"empty {prompt}")
    return question


def _pair(prompt: str, answers: tuple[str, ...], context: str | None = None) -> Callable[[Row], Messages]:
    """One user and one assistant turn."""

    def convert(row: Row) -> Messages:
        question = _question(row, prompt, context)
        answer_field = _present(row, answers) or answers[0]
        # Old completion files end every answer with this marker; the chat template writes its own end of turn.
        answer = _text(row, answer_field).removesuffix(_END_OF_TEXT)
        if is_blank(answer):
            raise BadRow(f"empty {answer_field}")
        return (Message("user", question), Message("assistant", answer))

    return convert


def _without_marker(row: Row) -> Row:
    """Alpaca's generated rows say "<noinput>", "No input", "N/A" where there is no input: nothing is appended then."""
    marker = isinstance(row.get("input"), str) and _NO_INPUT.fullmatch(row["input"])
    return {**row, "input": None} if marker else row


def _alpaca(row: Row) -> Messages:
    """`history` holds earlier turns as pairs of question and answer."""
    earlier: list[Message] = []
    for number, pair in enumerate(decoded(row.get("history")) or [], 1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise BadRow(f"entry {number} of history is {kind(pair)}, expected a pair of question and answer")
        earlier += [Message("user", pair[0]), Message("assistant", pair[1])]
    return (*earlier, *_pair("instruction", ("output", "response"), "input")(_without_marker(row)))


def _instances(row: Row) -> list[Row]:
    instances = decoded(row["instances"])
    if not isinstance(instances, list) or not instances or not all(isinstance(item, dict) for item in instances):
        raise BadRow(f"field instances is {kind(instances)}, expected a list of objects with input and output")
    return [{**row, "input": None, "output": None, **instance} for instance in instances]


def _before(row: Row, names: Sequence[str]) -> Messages:
    """What stands before a reply: turns, or one prompt. The assistant turns in it are no part of the reply."""
    name = _present(row, names)
    if name is None:
        raise BadRow(f"a reply without a conversation or prompt before it (fields: {', '.join(row)})")
    if isinstance(decoded(row[name]), list):
        return tuple(replace(turn, in_loss=turn.role != "assistant") for turn in turns(row[name], name))
    context = "input" if name == "instruction" else None
    return (Message("user", _question(_without_marker(row), name, context)),)


def _prompt_completion(row: Row) -> Messages:
    """Strings, or lists of turns (TRL's conversational form)."""
    answer = _present(row, _ANSWER) or _ANSWER[0]
    if not any(isinstance(decoded(row[name]), list) for name in ("prompt", answer)):
        return _pair("prompt", _ANSWER)(row)
    return (*_before(row, ("prompt",)), *_reply(row[answer], answer))


def _reply(value: Any, name: str) -> Messages:
    value = decoded(value)
    if isinstance(value, list):
        return turns(value, name)
    return (message({"role": "assistant", "content": value} if isinstance(value, str) else value, 1),)


def _preference(row: Row) -> Messages:
    """The conversation with the chosen reply; a chosen reply that is a whole conversation stands alone."""
    reply = _reply(row["chosen"], "chosen")
    if any(turn.role == "user" for turn in reply):
        return reply
    return (*_before(row, ("conversations", "messages", "prompt", "instruction", "question")), *reply)


_ANSWER = ("completion", "response")
_ALPACA_ANSWER = ("output", "response")
FORMATS = (
    Format("messages", (("messages",),), ("tools", "system"), _conversation("messages")),
    Format(
        "sharegpt",
        (("conversations", "conversation"),),
        ("tools", "system"),
        _conversation("conversations", "conversation"),
    ),
    Format("prompt/completion", (("prompt",), _ANSWER), ("tools", "system"), _prompt_completion),
    Format(
        "dolly",
        (("instruction",), ("context",), ("response",)),
        ("system",),
        _pair("instruction", ("response",), "context"),
    ),
    Format("alpaca", (("instruction",), _ALPACA_ANSWER), ("input", "history", "system"), _alpaca),
    Format("self-instruct", (("instruction",), ("instances",)), ("system",), _alpaca, _instances),
    Format("question/answer", (("question",), ("answer",)), ("system",), _pair("question", ("answer",))),
)
# Only on request: which of two replies to learn is not for a reader to decide
_PREFERENCE = Format(
    "preference",
    (("chosen",), ("rejected",)),
    ("conversations", "messages", "prompt", "instruction", "input", "question", "system", "tools"),
    _preference,
)
FORMAT_NAMES = (*(format_.name for format_ in FORMATS), _PREFERENCE.name)
_FORCED = {"messages": FORMATS[0], "prompt": FORMATS[2], "completion": FORMATS[2]}
_EXPECTED = " | ".join(" + ".join(" or ".join(names) for names in f.required) for f in FORMATS)
REMEDY = f"expected {_EXPECTED}, or columns named by --field prompt=COLUMN --field completion=COLUMN"


def format_named(name: str) -> Format:
    """The format of this name. InputError, naming the nearest."""
    for format_ in (*FORMATS, _PREFERENCE):
        if format_.name == name:
            return format_
    near = difflib.get_close_matches(name, FORMAT_NAMES, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise InputError(f"--format {name}: expected one of {', '.join(FORMAT_NAMES)}{hint}")


def recognise(row: Row, first: Format | None = None) -> Format:
    """The format of a row: `first` where it fits, else the first of FORMATS that does. BadRow, naming the fields."""
    if row.get("messages") is None and _PREFERENCE.fits(row) and first is not _PREFERENCE:
        raise UnknownRow("preference data (chosen and rejected)", "--format preference reads the chosen replies")
    for format_ in (*([first] if first else []), *FORMATS):
        if format_.fits(row):
            return format_
    raise _unknown(row)


def unwrapped(row: Row) -> Row:
    """The inner row of {"row": {...}, ...}, as the hub's viewer serves rows; other outer fields stay."""
    inner = row.get("row")
    return {**{name: row[name] for name in row if name != "row"}, **inner} if isinstance(inner, dict) else row


def _unknown(row: Row) -> UnknownRow:
    """What the row lacks of the format it is nearest to."""
    near: list[tuple[int, str]] = []
    for format_ in FORMATS:
        found = [_present(row, names) for names in format_.required]
        missing = [" or ".join(names) for names, name in zip(format_.required, found, strict=True) if name is None]
        if any(found):
            has = " and ".join(name for name in found if name)
            near.append((len(missing), f"{has} without {' and '.join(missing)}"))
    only_text = "text without prompt and answer" if isinstance(row.get("text"), str) else "no known fields"
    nested = [name for name, value in row.items() if isinstance(value, dict) or _is_nested(value)]
    inside = f"; nested records in {', '.join(nested)} are not looked into" if nested else ""
    reason = f"{min(near, key=itemgetter(0))[1] if near else only_text} (found: {', '.join(row) or 'none'}{inside})"
    return UnknownRow(reason, REMEDY)


def _is_nested(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict | list) for item in value)


def messages_of(row: Row, format_: Format) -> Messages:
    """The row's messages. BadRow where there is no assistant turn to learn from."""
    messages = format_.convert(row)
    if row.get("system") is not None and messages[0].role != "system":
        system = _text(row, "system")
        messages = messages if is_blank(system) else (Message("system", system), *messages)
    if all(turn.role != "assistant" for turn in messages):
        raise BadRow(f"no assistant turn (roles: {', '.join(turn.role for turn in messages)})")
    if not any(turn.role == "assistant" and turn.in_loss for turn in messages):
        raise BadRow("no assistant turn to learn from: each is marked as left out of the loss")
    return messages


# ---- fields named by the user ------------------------------------------------------------------------------------


def check_fields(fields: Fields, format_name: str | None = None) -> Format | None:
    """The format that the named fields or --format force, if any. InputError for names that cannot be given."""
    for name, columns in fields.items():
        if name not in NAMEABLE_FIELDS:
            near = difflib.get_close_matches(name, NAMEABLE_FIELDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"--field {name}=...: expected one of {', '.join(NAMEABLE_FIELDS)}, found {name!r}{hint}")
        if not columns or not all(columns) or (len(columns) > 1 and name not in _TEXT_FIELDS):
            several = " or several, joined by commas" if name in _TEXT_FIELDS else ""
            raise InputError(f"--field {name}={','.join(columns)}: expected the name of one column{several}")
    if "messages" in fields and (named := [name for name in _TEXT_FIELDS if name in fields]):
        raise InputError(f"--field messages=... and --field {named[0]}=... exclude each other: give one of them")
    forced = next((format_ for name, format_ in _FORCED.items() if name in fields), None)
    if format_name is None:
        return forced
    named_format = format_named(format_name)
    if forced not in (None, named_format):
        raise InputError(f"--format {format_name} and --field for {forced.name} exclude each other: give one of them")
    return named_format


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
            raise BadRow(f"field {column} is {kind(value)}, expected a string or a number")
        parts.append("" if value is None else str(value))
    return "\n".join(part for part in parts if part)
