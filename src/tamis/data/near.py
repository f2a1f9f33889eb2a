"""Near-duplicates: rows that say nearly the same in nearly the same words."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tamis.data.example import Example

SHINGLE = 5  # words
_WORD = re.compile(r"\w+")
_N_HASHES = 128


class NearDuplicates:
    """Tells of a pool row whether a near-duplicate of it was added before; rows are named by their position.

    Two rows are near-duplicates if the Jaccard similarity |A∩B|/|A∪B| of their sets of 5-word shingles (all turns,
    lower-cased; a shorter row is one shingle) is at least `threshold`. Candidates come from MinHash with 128 hashes, in
    bands so short that a pair at the threshold shares one with a probability above 0.99, and are compared exactly: no
    pair is false, and few are missed. Memory grows with the rows added, never with the pool.

    ValueError for a threshold outside ]0, 1].

    Source: Broder 1997, On the resemblance and containment of documents; by the library datasketch.
    """

    def __init__(self, pool: Sequence[Example], threshold: float = 0.8) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"expected a threshold above 0 and up to 1, got {threshold}")
        from datasketch import MinHash

        self._pool, self._threshold = pool, threshold
        self._empty = MinHash(num_perm=_N_HASHES, seed=1)  # copied for each row: to draw its permutations is slow
        self._signature = lru_cache(maxsize=100_000)(self._compute)
        self.clear()

    def clear(self) -> None:
        """Forget the rows added."""
        from datasketch import MinHashLSH

        n_rows = _rows_per_band(self._threshold)
        self._added: Any = MinHashLSH(num_perm=_N_HASHES, params=(_N_HASHES // n_rows, n_rows))

    def add(self, position: int) -> None:
        """Add a row, once."""
        self._added.insert(position, self._signature(position), check_duplication=False)

    def has_near(self, position: int) -> bool:
        """Whether a near-duplicate of this row was added."""
        candidates = self._added.query(self._signature(position))
        mine = shingles(self._pool[position]) if candidates else frozenset()
        return any(self._are_near(mine, shingles(self._pool[other])) for other in candidates)

    def near(self, position: int) -> dict[int, float]:
        """The near-duplicates of this row that were added, with their Jaccard similarity to it."""
        candidates = sorted(self._added.query(self._signature(position)))
        mine = shingles(self._pool[position]) if candidates else frozenset()
        similarity = {other: _jaccard(mine, shingles(self._pool[other])) for other in candidates}
        return {other: value for other, value in similarity.items() if value >= self._threshold}

    def _are_near(self, a: frozenset[str], b: frozenset[str]) -> bool:
        return _jaccard(a, b) >= self._threshold  # a product would round pairs at the threshold away

    def _compute(self, position: int) -> Any:
        from datasketch import LeanMinHash

        signature = self._empty.copy()
        signature.update_batch([text.encode() for text in sorted(shingles(self._pool[position]))])
        return LeanMinHash(signature)


def shingles(example: Example) -> frozenset[str]:
    """Every five words that follow one another; the row itself where it is shorter."""
    words = _WORD.findall("\n".join(message.content for message in example.messages).lower())
    return frozenset(" ".join(words[start : start + SHINGLE]) for start in range(max(1, len(words) - SHINGLE + 1)))


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b)


def _rows_per_band(threshold: float) -> int:
    """The longest band, of two or more, that makes a pair at the threshold a candidate with probability 0.99."""
    good = [r for r in range(1, _N_HASHES // 2 + 1) if (1 - threshold**r) ** (_N_HASHES // r) < 0.01]
    return max(good, default=1)
