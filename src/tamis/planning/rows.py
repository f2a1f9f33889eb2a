"""What rows are made of: their tokens, all of them of a small pool, of a large one a random sample's."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int64

from tamis.data.chat import Encoded
from tamis.data.pool import Pool
from tamis.ids import first_places
from tamis.model.batch import token_batches
from tamis.planning.flops import Load

SAMPLE_ROWS = 20_000  # a larger pool is not tokenised whole


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """Some rows by position, each with its tokens or the reason why it has none, that stand for `n_rows`."""

    n_rows: int
    positions: Int64[np.ndarray, " some"]
    items: Sequence[Any]
    seconds_a_row: float

    @property
    def is_exact(self) -> bool:
        """Whether every row is here."""
        return len(self.positions) == self.n_rows

    @property
    def scale(self) -> float:
        """How many rows each one stands for."""
        return self.n_rows / max(1, len(self.positions))

    @property
    def usable(self) -> list[Any]:
        """Those with tokens."""
        return [item for item in self.items if not isinstance(item, str)]

    @property
    def reasons(self) -> list[str]:
        """Why the others have none."""
        return [item for item in self.items if isinstance(item, str)]

    @property
    def n_skipped(self) -> int:
        """Rows that will have no features."""
        return round(self.scale * len(self.reasons))

    @property
    def n_tokens(self) -> int:
        """Tokens of all rows."""
        return round(self.scale * sum(int(item.n_tokens) for item in self.usable))

    @property
    def n_supervised(self) -> int:
        """Tokens of all rows that count in the loss."""
        return round(self.scale * sum(int(item.n_supervised) for item in self.usable))

    @property
    def standard_error(self) -> float:
        """Of n_tokens: N·s/√n·√(1 − n/N); 0 where it is exact."""
        tokens = [0 if isinstance(item, str) else item.n_tokens for item in self.items]
        if self.is_exact or len(tokens) < 2:
            return 0.0
        share = len(tokens) / self.n_rows
        return float(self.n_rows * np.std(tokens, ddof=1) / np.sqrt(len(tokens)) * np.sqrt(1 - share))

    def part(self, positions: Int64[np.ndarray, " part"]) -> "Lengths":
        """These rows of them; where the sample has none of these, all of it stands for them."""
        kept = np.flatnonzero(np.isin(self.positions, positions)).tolist()
        if not kept and len(positions):
            return replace(self, n_rows=len(positions))
        return Lengths(len(positions), self.positions[kept], [self.items[i] for i in kept], self.seconds_a_row)


def lengths_of(pool: Pool, read: Callable[[Any], Any], seed: int, n_sample: int | None = None) -> Lengths:
    """The tokens of a pool's rows, each id once; of more than `n_sample` rows those of so many random ones."""
    n_sample = SAMPLE_ROWS if n_sample is None else n_sample
    positions = first_places(pool.packed_ids)
    n_rows = len(positions)
    if n_rows > n_sample:
        positions = np.sort(np.random.default_rng(seed).choice(positions, n_sample, replace=False))
    start = time.perf_counter()
    items = [read(example) for example in pool.take(positions)]
    return Lengths(n_rows, positions, items, (time.perf_counter() - start) / max(1, len(items)))


def shard_batches(items: Sequence[Any], shard_rows: int, batch_tokens: int) -> list[list[Any]]:
    """The batches that shards of these items are cut into."""
    shards = [items[start : start + shard_rows] for start in range(0, len(items), shard_rows)]
    return [
        [shard[place] for place in batch]
        for shard in shards
        for batch in token_batches([item.n_tokens for item in shard], batch_tokens)
    ]


def width(batch: Sequence[Any]) -> int:
    """Tokens that each row of a batch takes; what follows a row's last supervised token is dropped."""
    return max(_end(item) for item in batch)


def _end(item: Any) -> int:
    if isinstance(item, Encoded) and item.mask.any():
        return int(np.flatnonzero(item.mask)[-1]) + 1
    return int(item.n_tokens)


def load_of(batches: Sequence[Sequence[Any]], scale: float = 1.0) -> Load:
    """What goes through the model in these batches, each of which stands for `scale` ones."""
    widths = [width(batch) for batch in batches]
    counts = (
        sum(map(len, batches)),
        sum(item.n_tokens for batch in batches for item in batch),
        sum(len(batch) * w for batch, w in zip(batches, widths, strict=True)),
        sum(len(batch) * w * w for batch, w in zip(batches, widths, strict=True)),
        sum(item.n_supervised for batch in batches for item in batch),
    )
    return Load(*map(float, counts)).times(scale)


def micro_batches(items: Sequence[Any], size: int, rng: np.random.Generator) -> list[list[Any]]:
    """An epoch's micro-batches: the items in a random order, `size` at a time."""
    order = rng.permutation(len(items))
    return [[items[i] for i in order[start : start + size]] for start in range(0, len(order), size)]
