"""Whatever a file holds: well-formed examples with their place, bad rows with a reason, or an InputError."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.data.files import ReadResult, read
from tamis.errors import InputError

_ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "id": 1, "subtask": "g"},
    {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
    {"instruction": "Q", "input": "", "output": "A"},
    {"prompt": "Q", "completion": "A", "source": "s"},
    {"question": "Qé", "answer": "A"},
]
_LINES = "\n".join(map(json.dumps, _ROWS)).encode()


def _parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([_ROWS[2]] * 3), file)
    return file.getvalue()


WHOLE = {
    ".jsonl": _LINES,
    ".json": json.dumps(_ROWS, indent=1).encode(),
    ".csv": b'question,answer\r\n"Q, ""q""\nr",A\r\nQ,A\r\n',
    ".tsv": b"question\tanswer\nQ\tA\n",
    ".parquet": _parquet(),
    ".jsonl.gz": gzip.compress(_LINES),
    ".json.zst": bytes(pa.compress(_LINES, codec="zstd", asbytes=True)),
}
_suffixes = st.sampled_from(sorted(WHOLE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def read_any(folder: Path, suffix: str, content: bytes, **settings: Any) -> ReadResult | None:
    path = folder / f"x{suffix}"
    path.write_bytes(content)
    try:
        result = read([str(path)], **settings)
    except InputError as error:
        if str(path) not in str(error) and "--field" not in str(error):
            raise AssertionError("the file is not named") from error
        return None
    rows = [example.row for example in result.examples]
    assert rows == sorted(rows)
    assert all(row >= 1 for row in rows)
    for example in result.examples:
        assert example.file == str(path)
        assert len(bytes.fromhex(example.id)) == 16
        answers = [m for m in example.messages if m.role == "assistant" and m.in_loss]
        assert any(m.content.strip() or m.tool_calls for m in answers)
        example.text.encode()
        json.dumps([example.source, example.group, example.row_id], ensure_ascii=False).encode()
    assert not {bad.row for bad in result.rejected} & set(rows) or suffix == ".json"
    assert all(bad.reason and bad.row >= 1 for bad in result.rejected)
    return result


def test_the_whole_files_are_read(folder: Path) -> None:
    for suffix, content in WHOLE.items():
        result = read_any(folder, suffix, content)
        assert result is not None
        assert result.rejected == []


@settings(max_examples=200, deadline=None)
@given(suffix=_suffixes, content=st.binary(max_size=200) | st.text(max_size=60).map(str.encode))
def test_any_bytes(folder: Path, suffix: str, content: bytes) -> None:
    read_any(folder, suffix, content)


@settings(max_examples=300, deadline=None)
@given(suffix=_suffixes, data=st.data())
def test_real_files_with_changes(folder: Path, suffix: str, data: st.DataObject) -> None:
    changed = bytearray(WHOLE[suffix])
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(changed)))
        changed[start : start + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=6))
    read_any(folder, suffix, bytes(changed))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=4), some, max_size=3),
    max_leaves=8,
)
_turn = st.dictionaries(
    st.sampled_from(["role", "content", "from", "value", "tool_calls", "train", "weight", "loss"]),
    st.sampled_from(["user", "assistant", "system", "tool", "human", "gpt", "Q", "A", 0, 1, None]) | _json,
)
_PROSE = "instruction input output prompt completion question answer chosen rejected system source id group subtask"
_fields = st.sampled_from([*_PROSE.split(), "messages", "conversations", "instances", "row", "history", "tools"])
_row = st.dictionaries(_fields, st.sampled_from(["Q", "A", ""]) | st.lists(_turn, max_size=3) | _json, max_size=6)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(_row | _json, min_size=1, max_size=4),
    format_name=st.sampled_from([None, "preference", "self-instruct", "sharegpt"]),
    as_array=st.booleans(),
    fields=st.none() | st.dictionaries(st.sampled_from(["prompt", "completion"]), st.just(("question", "id"))),
    limit=st.none() | st.integers(1, 3),
)
def test_any_rows(
    folder: Path,
    rows: list[Any],
    format_name: str | None,
    as_array: bool,
    fields: dict[str, tuple[str, ...]] | None,
    limit: int | None,
) -> None:
    text = json.dumps(rows) if as_array else "\n".join(map(json.dumps, rows))
    settings: dict[str, Any] = {"limit": limit, **({"fields": fields} if fields else {"format_name": format_name})}
    result = read_any(folder, ".json" if as_array else ".jsonl", text.encode(), **settings)
    if result is not None and limit is None and format_name is None:
        assert {e.row for e in result.examples} | {bad.row for bad in result.rejected} <= set(range(1, len(rows) + 1))
