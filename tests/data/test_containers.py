"""Every container gives the rows that JSON Lines would give."""

import datetime
import decimal
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.data.containers import open_rows, stem
from tamis.data.export import write_rejected, write_selected
from tamis.data.files import read
from tamis.data.lines import BadRow
from tamis.errors import InputError

ROWS = [{"question": f"What is {i}, “{i}”?", "answer": str(i), "n": i / 3} for i in range(5)]


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def write_array(path: Path) -> None:
    path.write_text(json.dumps(ROWS, indent=2, ensure_ascii=False))


def write_lines(path: Path) -> None:
    data = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    path.write_bytes(zstd(data) if path.suffix == ".zst" else gzip.compress(data) if path.suffix == ".gz" else data)


def write_csv(path: Path) -> None:
    lines = ["question,answer,n", *(f'"{row["question"]}",{row["answer"]},{row["n"]}' for row in ROWS)]
    path.write_text("\r\n".join(lines), encoding="utf-8-sig")


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


def write_saved(path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(path)


def write_saved_splits(path: Path) -> None:
    data = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"test": data.select([0]), "train": data}).save_to_disk(path)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("rows.json", write_array),
        ("rows.jsonl", write_array),
        ("rows.json", write_lines),
        ("rows.jsonl", write_lines),
        ("rows.ndjson", write_lines),
        ("rows.jsonl.gz", write_lines),
        ("rows.jsonl.zst", write_lines),
        ("rows.csv", write_csv),
        ("rows.parquet", write_parquet),
        ("rows", write_saved),
        ("rows", write_saved_splits),
    ],
)
def test_the_same_rows_in_any_container(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    path = tmp_path / name
    make(path)
    result = read([str(path)])
    assert [[m.content for m in e.messages] for e in result.examples] == [[r["question"], r["answer"]] for r in ROWS]
    assert [(e.row, e.source) for e in result.examples] == [(number, "rows") for number in range(1, 6)]
    picked = [result.examples[3], result.examples[0]]
    write_selected(tmp_path / "out.jsonl", picked)
    text = name == "rows.csv"
    expected = [{key: str(value) if text else value for key, value in ROWS[i].items()} for i in (3, 0)]
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == expected
    assert [e.id for e in read([str(tmp_path / "out.jsonl")]).examples] == [e.id for e in picked]


def lines(path: Path | str) -> list[Any]:
    return [str(line) if isinstance(line, BadRow) else line for _, line in open_rows(str(path))]


def test_array_elements_keep_their_text(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf [ {"a" :\r\n  1.0, "b": "x]\\"},{"} , 7,\n\tnull, "s,", [1, {}], {"c": NaN}, \n]\n')
    assert lines(path) == [
        b'{"a" : 1.0, "b": "x]\\"},{"}',
        b"7",
        b"null",
        b'"s,"',
        b"[1, {}]",
        b'{"c": NaN}',
        b"",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"[]", []),
        (b"[ ] ", []),
        (b'[{"a": 1}', [b'{"a": 1}', "the array, or something in it, is not closed"]),
        (b'[{"a": 1}, {"b": 2', [b'{"a": 1}', "the array, or something in it, is not closed"]),
        (b'[{"a": 1}, {"b: 2}]', [b'{"a": 1}', "the array, or something in it, is not closed"]),
        (b"[1] [2]", [b"1", "expected the end of the file after the array"]),
    ],
)
def test_arrays_that_break_off(tmp_path: Path, text: bytes, found: list[Any]) -> None:
    (tmp_path / "a.json").write_bytes(text)
    for line, expected in zip(lines(tmp_path / "a.json"), found, strict=True):
        assert line.startswith(expected)


VALUE = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(VALUE, max_size=5), st.sampled_from([None, 0, 3]), st.booleans(), st.integers(1, 40))
@settings(max_examples=100)
def test_any_array_streamed_in_chunks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], indent: int | None, ascii_only: bool, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("array") / "a.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=ascii_only), encoding="utf-8", errors="replace")
    expected = json.loads(path.read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tamis.data.lines._CHUNK", chunk)
        assert [json.loads(line) for line in lines(path)] == expected


def test_one_value_over_many_lines_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS[0], indent=4))
    (example,) = read([str(path)]).examples
    assert example.row == 1
    path.write_text('{"question":\n' + json.dumps(ROWS[0]))  # neither one value nor a good first line: lines
    result = read([str(path)])
    assert ([e.row for e in result.examples], [bad.row for bad in result.rejected]) == ([2], [1])


def test_csv_records(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        b",question,answer\r\n"
        b'0,"two\nlines, ""quoted""",a\r\n'
        b"1,short\r\n"
        b"\r\n"
        b'2,"bad"quote,x\r\n'
        b"3,caf\xe9,y\r\n"
        b"4,caf\xc3\xa9,y"
    )
    result = read([str(path)])
    assert [(e.row, e.messages[0].content) for e in result.examples] == [(1, 'two\nlines, "quoted"'), (6, "café")]
    assert [(bad.row, bad.reason.split(":")[0]) for bad in result.rejected] == [
        (2, "expected 3 cells as in the header, found 2"),
        (4, "not valid CSV"),
        (5, "not UTF-8"),
    ]
    tabs = tmp_path / "a.tsv"
    tabs.write_text("question\tanswer\na, b\tc")
    assert read([str(tabs)]).examples[0].messages[0].content == "a, b"


