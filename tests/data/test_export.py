import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.data.export import atomic_write, write_selected
from tamis.data.files import read
from tamis.errors import InputError

Write = Callable[..., str]


def line(i: int) -> bytes:
    return b'{ "answer":"A", "question" : "%d",  "extra": [1.0, 1e5]}' % i


def test_original_bytes_in_pick_order(write: Write, tmp_path: Path) -> None:
    plain = write("a.jsonl", b"\xef\xbb\xbf" + line(0) + b"\r\n", b"\n", line(1))
    zipped = write("b.jsonl.gz", line(2) + b"\n", line(3) + b"\n")
    zero, one, two, three = read([plain, zipped]).examples
    write_selected(tmp_path / "out.jsonl", [three, one, zero])
    assert (tmp_path / "out.jsonl").read_bytes() == line(3) + b"\n" + line(1) + b"\n" + line(0) + b"\r\n"
    assert [e.id for e in read([str(tmp_path / "out.jsonl")]).examples] == [three.id, one.id, zero.id]
    assert two.id not in {three.id, one.id, zero.id}


def test_equal_rows_are_told_apart_by_their_place(write: Write, tmp_path: Path) -> None:
    path = write("a.jsonl", line(0) + b"\n", b" " + line(0) + b"\n")
    first, second = read([path]).examples
    assert first.id == second.id
    write_selected(tmp_path / "out.jsonl", [second])
    assert (tmp_path / "out.jsonl").read_bytes() == b" " + line(0) + b"\n"


def test_a_broken_gzip_stream_gives_the_rows_before_the_break(write: Write, tmp_path: Path) -> None:
    path = write("a.jsonl.gz", *[line(i * 7919) + b"\n" for i in range(3000)])
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: len(data) // 2])
    examples = read([path]).examples
    write_selected(tmp_path / "out.jsonl", [examples[-1]])
    assert (tmp_path / "out.jsonl").read_bytes() == line((len(examples) - 1) * 7919) + b"\n"


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (line(0) + b"\n" + line(2) + b"\n", "row 2: the file changed"),
        (b"\n" + line(0) + b"\n" + line(1) + b"\n", "row 2: the file changed"),
        (line(0) + b"\n", "row 2: the file changed since it was read, it ends before this row"),
        (None, "the file is gone"),
    ],
)
def test_a_file_that_changed_is_an_error_and_nothing_is_written(
    write: Write, tmp_path: Path, now: bytes | None, message: str
) -> None:
    path = write("a.jsonl", line(0) + b"\n", line(1) + b"\n")
    examples = read([path]).examples
    if now is None:
        Path(path).unlink()
    else:
        Path(path).write_bytes(now)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(InputError, match=message):
        write_selected(out / "selected.jsonl", [examples[1]])
    assert list(out.iterdir()) == []


def test_atomic_write_replaces_a_file_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a"
    atomic_write(path, b"old")

    def broken() -> Iterator[bytes]:
        yield b"half of the ne"
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        atomic_write(path, broken())
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"old")]
    atomic_write(path, [b"n", b"ew"])
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"new")]


@given(st.lists(st.integers(0, 19), max_size=10), st.booleans())
@settings(max_examples=30)
def test_any_order(tmp_path_factory: pytest.TempPathFactory, picks: list[int], zipped: bool) -> None:
    folder = tmp_path_factory.mktemp("rows")
    lines = [line(i) + b"\n" for i in range(20)]
    path = folder / ("a.jsonl.gz" if zipped else "a.jsonl")
    path.write_bytes(gzip.compress(b"".join(lines)) if zipped else b"".join(lines))
    examples = read([str(path)]).examples
    write_selected(folder / "out.jsonl", [examples[i] for i in picks])
    assert (folder / "out.jsonl").read_bytes() == b"".join(lines[i] for i in picks)
