"""The ordered candidates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tamis.data.example import Example
from tamis.data.files import ReadResult


@dataclass(frozen=True, slots=True)
class Pool:
    """Candidates by position, in file order. Targets are held the same way.

    Positions, not ids, tell candidates apart: with `keep_duplicates` several have the same id.
    `n_duplicates` counts the rows equal to an earlier one, whether left out or kept.
    """

    examples: tuple[Example, ...]
    n_duplicates: int = 0

    @classmethod
    def of(cls, examples: Sequence[Example], *, keep_duplicates: bool = False) -> "Pool":
        """A pool in the given order. Only the first of equal ids is a candidate unless keep_duplicates."""
        first: dict[str, Example] = {}
        for example in examples:
            first.setdefault(example.id, example)
        kept = tuple(examples) if keep_duplicates else tuple(first.values())
        return cls(kept, len(examples) - len(first))

    @classmethod
    def from_read(cls, result: ReadResult, *, keep_duplicates: bool = False) -> "Pool":
        """A pool of all good rows that were read."""
        return cls.of(result.examples, keep_duplicates=keep_duplicates)

    @property
    def ids(self) -> list[str]:
        """Id of each candidate."""
        return [example.id for example in self.examples]

    @property
    def sources(self) -> list[str]:
        """Source of each candidate."""
        return [example.source for example in self.examples]

    @property
    def groups(self) -> list[str | None]:
        """Group of each candidate."""
        return [example.group for example in self.examples]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, position: int) -> Example:
        return self.examples[position]

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)
