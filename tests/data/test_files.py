import gzip
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.data.containers import open_rows
from tamis.data.files import read
from tamis.errors import InputError

Write = Callable[..., str]
ALPACA = {"instruction": "Q", "input": "I", "output": "A"}
QUESTION = {"question": "Q", "answer": "A"}


def test_origin_of_an_example(write: Write) -> None:
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    path = write(
        "pool.jsonl.gz",
        {"messages": turns, "id": 7, "source": "s", "dataset": "d", "subtask": "t", "group": "g"},
        {"messages": turns, "id": "x", "source": "", "dataset": "d", "group": 3, "tools": []},
        {"messages": turns, "id": 1.5, "source": None, "tools": [{"name": "f"}]},
    )
    one, two, three = read([path]).examples
    assert (one.row_id, one.source, one.group, one.file, one.row) == ("7", "s", "t", path, 1)
    assert (two.row_id, two.source, two.group, two.row) == ("x", "d", "3", 2)
    assert (three.row_id, three.source, three.group, three.tools) == (None, "pool", None, ({"name": "f"},))
    assert one.id == two.id != three.id


def test_the_format_is_named_with_the_fields_read_and_not_read(write: Write) -> None:
    path = write("a.jsonl", {"text": "bad"}, ALPACA | {"id": 1, "license": "x"}, QUESTION)
    result = read([path])
    (report,) = result.files
    assert report.recognised == "recognised as alpaca by fields instruction, output, input; not read: license"
    assert (report.n_good, report.n_bad) == (2, 1)
    assert [example.messages[0].content for example in result.examples] == ["Q\n\nI", "Q"]


def test_named_columns(write: Write) -> None:
    path = write("svamp.jsonl", {"Body": "B", "Question": "Q", "Answer": 8, "question": "no", "answer": "no"})
    fields = {"prompt": ("Body", "Question"), "completion": ("Answer",)}
    result = read([path], fields=fields)
    assert [message.content for message in result.examples[0].messages] == ["B\nQ", "8"]
    recognised = "prompt/completion by fields prompt=Body,Question, completion=Answer; not read: question, answer"
    assert result.files[0].recognised == f"recognised as {recognised}"


def test_one_named_column_is_not_enough_where_the_other_is_missing(write: Write) -> None:
    path = write("a.jsonl", {"Body": "B", "instruction": "Q", "output": "A"})
    with pytest.raises(InputError, match="row 1: expected prompt and completion or response, found Body, instruction"):
        read([path], fields={"prompt": ("Body",)})


def test_bad_lines_cost_no_other_row(write: Write) -> None:
    good = json.dumps(QUESTION).encode()
    path = write(
        "dirty.jsonl",
        b"\xef\xbb\xbf" + good + b"\r\n",  # 1
        b"\n",
        b'{"question": "Q\n',  # 3
        b"[]\n",
        b'"text"\n',
        b'{"question": "Q", "answer": NaN}\n',  # 6
        good + b" trailing\n",
        b'{"question": "\xff"}\n',
        b'{"question": "Q", "answer": "\\ud83d"}\n',  # 9
        b'{"question": "Q", "answer": "\\ud83d\\ude42"}\n',
        b"[" * 100_000 + b"\n",
        b'{"id": ' + b"1" * 5000 + b"}\n",  # 12
        good,
    )
    result = read([path])
    assert [example.row for example in result.examples] == [1, 10, 13]
    reasons = {bad.row: bad.reason for bad in result.rejected}
    assert sorted(reasons) == [3, 4, 5, 6, 7, 8, 9, 11, 12]
    assert reasons[3] == "not valid JSON: Unterminated string starting at (character 14)"
    assert reasons[4] == "expected a JSON object, found []"
    assert reasons[6] == "not valid JSON: NaN is no JSON value"
    assert reasons[7] == f"not valid JSON: Extra data (character {len(good) + 2})"
    assert reasons[8] == "not UTF-8: byte 0xff at position 15"
    assert "half of a surrogate pair" in reasons[9]
    assert "nested too deeply" in reasons[11]
    assert "Exceeds the limit" in reasons[12]
    assert all(bad.file == path for bad in result.rejected)


def test_a_gzip_stream_that_breaks_off_keeps_its_rows(write: Write, tmp_path: Path) -> None:
    rows = [{"question": f"{i}", "answer": f"{hash_like:x}"} for i, hash_like in enumerate(range(10**9, 10**9 + 5000))]
    path = write("cut.jsonl.gz", *rows)
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: len(whole) * 2 // 3])
    result = read([path])
    n_good = len(result.examples)
    assert 0 < n_good < 5000
    assert [example.row for example in result.examples] == list(range(1, n_good + 1))
    assert [bad.row for bad in result.rejected] == [n_good + 1]
    assert "the compressed stream is damaged here" in result.rejected[0].reason
    assert read([path], limit=n_good).rejected == []


