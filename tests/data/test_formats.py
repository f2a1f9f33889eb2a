import json
from dataclasses import replace
from typing import Any

import pytest

from tamis.data.example import Message, conversation_id
from tamis.data.formats import check_fields, format_named, messages_of, recognise, with_fields
from tamis.data.lines import BadRow
from tamis.data.messages import is_blank
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


Q, A = Message("user", "Q"), Message("assistant", "A")
EARLIER = (Message("user", "q"), Message("assistant", "a"))
UNLEARNT = (EARLIER[0], replace(EARLIER[1], in_loss=False))
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, (Q, A)),
        ({"conversations": json.dumps(TURNS)}, (Q, A)),
        ({"conversation": TURNS, "system": "S"}, (Message("system", "S"), Q, A)),
        ({"messages": [{"role": "system", "content": "T"}, *TURNS], "system": "S"}, (Message("system", "T"), Q, A)),
        ({"messages": [{"role": "Human", "content": "Q"}, {"role": "Assistant ", "content": "A"}]}, (Q, A)),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, TURNS[1]]}, (Q, A)),
        ({"messages": [{"role": "user", "content": ["", {"text": "Q"}]}, TURNS[1]]}, (Q, A)),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, (Q, A)),
        (
            {"prompt": [{"role": m.role, "content": m.content} for m in (*EARLIER, Q)], "completion": "A"},
            (*UNLEARNT, Q, A),
        ),
        ({"prompt": "Q", "completion": "A", "system": "S"}, (Message("system", "S"), Q, A)),
        ({"instruction": "Q", "output": "A", "system": " ", "history": [["q", "a"]]}, (*EARLIER, Q, A)),
        ({"instruction": "", "instances": [], "input": "Q", "output": "A"}, (Q, A)),
        (
            {"conversations": [TURNS[0], {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'}]},
            (Q, Message("assistant", "", (CALL,))),
        ),
        (
            {"messages": [TURNS[0], {"role": "assistant", "function_call": {"name": "f", "arguments": '{"x": 1}'}}]},
            (Q, Message("assistant", "", (CALL,))),
        ),
        (
            {
                "messages": [
                    TURNS[0],
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ""}}]},
                ]
            },
            (Q, Message("assistant", "", ({"function": {"name": "f", "arguments": {}}},))),
        ),
        (
            {"messages": [TURNS[0], TURNS[1] | {"weight": 0}, TURNS[0] | {"loss": False}, TURNS[1] | {"train": True}]},
            (Q, replace(A, in_loss=False), Q, A),
        ),
    ],
)
def test_conversations(row: dict[str, Any], messages: tuple[Message, ...]) -> None:
    assert messages_of(row, recognise(row)) == messages


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "A"},
        {"question": "Q", "chosen": "A"},
        {"instruction": "Q", "input": "n/a", "chosen": "A"},
        {"conversations": [{"from": "human", "value": "Q"}], "chosen": {"from": "gpt", "value": "A"}},
        {"prompt": "ignored", "chosen": TURNS},
        {"prompt": TURNS[:1], "chosen": TURNS[1:]},
    ],
)
def test_preference_reads_the_chosen_reply(row: dict[str, Any]) -> None:
    assert messages_of(row | {"rejected": "B"}, format_named("preference")) == (Q, A)


def test_preference_learns_no_turn_before_the_chosen_one() -> None:
    prompt = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}, {"from": "human", "value": "Q"}]
    row = {"conversations": prompt, "chosen": "A", "rejected": "B"}
    assert messages_of(row, format_named("preference")) == (*UNLEARNT, Q, A)
    with pytest.raises(BadRow, match="a reply without a conversation or prompt before it"):
        messages_of({"chosen": "A", "rejected": "B"}, format_named("preference"))


