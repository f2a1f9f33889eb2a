"""Examples that are not held in memory: their text in a temporary file, and in memory what is asked of all of them."""

import json
import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from typing import IO, Any, overload

import numpy as np
from jaxtyping import Int64, Shaped

from tamis.data.example import Example, Message
from tamis.errors import InputError

_ID_BYTES = 16
_HELD_BYTES = 1 << 26  # of text in memory, before it goes to the file
_LABELS = ("source", "group", "file")


class Index(Sequence[Example]):
    """Examples in order, made anew each time one is asked for; more can be appended.

    An example takes 64 bytes of memory. Texts are held up to 64 MB, and beyond in a nameless file of the folder for
    temporary files (TMPDIR), which the system removes with the process. InputError where that folder is full.
    """

    def __init__(self, examples: Iterable[Example] = ()) -> None:
        self._ids = bytearray()
        self._codes = {name: array("q") for name in _LABELS}
        self._rows, self._instances, self._ends = array("q"), array("q"), array("q", [0])
        self._labels: dict[str | None, int] = {}
        self._names: list[Any] = []  # the labels by their codes
        self._text = _Spool()
        for example in examples:
            self.append(example)

    def append(self, example: Example) -> None:
        """Add one example at the end."""
        messages = [[m.role, m.content, m.tool_calls, m.in_loss] for m in example.messages]
        record = [messages, example.tools, example.row_id, example.line_digest]
        self._ends.append(self._text.append(json.dumps(record, ensure_ascii=False).encode()))
        self._ids += bytes.fromhex(example.id)
        for name, codes in self._codes.items():
            codes.append(self._code(getattr(example, name)))
        self._rows.append(example.row)
        self._instances.append(example.instance or 0)

    def ids(self, positions: Int64[np.ndarray, " row"]) -> list[str]:
        """The ids of some examples."""
        digits = self.packed_ids[positions].tobytes().hex()
        return [digits[start : start + 2 * _ID_BYTES] for start in range(0, len(digits), 2 * _ID_BYTES)]

    @property
    def packed_ids(self) -> Shaped[np.ndarray, " row"]:
        """The ids of all as strings of 16 bytes, which compare and sort as the ids do."""
        return np.frombuffer(bytes(self._ids), f"S{_ID_BYTES}")

    def labels(self, name: str, positions: Int64[np.ndarray, " row"]) -> list[Any]:
        """`source`, `group` or `file` of some examples."""
        return [self._names[code] for code in np.array(self._codes[name])[positions].tolist()]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, position: int) -> Example: ...
    @overload
    def __getitem__(self, position: slice) -> list[Example]: ...
    def __getitem__(self, position: int | slice) -> Example | list[Example]:
        if isinstance(position, slice):
            return [self[i] for i in range(len(self))[position]]
        position = range(len(self))[position]  # negative ones, and IndexError
        messages, tools, row_id, line_digest = json.loads(
            self._text.read(self._ends[position], self._ends[position + 1])
        )
        source, group, file = (self._names[self._codes[name][position]] for name in _LABELS)
        return Example(
            tuple(Message(role, text, _tuple(calls), in_loss) for role, text, calls, in_loss in messages),
            self._ids[_ID_BYTES * position : _ID_BYTES * (position + 1)].hex(),
            row_id,
            source,
            group,
            file,
            self._rows[position],
            _tuple(tools),
            line_digest,
            self._instances[position] or None,
        )

    def _code(self, label: str | None) -> int:
        code = self._labels.setdefault(label, len(self._names))
        if code == len(self._names):
            self._names.append(label)
        return code


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


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
        """Bytes appended by one call."""
        if start >= self._n_filed:
            return bytes(self._tail[start - self._n_filed : stop - self._n_filed])
        assert self._file is not None
        return os.pread(self._file.fileno(), stop - start, start)

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
