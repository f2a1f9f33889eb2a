from typing import Any

import pytest

from tamis.data.formats import check_fields, is_blank, messages_of, recognise, with_fields
from tamis.data.lines import BadRow
from tamis.errors import InputError


def turns(row: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    format_ = recognise(row)
    return format_.name, [(message.role, message.content) for message in messages_of(row, format_)]


def asked(question: str, answer: str = "A") -> list[tuple[str, str]]:
    return [("user", question), ("assistant", answer)]


TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


@pytest.mark.parametrize(
    ("row", "name", "messages"),
    [
        ({"messages": TURNS}, "messages", asked("Q")),
        ({"messages": TURNS, "prompt": "X", "completion": "Y"}, "messages", asked("Q")),
        ({"messages": None, "prompt": "Q", "completion": "A"}, "prompt/completion", asked("Q")),
        ({"prompt": "Q", "response": "A"}, "prompt/completion", asked("Q")),
        ({"prompt": "Q ", "completion": " A\n<|endoftext|>"}, "prompt/completion", asked("Q ", " A\n")),
        ({"instruction": "Q", "input": "I", "output": "A"}, "alpaca", asked("Q\n\nI")),
        ({"instruction": "Q", "input": "", "output": "A"}, "alpaca", asked("Q")),
        ({"instruction": "Q", "input": None, "output": "A"}, "alpaca", asked("Q")),
        ({"instruction": "", "input": "I", "output": "A"}, "alpaca", asked("I")),
        ({"instruction": "Q", "response": "A"}, "alpaca", asked("Q")),
        ({"instruction": "Q", "output": None, "response": "A"}, "alpaca", asked("Q")),
        ({"instruction": "Q", "input": "<noinput>", "output": "A"}, "alpaca", asked("Q")),
        ({"instruction": "Q", "input": "No input required.", "output": "A"}, "alpaca", asked("Q")),
        ({"instruction": "Q", "input": "N/A", "output": "A"}, "alpaca", asked("Q")),
        ({"instruction": "Q", "input": "He was <noinput>", "output": "A"}, "alpaca", asked("Q\n\nHe was <noinput>")),
        ({"instruction": "Q", "context": "C", "response": "A"}, "dolly", asked("Q\n\nC")),
        ({"instruction": "Q", "context": " ", "response": "A"}, "dolly", asked("Q")),
        ({"instruction": "Q", "context": "N/A", "response": "A"}, "dolly", asked("Q\n\nN/A")),
        ({"question": "Q", "answer": "A"}, "question/answer", asked("Q")),
    ],
)
def test_formats(row: dict[str, Any], name: str, messages: list[tuple[str, str]]) -> None:
    assert turns(row) == (name, messages)


def test_all_roles_and_an_empty_system_message() -> None:
    roles = ["system", "user", "assistant", "tool", "assistant"]
    row = {"messages": [{"role": role, "content": "" if role == "system" else "x"} for role in roles]}
    assert turns(row) == ("messages", [(role, "" if role == "system" else "x") for role in roles])


def test_tool_calls_are_carried() -> None:
    row = {"messages": [TURNS[0], {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]}
    message = messages_of(row, recognise(row))[1]
    assert (message.content, message.tool_calls) == ("", ({"name": "f"},))


def messages(*turns: Any) -> dict[str, Any]:
    return {"messages": list(turns)}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "no known fields (found: none)"),
        ({"text": "x", "meta": 1}, "no known fields (found: text, meta)"),
        ({"id": 1, "prompt": "x"}, "prompt without completion or response (fields: id, prompt)"),
        ({"instruction": "x"}, "instruction without output or response (fields: instruction)"),
        ({"question": "x", "answer": None}, "question without answer (fields: question, answer)"),
        ({"prompt": "x", "completion": ""}, "empty completion"),
        ({"prompt": "x", "completion": "<|endoftext|>"}, "empty completion"),
        ({"prompt": "x", "response": "\u200b \n"}, "empty response"),
        ({"prompt": " ", "completion": "x"}, "empty prompt"),
        ({"instruction": "", "input": "", "output": "x"}, "empty instruction"),
        ({"question": "x", "answer": 4}, "field answer is a number, expected a string"),
        ({"prompt": [], "completion": "x"}, "field prompt is a list, expected a string"),
        ({"instruction": "x", "input": {}, "output": "y"}, "field input is an object, expected a string"),
        ({"messages": "x"}, "field messages is a string, expected a list"),
        ({"messages": []}, "messages is empty"),
        (messages("x"), "message 1 is a string, expected an object with role and content"),
        (messages({"content": "x"}), "message 1 has no role, expected one of system, user, assistant, tool"),
        (
            messages(TURNS[0], {"role": "gpt", "content": "x"}),
            "message 2 has the unknown role 'gpt', expected one of system, user, assistant, tool",
        ),
        (messages({"role": ["user"], "content": "x"}), "message 1 has the unknown role ['user']"),
        (messages({"role": "user", "content": None}), "content of message 1 (user) is null, expected a string"),
        (messages({"role": "user", "content": True}), "content of message 1 (user) is true or false"),
        (messages({"role": "user", "content": [{}]}), "content of message 1 (user) is a list, expected a string"),
        (messages(TURNS[0], {"role": "assistant", "content": ""}), "message 2 (assistant) is empty"),
        (messages({"role": "user", "content": "\ufeff"}, TURNS[1]), "message 1 (user) is empty"),
        (messages({"role": "system", "content": "x"}, TURNS[0]), "no assistant turn (roles: system, user)"),
        (messages(TURNS[0] | {"tool_calls": "f"}), "tool_calls of message 1: found a string, expected a list of"),
    ],
)
def test_bad_rows_say_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        turns(row)
    assert str(caught.value).startswith(reason)