def test_a_turn_left_out_of_the_loss_makes_another_example() -> None:
    learnt, other = (*EARLIER, Q, A), (*UNLEARNT, Q, A)
    assert conversation_id(learnt) != conversation_id(other)


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
        ({"text": "x", "meta": 1}, "text without prompt and answer (found: text, meta)"),
        (
            {"Text": "x", "turns": [{}]},
            "no known fields (found: Text, turns; nested records in turns are",
        ),
        ({"id": 1, "prompt": "x"}, "prompt without completion or response (found: id, prompt)"),
        ({"instruction": "x"}, "instruction without output or response (found: instruction)"),
        ({"question": "x", "answer": None}, "question without answer (found: question, answer)"),
        ({"prompt": "x", "completion": ""}, "empty completion"),
        ({"prompt": "x", "completion": "<|endoftext|>"}, "empty completion"),
        ({"prompt": "x", "response": "\u200b \n"}, "empty response"),
        ({"prompt": " ", "completion": "x"}, "empty prompt"),
        ({"instruction": "", "input": "", "output": "x"}, "empty instruction"),
        ({"question": "x", "answer": 4}, "field answer is a number, expected a string"),
        ({"prompt": {}, "completion": "x"}, "field prompt is an object, expected a string"),
        ({"instruction": "x", "input": {}, "output": "y"}, "field input is an object, expected a string"),
        ({"messages": "x"}, "field messages is a string, expected a list"),
        ({"messages": []}, "messages is empty"),
        (messages("x"), "message 1 is a string, expected an object with role and content"),
        (messages({"content": "x"}), "message 1 has no role, expected one of system, user, assistant, tool"),
        (
            messages(TURNS[0], {"role": "poet", "content": "x"}),
            "message 2 has the unknown role 'poet', expected one of system, user, assistant, tool",
        ),
        (messages({"role": ["user"], "content": "x"}), "message 1 has the unknown role ['user']"),
        (messages({"role": "user", "content": None}), "content of message 1 (user) is null, expected a string"),
        (messages({"role": "user", "content": True}), "content of message 1 is true or false"),
        (messages({"role": "user", "content": [{}]}), "message 1 has a part without text: only text is read"),
        (
            messages({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}),
            "message 1 has a part of type image_url: only text is read",
        ),
        (messages(TURNS[0], {"role": "assistant", "content": ""}), "message 2 (assistant) is empty"),
        (messages({"role": "user", "content": "\ufeff"}, TURNS[1]), "message 1 (user) is empty"),
        (messages({"role": "system", "content": "x"}, TURNS[0]), "no assistant turn (roles: system, user)"),
        ({"prompt": "x", "chosen": "y", "rejected": "z"}, "preference data (chosen and rejected)"),
        ({"conversations": TURNS[:1], "chosen": {}, "rejected": {}}, "preference data (chosen and rejected)"),
        (messages(TURNS[0], TURNS[1] | {"train": False}), "no assistant turn to learn from: each is marked"),
        (
            messages(TURNS[0], TURNS[1] | {"weight": 0.5}),
            "weight of message 2 is 0.5, expected true or false",
        ),
        (
            messages(TURNS[0] | {"train": True}, TURNS[1]),
            "train of message 1 asks to learn a user turn",
        ),
        (messages(TURNS[0], {"from": "function_call", "value": "f(x)"}), "the function call of message 2 is not JSON"),
        ({"instruction": "Q", "output": "A", "history": [["q"]]}, "entry 1 of history is a list, expected a pair"),
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


def test_a_format_by_name() -> None:
    assert getattr(check_fields({}, "preference"), "name", None) == "preference"
    assert getattr(check_fields({"id": ("x",)}, "alpaca"), "name", None) == "alpaca"
    with pytest.raises(InputError, match="did you mean sharegpt"):
        check_fields({}, "share_gpt")
    with pytest.raises(InputError, match="--format alpaca and --field for prompt/completion exclude each other"):
        check_fields({"prompt": ("x",)}, "alpaca")
