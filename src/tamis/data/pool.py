"""The ordered candidates."""

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from jaxtyping import Int64

from tamis.data.example import Example
from tamis.data.index import Index


class Pool(Sequence[Example]):
    """Candidates by position: some examples of an index, in order. Targets are held the same way.

    Positions, not ids, tell candidates apart: with `keep_duplicates` several have the same id.
    `n_duplicates` counts the rows equal to an earlier one, whether left out or kept.
    """

    def __init__(self, index: Index, positions: Int64[np.ndarray, " row"] | None = None, n_duplicates: int = 0) -> None:
        self._index, self.n_duplicates = index, n_duplicates
        self._positions = np.arange(len(index)) if positions is None else positions

    @classmethod
    def of(cls, examples: Iterable[Example], *, keep_duplicates: bool = False) -> "Pool":
        """A pool in the given order. Only the first of equal ids is a candidate unless keep_duplicates."""
        index = examples if isinstance(examples, Index) else Index(examples)
        _, first = np.unique(index.packed_ids, return_index=True)
        return cls(index, None if keep_duplicates else np.sort(first), len(index) - len(first))

    def take(self, positions: Sequence[int] | Int64[np.ndarray, " row"]) -> "Pool":
        """Those at some positions, in the order given."""
        return Pool(self._index, self._positions[np.asarray(positions, np.int64)])

    @property
    def ids(self) -> list[str]:
        """Id of each candidate."""
        return self._index.ids(self._positions)

    @property
    def sources(self) -> list[str]:
        """Source of each candidate."""
        return self._index.labels("source", self._positions)

    @property
    def groups(self) -> list[str | None]:
        """Group of each candidate."""
        return self._index.labels("group", self._positions)

    @property
    def texts(self) -> "Texts":
        """Text of each candidate, read when asked for."""
        return Texts(self)

    @property
    def places(self) -> Int64[np.ndarray, " row"]:
        """Where each candidate is in the index: among all rows that were read."""
        return self._positions

    def __len__(self) -> int:
        return len(self._positions)

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

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> "Texts": ...
    def __getitem__(self, position: int | slice) -> "str | Texts":
        return Texts(self._pool[position]) if isinstance(position, slice) else self._pool[position].text