def test_the_file_s_format_goes_first() -> None:
    both = {"prompt": "P", "completion": "C", "question": "Q", "answer": "A"}
    question = recognise({"question": "Q", "answer": "A"})
    assert recognise(both).name == "prompt/completion"
    assert recognise(both, question).name == "question/answer"


@pytest.mark.parametrize("text", ["", " \t\n", "\u200b\ufeff \u00a0"])
def test_blank(text: str) -> None:
    assert is_blank(text)
    assert not is_blank(text + "x")


def test_named_fields_are_joined_by_newlines() -> None:
    row = {"Body": "B", "Note": None, "Question": "Q", "Answer": 4.5, "key": 7, "kind": "k"}
    fields = {"prompt": ("Body", "Note", "Question"), "completion": ("Answer",), "id": ("key",), "group": ("kind",)}
    forced = check_fields(fields)
    read = with_fields(row, fields)
    assert forced is not None
    assert [message.content for message in messages_of(read, forced)] == ["B\nQ", "4.5"]
    assert (read["id"], read["subtask"]) == (7, "k")


def test_named_fields_that_are_not_there_or_not_text() -> None:
    with pytest.raises(BadRow, match=r"no field Body \(found: body\)"):
        with_fields({"body": "x"}, {"prompt": ("Body",)})
    with pytest.raises(BadRow, match="field Body is a list, expected a string or a number"):
        with_fields({"Body": []}, {"prompt": ("Body",)})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"promt": ("x",)}, "found 'promt'; did you mean prompt?"),
        ({"prompt": ()}, "expected the name of one column or several"),
        ({"prompt": ("a", "")}, "expected the name of one column or several"),
        ({"id": ("a", "b")}, "--field id=a,b: expected the name of one column"),
        ({"messages": ("a",), "prompt": ("b",)}, "exclude each other"),
    ],
)
def test_names_that_cannot_be_given(fields: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_fields(fields)
    assert message in str(caught.value)


def test_which_format_named_fields_force() -> None:
    assert check_fields({}) is None
    assert check_fields({"source": ("x",)}) is None
    assert [getattr(check_fields({name: ("x",)}), "name", None) for name in ("prompt", "completion", "messages")] == [
        "prompt/completion",
        "prompt/completion",
        "messages",
    ]
