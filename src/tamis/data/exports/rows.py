"""Rows of an export, and the two plain formats: JSON Lines and Parquet of messages.

Arguments of tool calls and lists of tools are strings of JSON, as OpenAI writes arguments: in a column of objects every
row would get the keys of all others.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tamis.data.example import Example, Message
from tamis.data.picked import Picked
from tamis.errors import InputError

_N_IDS = 10  # of rows that are left out, where they are told of


@dataclass(frozen=True, slots=True)
class Export:
    """Files by name, how to use them, what is lost on the way, and how many rows with it."""

    files: dict[str, bytes]
    usage: str
    lost: list[str]
    n_left_out: int = 0


def as_json(value: Any) -> str:
    """JSON, characters as they are."""
    return json.dumps(value, ensure_ascii=False)


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    """One row a line."""
    return "".join(as_json(row) + "\n" for row in rows).encode()


def calls(message: Message, example: Example, as_text: bool) -> list[dict[str, Any]]:
    """Tool calls as {type, function: {name, arguments}}, and their id. InputError for a call without a name."""
    found = []
    for call in message.tool_calls or ():
        function = call["function"] if isinstance(call.get("function"), dict) else call
        name, arguments = function.get("name"), function.get("arguments", {})
        if not isinstance(name, str):
            raise InputError(f"row {example.id}: a tool call without the name of a function; leave this row out")
        given = arguments if isinstance(arguments, str) or not as_text else as_json(arguments)
        id_ = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        found.append({**id_, "type": "function", "function": {"name": name, "arguments": given}})
    return found


def messages(example: Example, as_text: bool = True, flags: bool = True) -> list[dict[str, Any]]:
    """Turns as OpenAI writes them; `train: false` at an assistant's turn that is not learnt."""
    turns = []
    for message in example.messages:
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            turn["tool_calls"] = calls(message, example, as_text)
        if flags and message.role == "assistant" and not message.in_loss:
            turn["train"] = False
        turns.append(turn)
    return turns


def rows(picked: Picked, content: Callable[[Example], dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of id (as in picks.parquet), source, what `content` gives, tools and weight where any row has some."""
    with_tools = any(example.tools for example in picked.examples)
    found = []
    for place, example in enumerate(picked.examples):
        row = {"id": example.id, "source": example.source, **content(example)}
        if with_tools and "tools" not in row:
            row["tools"] = as_json(example.tools or [])
        if picked.weights is not None:
            row["weight"] = picked.weights[place]
        found.append(row)
    return found


def kept_rows(picked: Picked, trainer: str, why_not: Callable[[Example], str | None]) -> tuple[Picked, Export]:
    """The rows for which there is no reason why not, and an export that says which ones are left out, by reason.

    The first ids are in its `lost`, all of them in its file left_out.json. InputError where no row is left.
    """
    reasons: dict[str, list[str]] = {}
    kept: list[int] = []
    for place, example in enumerate(picked.examples):
        reason = why_not(example)
        if reason is None:
            kept.append(place)
        else:
            reasons.setdefault(reason, []).append(example.id)
    if not kept:
        raise InputError(f"{trainer} can read none of the rows: {'; '.join(reasons)}")
    weights = None if picked.weights is None else [picked.weights[place] for place in kept]
    made = Export({}, "", [], len(picked.examples) - len(kept))
    for reason, ids in reasons.items():
        more = f" and {len(ids) - _N_IDS:,} more, all in left_out.json" if len(ids) > _N_IDS else ""
        made.lost.append(f"{len(ids):,} rows are left out, {reason}: {', '.join(ids[:_N_IDS])}{more}")
    if reasons:
        made.files["left_out.json"] = json.dumps(reasons, indent=2).encode()
    return replace(picked, examples=[picked.examples[place] for place in kept], weights=weights), made


def order_lost(picked: Picked, trainer: str) -> list[str]:
    """What to say of `finetune.order` where the trainer shuffles rows."""
    told = f"`finetune.order=picked`: {trainer} shuffles rows unless it is told otherwise in its own settings"
    return [told] if picked.config.finetune.order == "picked" else []


def learnt(example: Example) -> list[bool]:
    """For each assistant turn, whether it counts in the loss."""
    return [message.in_loss for message in example.messages if message.role == "assistant"]


def for_messages(picked: Picked, out: Path) -> Export:
    """Messages as JSON Lines."""
    made = rows(picked, lambda example: {"messages": messages(example)})
    return Export({"data.jsonl": json_lines(made)}, "`datasets.load_dataset('json', data_files='data.jsonl')`", [])


def for_parquet(picked: Picked, out: Path) -> Export:
    """Messages as Parquet."""
    return Export(
        {"data.parquet": parquet_bytes(picked)}, "`datasets.load_dataset('parquet', data_files='data.parquet')`", []
    )


def parquet_bytes(picked: Picked) -> bytes:
    """The rows of `for_messages` with a fixed schema; of a tool call id, type, name and arguments."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    function = pa.struct([("name", pa.string()), ("arguments", pa.string())])
    call = [("type", pa.string()), ("function", function)]
    made = rows(picked, lambda example: {"messages": messages(example)})
    if any("id" in made_call for row in made for turn in row["messages"] for made_call in turn.get("tool_calls", ())):
        call.insert(0, ("id", pa.string()))
    turn = pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.string()),
            ("tool_calls", pa.list_(pa.struct(call))),
            ("train", pa.bool_()),
        ]
    )
    kinds = {"id": pa.string(), "source": pa.string(), "messages": pa.list_(turn)}
    kinds |= {"tools": pa.string(), "weight": pa.float64()}
    schema = pa.schema([(name, kinds[name]) for name in made[0]])
    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(made, schema), data)
    return data.getvalue()


def lora_modules(targets: str | list[str]) -> str | list[str]:
    """Names of modules for PEFT; `attention` as Llama, Mistral, Qwen and Gemma name them."""
    return ["q_proj", "k_proj", "v_proj", "o_proj"] if targets == "attention" else targets