def test_csv_cells_are_as_long_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"question,answer\n{'x' * 300_000},y\n")
    assert len(read([str(path)]).examples[0].messages[0].content) == 300_000


def test_values_that_json_lacks(tmp_path: Path) -> None:
    row = {
        "question": "Q",
        "answer": "A",
        "score": float("nan"),
        "when": datetime.datetime(2026, 1, 2, 3),
        "price": decimal.Decimal("1.50"),
        "raw": b"\x00\xff",
        "scores": [1.0, float("inf")],
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    assert json.loads(lines(tmp_path / "a.parquet")[0]) == row | {
        "score": None,
        "when": "2026-01-02T03:00:00",
        "price": "1.50",
        "raw": "AP8=",
        "scores": [1.0, None],
    }


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_a_zstd_stream_that_breaks_off_keeps_its_rows(tmp_path: Path, share: float) -> None:
    # Random enough not to fit into one block
    rows = [json.dumps({"question": f"{hash((i, 'q')):x}", "answer": f"{i * 7919:x}"}) for i in range(30_000)]
    data = zstd("\n".join(rows).encode())
    (tmp_path / "a.jsonl.zst").write_bytes(data[: int(share * len(data))])
    result = read([str(tmp_path / "a.jsonl.zst")])
    assert 0 < len(result.examples) < 30_000
    assert [bad.row for bad in result.rejected] == [len(result.examples) + 1]
    assert "the compressed stream is damaged here" in result.rejected[0].reason


def test_a_parquet_file_that_breaks_off(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="not a whole Parquet file"):
        read([str(tmp_path / "a.parquet")])


def test_parquet_strings_that_are_not_utf_8(tmp_path: Path) -> None:
    questions = pa.StringArray.from_buffers(
        3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\5\0\0\0\6\0\0\0"), pa.py_buffer(b"Qcaf\xe9R")
    )
    pq.write_table(pa.table({"question": questions, "answer": ["1", "2", "3"]}), tmp_path / "a.parquet")
    result = read([str(tmp_path / "a.parquet")])
    assert [e.row for e in result.examples] == [1, 3]
    assert [(bad.row, bad.reason) for bad in result.rejected] == [(2, "not UTF-8: byte 0xe9 in a column of strings")]


def test_data_sets_by_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    write_parquet(folder / "train.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[:2]), folder / "test.parquet")
    name = f"hf://{folder}"
    assert [len(read([path]).examples) for path in (name, f"{name}?split=test")] == [5, 2]
    assert stem(f"{name}?split=test") == "data"
    (example, _) = read([f"{name}?split=test"]).examples
    write_selected(tmp_path / "out.jsonl", [example])
    assert json.loads((tmp_path / "out.jsonl").read_text()) == ROWS[0]
    with pytest.raises(InputError, match=r"found no split 'dev', but .*train.*: say hf://.*\?split="):
        read([f"{name}?split=dev"])
    with pytest.raises(InputError, match="expected config, split or revision after the question mark, found 'part'"):
        read([f"{name}?part=1"])
    with pytest.raises(InputError, match="a name on the hub; datasets said: "):
        read([f"hf://{tmp_path}/nowhere"])


def test_splits_of_a_saved_folder(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"a": data, "b": data.select([0])}).save_to_disk(tmp_path / "d")
    with pytest.raises(InputError, match=r"several splits and none called train, but a, b: say hf://.*\?split=a"):
        read([str(tmp_path / "d")])
    assert len(read([f"hf://{tmp_path / 'd'}?split=b"]).examples) == 1


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match="found a folder that holds nothing: read are"):
        read([str(tmp_path / "x")])
    (tmp_path / "x" / "a.xml").touch()
    with pytest.raises(InputError, match=r"found a folder that holds \.xml: read are"):
        read([str(tmp_path / "x")])
    write_lines(tmp_path / "x" / "b.jsonl.gz")
    with pytest.raises(InputError, match=r"found a folder; say .*/x/\*\.jsonl\.gz"):
        read([str(tmp_path / "x")])


def test_a_picked_instance_is_written_alone(tmp_path: Path) -> None:
    row = {"instruction": "Q", "instances": [{"input": "", "output": "1"}, {"input": "é", "output": "2"}], "id": 7}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    _, second = read([str(tmp_path / "a.jsonl")]).examples
    write_selected(tmp_path / "out.jsonl", [second])
    assert json.loads((tmp_path / "out.jsonl").read_text()) == row | {"instances": row["instances"][1:]}  # type: ignore[index]
    assert read([str(tmp_path / "out.jsonl")]).examples[0].id == second.id


def test_rejected_rows_are_written(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json.dumps(ROWS[0]).encode() + b'\n{"question": "\xc3\xa9"}\r\n\xff\n')
    write_rejected(tmp_path / "rejected.jsonl", read([str(tmp_path / "a.jsonl")]).rejected)
    one, two = map(json.loads, (tmp_path / "rejected.jsonl").read_text().splitlines())
    assert one == {
        "file": str(tmp_path / "a.jsonl"),
        "row": 2,
        "reason": "question without answer (found: question)",
        "text": '{"question": "é"}',
    }
    assert (two["row"], two["base64"]) == (3, "/wo=")
