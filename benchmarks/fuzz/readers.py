"""Any bytes under any name of a container: rows read are well formed, everything else is an InputError."""

import gzip
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tamis.data.files import read
from tamis.errors import InputError

_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".json.zst", ".ndjson")
_FIELDS = (None, {"prompt": ("question", "id"), "completion": ("answer",)}, {"messages": ("conversations",)})
_FORMATS = (None, "preference", "self-instruct", "sharegpt")
_FOLDER = Path(tempfile.mkdtemp(prefix="tamis-fuzz-"))

_CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}]}
_TURNS = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": [{"type": "text", "text": "Q"}]},
    {**_CALL, "train": True},
    {"role": "tool", "content": "4"},
    {"role": "assistant", "content": "A", "weight": 0},
]
_ROWS: list[dict[str, object]] = [
    {"messages": _TURNS, "tools": [{"name": "f"}], "id": 1, "source": "s", "subtask": "g"},
    {"conversations": [{"from": "human", "value": "Q"}, {"from": "function_call", "value": '{"name": "f"}'}]},
    {"instruction": "Q", "input": "n/a", "output": "A", "history": [["q", "a"]], "system": "S"},
    {"instruction": "Q", "instances": [{"input": "", "output": "A"}]},
    {"prompt": "Q", "completion": "A<|endoftext|>"},
    {"prompt": [{"role": "user", "content": "Q"}], "chosen": [{"role": "assistant", "content": "A"}], "rejected": "B"},
    {"question": "Q\u00e9", "answer": "A", "n": 1.5},
    {"row": {"instruction": "Q", "context": "", "response": "A"}},
]


def _parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([_ROWS[6], _ROWS[6]]), sink)
    return bytes(sink.getvalue().to_pybytes())


_LINES = "\n".join(map(json.dumps, _ROWS)).encode()
_CONTENTS = (
    _LINES,
    json.dumps(_ROWS, indent=1).encode(),
    b'question,answer\r\n"Q, ""q""\nr",A\r\n',
    b"question\tanswer\nQ\tA\n",
    _parquet(),
    gzip.compress(_LINES),
    bytes(pa.compress(_LINES, codec="zstd", asbytes=True)),
    _LINES,
)
SEEDS = [bytes([suffix, 0]) + content for suffix, content in enumerate(_CONTENTS)]


def one(data: bytes) -> None:
    """The first byte chooses the suffix, the second fields and format."""
    if len(data) < 2:
        return
    path = _FOLDER / f"x{_SUFFIXES[data[0] % len(_SUFFIXES)]}"
    path.write_bytes(data[2:])
    fields, format_name = _FIELDS[data[1] % len(_FIELDS)], _FORMATS[data[1] // 16 % len(_FORMATS)]
    try:
        result = read([str(path)], fields=fields, format_name=None if fields else format_name)
    except InputError as error:
        if "\n" in str(error).strip() and "Traceback" in str(error):
            raise AssertionError("a traceback inside an error") from error
        return
    for example in result.examples:
        learnt = [m for m in example.messages if m.role == "assistant" and m.in_loss]
        if not learnt or len(example.id) != 32 or example.row < 1:
            raise AssertionError(f"not a well-formed example: {example}")
        json.dumps(example.messages[0].content).encode()
        example.text.encode()
