"""How crowded the surroundings of a pool row are: the blocked pairwise part of `knn_kde`."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from tamis.selectors.rows import Rows, check_finite, equal_rows

_BLOCK_ROWS = 1024  # a block of similarities is 4 MB


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
    n_neighbors are that close: those rows alone are sorted, in a second pass. Products are float32, each pair is
    computed once; features are held if they fit in `memory_bytes`, and else read again for every block. Equal rows have
    equal densities. ValueError for features that are not finite.
    """
    for rows_of_one in features:
        check_finite(rows_of_one, positions)
    source = _Blocks(features, lr_weights, positions, 2 / bandwidth**2, memory_bytes // 2)
    n_rows = len(positions)
    total, n_close = np.zeros(n_rows), np.zeros(n_rows, np.int64)
    for start, rows in source:
        mine = slice(start, start + len(rows))
        for other, columns in source.after(start):
            theirs = slice(other, other + len(columns))
            kernel = source.kernel(rows, columns)
            if other == start:
                np.fill_diagonal(kernel, 1)  # a row is its own neighbour, whatever rounding says
            np.maximum(kernel, 0, out=kernel)
            total[mine] += kernel @ np.ones(len(columns), np.float32)
            n_in_row, n_in_column = _n_positive(kernel)
            n_close[mine] += n_in_row
            if other != start:
                total[theirs] += np.ones(len(rows), np.float32) @ kernel
                n_close[theirs] += n_in_column
    crowded = np.flatnonzero(n_close > n_neighbors)
    n_at_once = max(1, memory_bytes // 8 // n_rows)  # 4 bytes a cell, in half the memory
    for start in range(0, len(crowded), n_at_once):
        batch = crowded[start : start + n_at_once]
        total[batch] = _sum_of_nearest(source, batch, n_neighbors)
    first, copies = equal_rows(source)
    total[copies] = total[first[copies]]
    return total


class _Blocks:
    """The features of all checkpoints side by side, scaled so that a product of rows a, b is 1 − (2/σ²)·(1 − S_ab).

    Each checkpoint's rows times √(lr_weight·2/σ²); the constant 1 − 2/σ² comes from one more column.
    """

    def __init__(
        self,
        features: Sequence[Rows],
        lr_weights: np.ndarray,
        positions: np.ndarray,
        steepness: float,
        held_bytes: int,
    ) -> None:
        self._features, self._positions = features, positions
        self._scales = np.sqrt(np.asarray(lr_weights, np.float64) * steepness)
        self._constant = np.float32(1 - steepness)
        self._dim = sum(rows.shape[1] for rows in features)
        self.shape = (len(positions), self._dim + 1)
        self._held = self._read(positions) if 4 * len(positions) * (self._dim + 1) <= held_bytes else None

    def __getitem__(self, rows: slice | np.ndarray) -> Float32[np.ndarray, "row dim_and_1"]:
        return self._read(self._positions[rows]) if self._held is None else self._held[rows]

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        return self.after(0)

    def after(self, first: int) -> Iterator[tuple[int, Float32[np.ndarray, "row dim_and_1"]]]:
        """Blocks from row `first` on, each with its first row."""
        for start in range(first, len(self._positions), _BLOCK_ROWS):
            yield start, self[start : start + _BLOCK_ROWS]

    def kernel(self, rows: np.ndarray, columns: np.ndarray) -> Float32[np.ndarray, "row column"]:
        """1 − 2d/σ² of each pair."""
        left = rows.copy()
        left[:, -1] = self._constant
        product: np.ndarray = left @ columns.T
        return product

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


def _sum_of_nearest(source: _Blocks, rows: np.ndarray, n_neighbors: int) -> np.ndarray:
    left = source[rows]
    kernel = np.concatenate([source.kernel(left, columns) for _, columns in source], axis=1)
    kernel[np.arange(len(rows)), rows] = 1
    sums = np.empty(len(rows))
    for row, values in enumerate(kernel):
        close = values[values > 0]
        if n_neighbors < len(close):
            close.partition(len(close) - n_neighbors)
        sums[row] = close[-n_neighbors:].sum(dtype=np.float64)
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
