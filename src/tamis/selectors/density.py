"""How crowded the surroundings of a pool row are: the blocked pairwise part of `knn_kde`."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from tamis.selectors.rows import Rows, check_finite, equal_rows

_BLOCK_ROWS = 512  # a block of similarities is 1 MB
_WHOLE_CELLS = 1 << 22  # of the similarities of some rows to all: 16 MB
_MIN_ROWS = 64  # a product of fewer rows is slow
_SAMPLE_ROWS = 512
_N_PIVOTS = 64


def density(
    features: Sequence[Rows],
    lr_weights: Float[np.ndarray, " checkpoint"],
    positions: Int64[np.ndarray, " row"],
    n_neighbors: int,
    bandwidth: float,
    memory_bytes: int = 1 << 30,
) -> Float64[np.ndarray, " row"]:
    """ρ of each of the rows at `positions`, among themselves.

    ρ = Σ max(0, 1 − 2d/σ²) over the row's n_neighbors nearest, itself included, d = 1 − Σ_c lr_weight_c · cos_c, where
    `features` holds unit rows of each checkpoint c and σ is the bandwidth.

    Only rows with d < σ²/2 count. So the sum over all of them is the sum over the nearest, but where more than
    n_neighbors are that close. Rows of which a sample says so are compared with all others, and these partly sorted;
    pairs of the rest are computed once, and rows that the sample missed are done again. Products are float32; features
    are held if they fit in half of `memory_bytes`, else read again for every block. Equal rows have equal densities.
    ValueError for features that are not finite.
    """
    for rows_of_one in features:
        check_finite(rows_of_one, positions)
    source = _Blocks(features, lr_weights, positions, 2 / bandwidth**2, memory_bytes)
    n_rows = len(positions)
    total, n_close = np.zeros(n_rows), np.zeros(n_rows, np.int64)
    is_crowded = _are_crowded(source, n_neighbors)
    crowded, others = np.flatnonzero(is_crowded), np.flatnonzero(~is_crowded)
    of_crowded = np.zeros(n_rows)
    for batch in _batches(crowded, source.n_whole):
        kernel, columns = source.with_all(batch)
        if len(others):
            positive = np.maximum(kernel, 0)
            total[columns] += np.ones(len(batch), np.float32) @ positive
            n_close[columns] += _n_positive(positive)[1]
        of_crowded[batch] = _sum_of_highest(kernel, n_neighbors)
    total[crowded] = of_crowded[crowded]
    for start in range(0, len(others), source.n_block):
        mine = others[start : start + source.n_block]
        rows = source[mine]
        for other in range(start, len(others), source.n_block):
            theirs = others[other : other + source.n_block]
            kernel = source.kernel(rows, source[theirs])
            if other == start:
                np.fill_diagonal(kernel, 1)  # a row is its own neighbour, whatever rounding says
            if kernel.max() <= 0:
                continue
            np.maximum(kernel, 0, out=kernel)
            total[mine] += kernel @ np.ones(len(theirs), np.float32)
            n_in_row, n_in_column = _n_positive(kernel)
            n_close[mine] += n_in_row
            if other != start:
                total[theirs] += np.ones(len(mine), np.float32) @ kernel
                n_close[theirs] += n_in_column
    missed = others[n_close[others] > n_neighbors]
    for batch in _batches(missed, source.n_whole):
        total[batch] = _sum_of_highest(source.with_all(batch)[0], n_neighbors)
    first, copies = equal_rows(source)
    total[copies] = total[first[copies]]
    in_order = np.empty(n_rows)
    in_order[source.order] = total
    return in_order


def _batches(rows: Int64[np.ndarray, " row"], n_at_once: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), n_at_once):
        yield rows[start : start + n_at_once]


def _are_crowded(source: "_Blocks", n_neighbors: int) -> Bool[np.ndarray, " row"]:
    """Whether a row probably has more than n_neighbors others that count, by a sample of the others."""
    n_rows = source.shape[0]
    if n_rows <= n_neighbors:
        return np.zeros(n_rows, bool)
    sample = source[np.arange(0, n_rows, max(1, n_rows // _SAMPLE_ROWS))]
    n_close = np.concatenate([(source.kernel(rows, sample) > 0).sum(axis=1) for _, rows in source])
    crowded: np.ndarray = n_close * (n_rows / len(sample)) > n_neighbors
    return crowded


class _Blocks:
    """The features of all checkpoints side by side, scaled so that a product of rows a, b is 1 − (2/σ²)·(1 − S_ab).

    Each checkpoint's rows times √(lr_weight·2/σ²); the constant 1 − 2/σ² comes from one more column. Rows that are held
    are held in an `order` of their own, such that most blocks have no close pair.
    """

    def __init__(
        self,
        features: Sequence[Rows],
        lr_weights: np.ndarray,
        positions: np.ndarray,
        steepness: float,
        memory_bytes: int,
    ) -> None:
        self._features, self._positions = features, positions
        self._scales = np.sqrt(np.asarray(lr_weights, np.float64) * steepness)
        self._constant = np.float32(1 - steepness)
        self._dim = sum(rows.shape[1] for rows in features)
        self.shape = (len(positions), self._dim + 1)
        self._held: np.ndarray | None = None
        self.order = np.arange(len(positions))
        cells = memory_bytes // 12  # of the similarities of some rows to all: tiles, whole, and those above 0
        if 4 * len(positions) * (self._dim + 1) <= memory_bytes // 2:
            self.n_block = _BLOCK_ROWS
            self.order = self._by_pivot()
            self._positions = positions[self.order]
            self._held = self._read(self._positions)
            n_whole = max(min(_MIN_ROWS, cells // len(positions)), min(_WHOLE_CELLS, cells) // len(positions))
        else:  # the larger the blocks, the fewer passes over what is not held
            fitting = min(int(np.sqrt(memory_bytes / 64)), memory_bytes // (32 * (self._dim + 1)))
            self.n_block = max(_BLOCK_ROWS, fitting)
            n_whole = cells // len(positions)
        self.n_whole = max(1, n_whole)

    def __getitem__(self, rows: slice | np.ndarray) -> Float32[np.ndarray, "row dim_and_1"]:
        return self._read(self._positions[rows]) if self._held is None else self._held[rows]

    def __iter__(self) -> Iterator[tuple[int, Float32[np.ndarray, "row dim_and_1"]]]:
        """Blocks of rows, each with its first row."""
        for start in range(0, len(self._positions), self.n_block):
            yield start, self[start : start + self.n_block]

    def with_all(self, rows: np.ndarray) -> tuple[Float32[np.ndarray, "row close"], Int64[np.ndarray, " close"]]:
        """1 − 2d/σ² of some rows to those to which any of them is close, and which those are; 1 to itself."""
        left = self._left(self[rows])
        tiles, columns = [], []
        for start, right in self:
            tile = left @ right.T
            own = np.flatnonzero((rows >= start) & (rows < start + len(right)))
            tile[own, rows[own] - start] = 1
            close = np.flatnonzero(tile.max(axis=0) > 0)
            tiles.append(tile[:, close])
            columns.append(start + close)
        return np.concatenate(tiles, axis=1), np.concatenate(columns)

    def kernel(self, rows: np.ndarray, columns: np.ndarray) -> Float32[np.ndarray, "row column"]:
        """1 − 2d/σ² of each pair."""
        product: np.ndarray = self._left(rows) @ columns.T
        return product

    def _left(self, rows: np.ndarray) -> np.ndarray:
        left = rows.copy()
        left[:, -1] = self._constant
        return left

    def _by_pivot(self) -> Int64[np.ndarray, " row"]:
        """An order in which rows that are close stand together: by the nearest of some pivots, then by nearness."""
        n_rows = len(self._positions)
        pivots = self[np.arange(0, n_rows, max(1, n_rows // _N_PIVOTS))]
        kernel = np.concatenate([self.kernel(rows, pivots) for _, rows in self])
        return np.lexsort((-kernel.max(axis=1), kernel.argmax(axis=1)))

    def _read(self, positions: np.ndarray) -> np.ndarray:
        out = np.ones((len(positions), self._dim + 1), np.float32)
        for start in range(0, len(positions), _BLOCK_ROWS):
            block = out[start : start + _BLOCK_ROWS]
            column = 0
            for rows, scale in zip(self._features, self._scales, strict=True):
                part = block[:, column : column + rows.shape[1]]
                np.multiply(
                    rows[positions[start : start + _BLOCK_ROWS]], np.float32(scale), out=part, casting="same_kind"
                )
                column += rows.shape[1]
        return out


def _sum_of_highest(kernel: Float32[np.ndarray, "row column"], n: int) -> Float64[np.ndarray, " row"]:
    """Of each row, the sum of its n highest cells, without those below 0; the cells change places."""
    if n < kernel.shape[1]:
        kernel.partition(kernel.shape[1] - n, axis=1)
    sums: np.ndarray = np.maximum(kernel[:, -n:], 0).sum(axis=1, dtype=np.float64)
    return sums


def _n_positive(kernel: Float32[np.ndarray, "row column"]) -> tuple[np.ndarray, np.ndarray]:
    """How many cells of each row and of each column are above 0: eight flags at a time, much faster than a sum."""
    n_rows, n_columns = kernel.shape
    flags = np.zeros((n_rows, -(-n_columns // 8) * 8), np.uint8)
    np.greater(kernel, 0, out=flags[:, :n_columns].view(bool))
    words = flags.view(np.uint64)
    in_column = np.zeros(flags.shape[1], np.int64)
    for start in range(0, n_rows, 255):  # as many as a byte can count
        in_column += words[start : start + 255].sum(axis=0).view(np.uint8)
    return np.bitwise_count(words).sum(axis=1, dtype=np.int64), in_column[:n_columns]
