"""LLaMA-Factory: rows in its format sharegpt, and their entry in dataset_info.json."""

import json
from pathlib import Path
from typing import Any

from tamis.data.example import Example, Message
from tamis.data.exports.rows import Export, as_json, calls, json_lines, kept_rows, learnt, order_lost, rows
from tamis.data.picked import Picked

LLAMA_FACTORY_NAME = "tamis_selection"


def for_llama_factory(picked: Picked, out: Path) -> Export:
    """https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md, format sharegpt."""
    left, export = kept_rows(picked, "LLaMA-Factory", _not_alternating)
    made = rows(left, _sharegpt)
    info = {
        "file_name": "data.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "system": "system", "tools": "tools"},
        "tags": {
            "role_tag": "from",
            "content_tag": "value",
            "user_tag": "human",
            "assistant_tag": "gpt",
            "observation_tag": "observation",
            "function_tag": "function_call",
            "system_tag": "system",
        },
    }
    lost = [*export.lost, *order_lost(picked, "LLaMA-Factory")]
    all_flags = [learnt(example) for example in left.examples]
    several = [flags for flags in all_flags if len(flags) > 1]
    n_last = sum(flags == [False] * (len(flags) - 1) + [True] for flags in several)
    n_every = sum(all(flags) for flags in several)
    last_only = n_last > n_every
    if n_other := len(several) - max(n_last, n_every) + all_flags.count([False]):
        how = "only the last reply (mask_history)" if last_only else "every reply"
        lost.append(f"which turns are learnt: LLaMA-Factory learns {how}; the data wants others in {n_other:,} rows")
    usage = f"`dataset_dir: {out}`, `dataset: {LLAMA_FACTORY_NAME}`, `template:` with the name of the model's" + (
        " and `mask_history: true`, since only the last reply of a conversation is to be learnt" if last_only else ""
    )
    entry = json.dumps({LLAMA_FACTORY_NAME: info}, indent=2).encode()
    files = {"data.jsonl": json_lines(made), "dataset_info.json": entry, **export.files}
    return Export(files, usage, lost, export.n_left_out)


def _turns_after_system(example: Example) -> tuple[Message, ...]:
    return example.messages[1:] if example.messages[0].role == "system" else example.messages


def _not_alternating(example: Example) -> str | None:
    """Why LLaMA-Factory would skip a row: question and answer take turns in it, and a turn is text or a call."""
    turns = _turns_after_system(example)
    if any(turn.role == "system" for turn in turns):
        return "since a system turn stands amid the conversation"
    if len(turns) % 2 or any((turn.role == "assistant") != place % 2 for place, turn in enumerate(turns)):
        return "since replies and other turns do not alternate"
    if any(turn.tool_calls and turn.content.strip() for turn in turns):
        return "since a turn has both text and a tool call"
    return None


def _sharegpt(example: Example) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt", "tool": "observation"}
    turns = []
    for message in _turns_after_system(example):
        functions = [call["function"] for call in calls(message, example, as_text=False)]
        value = as_json(functions[0] if len(functions) == 1 else functions) if functions else message.content
        turns.append({"from": "function_call" if functions else names[message.role], "value": value})
    system = example.messages[0].content if example.messages[0].role == "system" else ""
    return {"conversations": turns, "system": system, "tools": as_json(example.tools) if example.tools else ""}
