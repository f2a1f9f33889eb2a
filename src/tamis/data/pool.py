"""The ordered candidates."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from jaxtyping import Int64

from tamis import ids
from tamis.data.example import Example
from tamis.data.index import Index, Labels, taken


class Pool(Sequence[Example]):
    """Candidates by position: some examples of an index, in order. Targets are held the same way.

    Positions, not ids, tell candidates apart: with `keep_duplicates` several have the same id.
    `n_duplicates` counts the rows equal to an earlier one, whether left out or kept.
    """

    def __init__(
        self, index: Index, positions: range | Int64[np.ndarray, " row"] | None = None, n_duplicates: int = 0
    ) -> None:
        self._index, self.n_duplicates = index, n_duplicates
        self._positions = range(len(index)) if positions is None else positions

    @classmethod
    def of(cls, examples: Iterable[Example], *, keep_duplicates: bool = False) -> "Pool":
        """A pool in the given order. Only the first of equal ids is a candidate unless keep_duplicates."""
        index = examples if isinstance(examples, Index) else Index(examples)
        first = ids.first_places(index.packed_ids)
        n_duplicates = len(index) - len(first)
        return cls(index, None if keep_duplicates or not n_duplicates else first, n_duplicates)

    def take(self, positions: Sequence[int] | Int64[np.ndarray, " row"]) -> "Pool":
        """Those at some positions, in the order given."""
        wanted = np.asarray(positions, np.int64)
        if isinstance(self._positions, range):
            if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
                raise IndexError(f"expected positions from 0 to {len(self) - 1}, got {wanted.min()} to {wanted.max()}")
            return Pool(self._index, self._positions.start + self._positions.step * wanted)
        return Pool(self._index, self._positions[wanted])

    def without(self, positions: Sequence[int] | Int64[np.ndarray, " row"]) -> "Pool":
        """Those at all other positions; this very pool where that is all."""
        return Pool(self._index, np.delete(self.places, positions)) if len(positions) else self

    @property
    def packed_ids(self) -> ids.Packed:
        """Id of each candidate, packed: see `tamis.ids`."""
        return taken(self._index.packed_ids, self._positions)

    @property
    def ids(self) -> list[str]:
        """Id of each candidate as 32 digits: for few, because each takes 81 bytes."""
        return ids.unpack(self.packed_ids)

    @property
    def digest(self) -> str:
        """128-bit digest (hex) of the ids in their order."""
        return ids.digest(self.packed_ids)

    def labels(self, name: str) -> Labels:
        """`source` or `group` of each candidate."""
        return self._index.labels(name, self._positions)

    @property
    def sources(self) -> list[str]:
        """Source of each candidate; see `labels` for many."""
        return list(self.labels("source"))

    @property
    def groups(self) -> list[str | None]:
        """Group of each candidate; see `labels` for many."""
        return list(self.labels("group"))

    @property
    def texts(self) -> "Texts":
        """Text of each candidate, read when asked for."""
        return Texts(self)

    @property
    def places(self) -> Int64[np.ndarray, " row"]:
        """Where each candidate is in the index: among all rows that were read."""
        found = self._positions
        return np.arange(found.start, found.stop, found.step) if isinstance(found, range) else found

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[Example]:
        return self._index.walk(self._positions)

    @overload
    def __getitem__(self, position: int) -> Example: ...
    @overload
    def __getitem__(self, position: slice) -> "Pool": ...
    def __getitem__(self, position: int | slice) -> "Example | Pool":
        if isinstance(position, slice):
            return Pool(self._index, self._positions[position])
        return self._index[int(self._positions[position])]


class Texts(Sequence[str]):
    """The texts of a pool, of which none is kept."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __len__(self) -> int:
        return len(self._pool)

    def __iter__(self) -> Iterator[str]:
        return (example.text for example in self._pool)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> "Texts": ...
    def __getitem__(self, position: int | slice) -> "str | Texts":
        return Texts(self._pool[position]) if isinstance(position, slice) else self._pool[position].text
