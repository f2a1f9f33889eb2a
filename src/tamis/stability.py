"""How firm picks are: would other targets of the same kind, or another random projection, have picked the same rows?"""

import tempfile
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from tamis.selectors import Picks

FIRM, DOUBTFUL = 90, 50  # percent of the draws: from FIRM on a pick is firm, below DOUBTFUL it is doubtful

# (similarity [target, pool], a group of each target or None, n_examples, which similarity was resampled) → picks
Select = Callable[[Float[np.ndarray, "target pool"], Sequence[Hashable] | None, int, int], Picks]


@dataclass(frozen=True, eq=False)
class Inclusion:
    """How many of `n_draws` draws picked each pool row, and the `picks` from all targets as they are."""

    counts: Int64[np.ndarray, " pool"]
    picks: Picks
    n_draws: int

    @property
    def probability(self) -> Float32[np.ndarray, " pool"]:
        """The share of draws that picked a row."""
        return (self.counts / self.n_draws).astype(np.float32)

    @property
    def is_pick(self) -> Bool[np.ndarray, " pool"]:
        """Whether the picks hold a row."""
        mask = np.zeros(len(self.counts), bool)
        mask[self.picks.indices] = True
        return mask

    @property
    def firm(self) -> Bool[np.ndarray, " pool"]:
        """Picks that at least 90% of the draws picked."""
        return self.is_pick & (100 * self.counts >= FIRM * self.n_draws)

    @property
    def doubtful(self) -> Bool[np.ndarray, " pool"]:
        """Picks that fewer than half of the draws picked."""
        return self.is_pick & (100 * self.counts < DOUBTFUL * self.n_draws)

    @property
    def outside(self) -> Bool[np.ndarray, " pool"]:
        """Rows that are no picks, though at least half of the draws picked them."""
        return ~self.is_pick & (100 * self.counts >= DOUBTFUL * self.n_draws)

    @property
    def n_shared(self) -> float:
        """Picks that two draws share on average: E|A ∩ B| = Σ p².

        Estimated without bias, over every two of the draws: Σ c(c − 1) / (D(D − 1)) for counts c of D draws. Σ (c/D)²
        would also compare each draw with itself.
        """
        counts = self.counts.astype(np.float64)
        return float((counts * (counts - 1)).sum() / (self.n_draws * (self.n_draws - 1)))

    @property
    def shared(self) -> float:
        """The share of its picks that a draw has in common with another."""
        return self.n_shared / len(self.picks)

    @property
    def jaccard(self) -> float:
        """E|A ∩ B| / E|A ∪ B| of two draws of n picks: Σ p² / (2n − Σ p²)."""
        return self.n_shared / (2 * len(self.picks) - self.n_shared)


# ---- draws ---------------------------------------------------------------------------------------------------------


def inclusion(
    similarities: Sequence[Float[np.ndarray, "target pool"]],
    groups: Sequence[Hashable] | None,
    select: Select,
    n_examples: int,
    n_draws: int,
    *,
    seed: int = 0,
    memory_bytes: int = 1 << 62,
) -> Inclusion:
    """Inclusion probabilities by the bootstrap over targets, and over the random projections where there are several.

    `similarities` are of the same targets and pool, one for each projection. Draw d takes the next of them in turn;
    each group's target rows are replaced by as many drawn from the group with replacement (no groups are one group);
    `select` picks n_examples by what comes out. Drawn rows stand in the order of the targets, each in a place of its
    own group. A draw depends on `seed` and d alone, so the first draws of many are those of few.

    A draw takes the memory of one similarity; what is larger than `memory_bytes` is kept in a nameless temporary file.

    ValueError for no similarity or different shapes, groups of another length, or fewer than two draws, or fewer draws
    than similarities.

    Source: Efron, Bootstrap methods: another look at the jackknife, 1979, stratified by group.
    """
    shapes = {similarity.shape for similarity in similarities}
    if len(shapes) != 1:
        raise ValueError(f"expected similarities of one shape, got {sorted(shapes) or 'none'}")
    n_target, n_pool = shapes.pop()
    if groups is not None and len(groups) != n_target:
        raise ValueError(f"expected one group label for each of {n_target} targets, got {len(groups)}")
    if n_draws < max(2, len(similarities)):
        raise ValueError(f"expected at least two draws, and one for each similarity; got {n_draws}")
    picks = select(similarities[0], groups, n_examples, 0)
    counts = np.zeros(n_pool, np.int64)
    resampled = _room(similarities[0], memory_bytes)
    for draw in range(n_draws):
        which = draw % len(similarities)
        for place, target in enumerate(resample(groups or [None] * n_target, np.random.default_rng([seed, draw]))):
            resampled[place] = similarities[which][target]
        counts[select(resampled, groups, n_examples, which).indices] += 1
    return Inclusion(counts, picks, n_draws)


def resample(groups: Sequence[Hashable], rng: np.random.Generator) -> Int64[np.ndarray, " target"]:
    """For each target's place a target of the same group, drawn with replacement; ascending within a group."""
    members: dict[Hashable, list[int]] = {}
    for target, group in enumerate(groups):
        members.setdefault(group, []).append(target)
    drawn = np.empty(len(groups), np.int64)
    for places in members.values():
        drawn[places] = np.sort(rng.choice(places, len(places)))
    return drawn


def _room(like: np.ndarray, memory_bytes: int) -> np.ndarray:
    if like.size * like.itemsize <= memory_bytes:
        return np.empty(like.shape, like.dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, like.dtype, "w+", shape=like.shape)
