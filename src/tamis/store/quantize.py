"""How rows are encoded in a shard, and how encoded rows become floats again, at the speed of memory.

    float16   row ≈ data
    int8      row ≈ scale · data: scale = max |row| / 127, float32, and data is rounded half to even
    sign      row ≈ ±1/√dim: coordinate k is bit k % 8 (1 is the lowest) of byte k // 8; set for +, and for 0.
              The bits that fill up the last byte are 0

Int8 and sign are always made from the row as float16, so that a float16 store can be turned into the same bytes later.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float16, Float32, Shaped

from tamis.store.half import to_float32

StoreDtype = Literal["float16", "int8", "sign"]
STORE_DTYPES: tuple[StoreDtype, ...] = get_args(StoreDtype)

_LARGEST = np.float32(127)


def quantize(
    rows: Float16[np.ndarray, "row dim"], dtype: StoreDtype
) -> tuple[Shaped[np.ndarray, "row stored"], Float32[np.ndarray, " row"] | None]:
    """The data of a shard in this encoding, and its scales where it has some. The rows must be finite."""
    if dtype == "float16":
        return rows, None
    if dtype == "sign":
        return np.packbits(rows >= 0, axis=1, bitorder="little"), None
    if dtype == "int8":
        exact = rows.astype(np.float32)
        scale = np.abs(exact).max(axis=1, initial=0) / _LARGEST
        exact /= np.where(scale > 0, scale, np.float32(1))[:, None]
        return np.rint(exact, out=exact).astype(np.int8), scale
    raise ValueError(f"expected a store dtype of {', '.join(STORE_DTYPES)}, got {dtype!r}")


def stored_dim(dtype: StoreDtype, dim: int) -> int:
    """Numbers that a row takes: bytes for sign."""
    return -(-dim // 8) if dtype == "sign" else dim


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Rows as a shard holds them, often memory-mapped: row = scale · the values of `data`.

    The type of `data` says what it is: floats `[row, dim]` (not only float16: any rows can stand beside stored ones),
    int8 `[row, dim]`, or uint8, the bits of signs `[row, ⌈dim/8⌉]`. `scale` may be None for 1. It is a number a row, so
    a product with these rows may be formed of the values, and scaled afterwards.
    """

    data: Shaped[np.ndarray, "row stored"]
    dim: int
    scale: Float32[np.ndarray, " row"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(row, dim)."""
        return len(self.data), self.dim

    @property
    def room_dim(self) -> int:
        """Columns that `values` needs in `room`: signs come eight at a time."""
        return 8 * self.data.shape[1] if self.data.dtype == np.uint8 else self.dim

    def __len__(self) -> int:
        return len(self.data)

    def take(self, rows: slice | np.ndarray) -> "EncodedRows":
        """Some of the rows."""
        return replace(self, data=self.data[rows], scale=None if self.scale is None else self.scale[rows])

    def scaled(self, factor: Float32[np.ndarray, " row"]) -> "EncodedRows":
        """Each row times a factor of its own; the data are not touched."""
        return replace(self, scale=factor if self.scale is None else self.scale * factor)

    def values(
        self, rows: slice, room: Float32[np.ndarray, "room room_dim"] | None = None
    ) -> Float32[np.ndarray, "row dim"]:
        """The values of consecutive rows, not yet scaled. `room` may be given, to be used again and again."""
        data = self.data[rows]
        if data.dtype not in (np.int8, np.uint8):
            return to_float32(data, room)
        out = np.empty((len(data), self.room_dim), np.float32) if room is None else room[: len(data)]
        assert out.flags.c_contiguous  # else the table would be read into a copy
        if data.dtype == np.int8:
            np.copyto(out, data)
            return out
        # Every byte is a place in the table, so `wrap` changes nothing but to spare the check, and with it a copy
        np.take(_signs(self.dim), data, axis=0, out=out.reshape(*data.shape, 8), mode="wrap")
        return out[:, : self.dim]

    def to_float32(self) -> Float32[np.ndarray, "row dim"]:
        """The rows."""
        rows = self.values(slice(None))
        return rows if self.scale is None else rows * self.scale[:, None]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.to_float32(), dtype)


@cache
def _signs(dim: int) -> Float32[np.ndarray, "256 8"]:
    """For each byte its eight coordinates: eight are copied at a time."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    signs: np.ndarray = np.where(bits, 1, -1).astype(np.float32) / np.sqrt(np.float32(dim))
    return signs
