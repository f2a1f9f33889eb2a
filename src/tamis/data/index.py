"""Examples that are not held in memory: their text, ids, lengths and labels are in temporary files."""

import marshal
import os
import struct
import tempfile
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, overload

import numpy as np
from jaxtyping import Int32, Int64

from tamis.data.example import Example, Message
from tamis.errors import InputError
from tamis.ids import DTYPE, Packed

_HELD_BYTES = 1 << 24  # of each file in memory, before they go to the file
_BLOCK_ROWS = 1024  # read at once where rows are walked
_ROW = struct.Struct("<qii")
_COLUMNS = np.dtype([("end", "<i8"), ("source", "<i4"), ("group", "<i4")])  # the same


class Index(Sequence[Example]):
    """Examples in order, made anew each time one is asked for; more can be appended.

    Memory does not grow with them but for their distinct labels. What is known of a row beside its text takes 32 bytes
    in nameless files of the folder for temporary files (TMPDIR), which the system removes with the process; a part of
    them is mapped while it is asked for. InputError where that folder is full.
    """

    def __init__(self, examples: Iterable[Example] = ()) -> None:
        self._ids, self._rows, self._text = _Spool(), _Spool(), _Spool()
        self._n_rows = 0
        self._codes: dict[str | None, int] = {}
        self._names: list[Any] = []  # the labels by their codes
        for example in examples:
            self.append(example)

    def append(self, example: Example) -> None:
        """Add one example at the end."""
        messages = [(m.role, m.content, m.tool_calls, m.in_loss) for m in example.messages]
        source, group, file = self._code(example.source), self._code(example.group), self._code(example.file)
        rest = example.row_id, file, example.row, example.tools, example.line_digest, example.instance
        # In this format for its speed: the file is this process's own and has no name that another could write to
        end = self._text.append(marshal.dumps((messages, example.id, source, group, rest)))
        self._rows.append(_ROW.pack(end, source, group))
        self._ids.append(bytes.fromhex(example.id))
        self._n_rows += 1

    @property
    def packed_ids(self) -> Packed:
        """The ids of all; see `tamis.ids`."""
        return self._ids.mapped(np.dtype(DTYPE))

    def labels(self, name: str, positions: "range | Int64[np.ndarray, ' row']") -> "Labels":
        """`source` or `group` of some examples."""
        return Labels(taken(self._rows.mapped(_COLUMNS)[name], positions).astype(np.int32), self._names)

    def walk(self, positions: "range | Int64[np.ndarray, ' row']") -> Iterator[Example]:
        """Some examples in the order given; rows that stand together are read together."""
        for start in range(0, len(positions), _BLOCK_ROWS):
            block = np.asarray(positions[start : start + _BLOCK_ROWS])
            low, high = int(block.min()), int(block.max()) + 1
            if high - low > 2 * _BLOCK_ROWS:
                yield from (self[position] for position in block.tolist())
                continue
            ends = self._ends(low, high)
            text = self._text.read(ends[0], ends[-1])
            for place in (block - low).tolist():
                yield self._example(text[ends[place] - ends[0] : ends[place + 1] - ends[0]])

    def __len__(self) -> int:
        return self._n_rows

    def __iter__(self) -> Iterator[Example]:
        return self.walk(range(len(self)))

    @overload
    def __getitem__(self, position: int) -> Example: ...
    @overload
    def __getitem__(self, position: slice) -> list[Example]: ...
    def __getitem__(self, position: int | slice) -> Example | list[Example]:
        if isinstance(position, slice):
            return list(self.walk(range(len(self))[position]))
        position = range(len(self))[position]  # negative ones, and IndexError
        return self._example(self._text.read(*self._ends(position, position + 1)))

    def _ends(self, start: int, stop: int) -> list[int]:
        """Where the text of some rows begins, and the end of each."""
        first = max(start - 1, 0)
        ends = [end for end, _, _ in _ROW.iter_unpack(self._rows.read(_ROW.size * first, _ROW.size * stop))]
        return ends if start else [0, *ends]

    def _example(self, record: bytes) -> Example:
        messages, id_, source, group, (row_id, file, row, *rest) = marshal.loads(record)
        names = self._names
        turns = tuple([Message(*message) for message in messages])
        return Example(turns, id_, row_id, names[source], names[group], names[file], row, *rest)

    def _code(self, label: str | None) -> int:
        code = self._codes.setdefault(label, len(self._names))
        if code == len(self._names):
            self._names.append(label)
        return code


class Labels(Sequence[Any]):
    """A label for each of some rows, held as numbers: `names[codes]`."""

    def __init__(self, codes: Int32[np.ndarray, " row"], names: Sequence[Hashable]) -> None:
        self.codes, self.names = codes, names

    def counts(self) -> Mapping[Any, int]:
        """How many rows have each label, in the order in which the labels come up."""
        n_rows = np.bincount(self.codes, minlength=1)
        codes, first = np.unique(self.codes, return_index=True)
        return {self.names[code]: int(n_rows[code]) for code in codes[np.argsort(first)].tolist()}

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, position: int) -> Any: ...
    @overload
    def __getitem__(self, position: slice) -> "Labels": ...
    def __getitem__(self, position: int | slice) -> Any:
        if isinstance(position, slice):
            return Labels(self.codes[position], self.names)
        return self.names[int(self.codes[position])]


def taken(values: np.ndarray, positions: "range | Int64[np.ndarray, ' row']") -> np.ndarray:
    """Some of the values; those of a range that goes up are not copied."""
    found: np.ndarray = values[as_slice(positions) if isinstance(positions, range) else positions]
    return found


def as_slice(positions: range) -> slice:
    """What takes the same: the end of a range that goes down to 0 is −1, which a slice would take for the last."""
    return slice(positions.start, positions.stop if positions.stop >= 0 else None, positions.step)


class _Spool:
    """Bytes that grow at the end and are read anywhere: the last ones in memory, those before in a temporary file."""

    def __init__(self) -> None:
        self._tail = bytearray()
        self._n_filed = 0
        self._file: IO[bytes] | None = None

    def append(self, data: bytes) -> int:
        """Add bytes; where they end."""
        self._tail += data
        if len(self._tail) >= _HELD_BYTES:
            self._put_away()
        return self._n_filed + len(self._tail)

    def read(self, start: int, stop: int) -> bytes:
        """Some of the bytes."""
        filed = b""
        if start < self._n_filed:
            assert self._file is not None
            filed = os.pread(self._file.fileno(), min(stop, self._n_filed) - start, start)
        return filed + self._tail[max(start - self._n_filed, 0) : max(stop - self._n_filed, 0)]

    def mapped(self, dtype: np.dtype[Any]) -> np.ndarray:
        """All bytes as values of this type: of the file a map, which takes memory as far as it is read."""
        if self._file is None:
            return np.frombuffer(bytes(self._tail), dtype)
        self._put_away()
        return np.asarray(np.memmap(self._file, dtype, "r"))

    def _put_away(self) -> None:
        try:
            self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115
            self._file.write(self._tail)
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"{tempfile.gettempdir()}: cannot keep the text of the rows there while they are in use "
                f"({error.strerror}); free some space, or set TMPDIR to a folder that has more"
            ) from error
        self._n_filed += len(self._tail)
        self._tail.clear()