def test_a_flipped_bit_in_a_gzip_stream_is_reported(write: Write) -> None:
    path = write("bad.jsonl.gz", *[QUESTION | {"id": i} for i in range(50)])
    data = bytearray(Path(path).read_bytes())
    data[-6] ^= 1  # the checksum at the end
    Path(path).write_bytes(data)
    result = read([path])
    assert [len(result.examples), result.rejected[0].row] == [50, 51]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 13\n"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"", "found an empty file"),
        ("a.jsonl", b"\n \n", "found an empty file"),
        ("a.jsonl", POINTER, "`git lfs pull`"),
        ("a.jsonl.gz", POINTER, "`git lfs pull`"),
        ("a.jsonl.gz", b'{"question": "Q", "answer": "A"}', "found no gzip data under this name"),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "found gzip data under this name"),
        ("a.jsonl", '{"question": "Q"}'.encode("utf-16"), "expected UTF-8, found UTF-16"),
        ("a.json", b'{\n"question": "Q"}', "question without answer (found: question)"),
        ("a.parquet", b"PAR1", "not a whole Parquet file"),
        ("a.parquet", POINTER, "`git lfs pull`"),
        ("a.parquet", b"", "found an empty file"),
        ("a.jsonl.zst", b"x", "found no zstd data under this name"),
        ("a.json", b"[]", "found an empty file"),
        ("a.csv", b"", "found an empty file"),
        ("a.csv", b"Question,Answer\r\n", "found an empty file"),
        ("a.csv", b"What is 2?,2,3\n", "expected a header, found '3' among the names in its first line"),
        ("a.csv", b"question,answer,question\n", "expected a header, found 'question'"),
        ("a.csv", b'"question,answer\n', "the first line is not valid CSV"),
        ("a.yaml", b"- a", "found .yaml: read are .jsonl, .json"),
        ("a", b"x", "found no file extension"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        read([str(tmp_path / name)])
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_no_good_row_at_all_names_each_reason_once(write: Write) -> None:
    path = write("bad.jsonl", {"text": "x"}, {"text": "y"}, {"prompt": "x"})
    with pytest.raises(InputError) as caught:
        read([path])
    text = str(caught.value)
    found = "none of the 3 rows can be used: row 1: text without prompt and answer (found: text); row 3: prompt without"
    assert text.startswith(f"{path}: {found}")
    assert "messages | conversations or conversation | prompt + completion or response | " in text
    assert "--field prompt=COLUMN --field completion=COLUMN" in text


def test_a_file_without_good_rows_stops_the_reading_of_good_ones(write: Write) -> None:
    with pytest.raises(InputError, match=r"bad\.jsonl: none of the 1 rows can be used: row 1: empty answer; mend"):
        read([write("good.jsonl", QUESTION), write("bad.jsonl", {"question": "x", "answer": ""})])


def test_a_long_file_without_good_rows_is_not_read_to_its_end(write: Write) -> None:
    path = write("bad.jsonl", b'{"text": "x"}\n' * 1000, QUESTION)
    with pytest.raises(InputError, match="none of the first 1,000 rows can be used"):
        read([path])


def test_too_many_bad_rows_stop_the_run(write: Write) -> None:
    bad = {"question": "x", "answer": ""}
    path = write("a.jsonl", *[QUESTION] * 8, bad, bad)
    assert len(read([path], max_bad=Fraction(1, 5)).rejected) == 2
    with pytest.raises(InputError, match=r"a\.jsonl: 2 of 10 rows are bad, more than 5%.* row 9: empty answer; see"):
        read([path], max_bad=Fraction(1, 20))
    assert len(read([write("b.jsonl", QUESTION, bad)], max_bad=Fraction(1, 20)).rejected) == 1
    with pytest.raises(InputError, match=r"1 of 2 rows are bad, more than 0%"):
        read([write("b.jsonl", QUESTION, bad)], max_bad=Fraction(0))


def test_a_bad_row_can_be_an_error(write: Write) -> None:
    path = write("a.jsonl", QUESTION, {"question": "x", "answer": ""}, QUESTION)
    with pytest.raises(InputError, match=r"a\.jsonl row 2: empty answer; mend or remove it, or say --on-bad-row skip"):
        read([path], on_bad_row="error")


def test_rejected_rows_keep_their_text(write: Write) -> None:
    path = write("a.jsonl", QUESTION, b'{"question": \n', b"\xff\n")
    assert [(bad.row, bad.line) for bad in read([path]).rejected] == [(2, b'{"question": \n'), (3, b"\xff\n")]


def test_named_columns_and_format_hold_for_the_files_they_fit(write: Write) -> None:
    svamp, other = write("svamp.jsonl", {"Body": "B", "Answer": 8}), write("other.jsonl", QUESTION)
    fields = {"prompt": ("Body",), "completion": ("Answer",)}
    result = read([svamp, other], fields=fields)
    assert [(file.format, file.as_named) for file in result.files] == [
        ("prompt/completion", True),
        ("question/answer", False),
    ]
    pair = write("pair.jsonl", {"prompt": "Q", "chosen": "A", "rejected": "B"})
    result = read([pair, other], format_name="preference")
    assert [(file.format, file.as_named) for file in result.files] == [("preference", True), ("question/answer", False)]
    with pytest.raises(InputError, match=r"\(those given do not fit this file\)"):
        read([svamp], fields={"prompt": ("body",)})


def test_one_example_per_instance(write: Write) -> None:
    instances = [{"input": "", "output": "1"}, {"input": "x", "output": ""}, {"input": "y", "output": "3"}]
    path = write(
        "a.jsonl", {"instruction": "Q", "instances": instances, "id": "t"}, {"instruction": "R", "instances": []}
    )
    result = read([path])
    assert [(e.row, e.instance, e.row_id, e.messages[0].content) for e in result.examples] == [
        (1, 1, "t", "Q"),
        (1, 3, "t", "Q\n\ny"),
    ]
    assert [(bad.row, bad.reason) for bad in result.rejected] == [
        (1, "instance 2: empty output"),
        (2, "field instances is a list, expected a list of objects with input and output"),
    ]


def test_wrapped_rows(write: Write) -> None:
    path = write("a.jsonl", {"row_idx": 0, "source": "s", "row": QUESTION}, {"row": 3, "x": 1})
    result = read([path])
    assert [(e.source, e.messages[0].content) for e in result.examples] == [("s", "Q")]
    assert result.rejected[0].reason == "no known fields (found: row, x)"


def test_patterns(write: Write, tmp_path: Path) -> None:
    b, a = write("b.jsonl", QUESTION), write("a.jsonl", QUESTION)
    odd = write("[1].jsonl", QUESTION)
    (tmp_path / "folder.jsonl").mkdir()
    files = read([odd, b, str(tmp_path / "*.jsonl"), str(tmp_path / "." / "a.jsonl")]).files
    assert [file.path for file in files] == [odd, b, a]


def test_a_pattern_without_a_match_names_the_nearest(write: Write, tmp_path: Path) -> None:
    write("pool.jsonl", QUESTION)
    with pytest.raises(InputError, match=r"pol\.jsonl: no such file; nearest in .*: pool\.jsonl"):
        read([str(tmp_path / "pol.jsonl")])
    with pytest.raises(InputError, match=r"x\*\.csv: no such file; .* holds pool\.jsonl"):
        read([str(tmp_path / "x*.csv")])
    with pytest.raises(InputError, match=r"there is no folder .*nowhere"):
        read([str(tmp_path / "nowhere/x.jsonl")])
    with pytest.raises(InputError, match=r"expected files, found a folder; say .*/\*\.jsonl"):
        read([str(tmp_path)])


def test_limit_counts_good_rows_over_all_files(write: Write) -> None:
    one, two = write("1.jsonl", QUESTION, {"text": "bad"}, QUESTION), write("2.jsonl", QUESTION, QUESTION)
    unopened = write("3.jsonl")
    result = read([one, two, unopened], limit=3)
    assert [(file.n_good, file.n_bad) for file in result.files] == [(2, 1), (1, 0)]
    with pytest.raises(InputError, match="at least 1 row, found 0"):
        read([one], limit=0)


def test_reading_is_streamed(write: Write) -> None:
    lines = open_rows(write("a.jsonl", b"1\r\n", b"2"))
    assert next(lines) == (1, b"1\r\n")
    assert list(lines) == [(2, b"2")]


TEXT = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: any(c.isalnum() for c in text))


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), st.booleans(), st.booleans())
@settings(max_examples=50)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], ascii_only: bool, zipped: bool
) -> None:
    rows: list[dict[str, Any]] = [{"question": question, "answer": answer} for question, answer in pairs]
    data = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode()
    path = tmp_path_factory.mktemp("rows") / ("a.jsonl.gz" if zipped else "a.jsonl")
    path.write_bytes(gzip.compress(data) if zipped else data)
    examples = read([str(path)]).examples
    assert [(e.messages[0].content, e.messages[1].content) for e in examples] == pairs
