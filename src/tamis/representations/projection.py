"""Random projections of parameter-sized vectors, streamed block by block.

A projection Π is linear and unbiased, E⟨Πx, Πy⟩ = ⟨x, y⟩. Its random signs and rotations come from a counter-based
generator (Philox 4×64) keyed by (seed, purpose, parameter name) and addressed by offset, drawn on the CPU: they are the
same bits on every device and for any batch, order of parameters or number of workers, and offsets are Python integers,
so parameters beyond 2³² coordinates are no special case.

Every kind takes a parameter's values in blocks, so that whoever makes the values (Adam's direction, say) can make a
block and hand it over while it is still in the cache.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int8, Int64
from torch import Tensor

Kind = Literal["sketch", "rademacher", "none"]

_SIGNS_PER_COUNTER = 256  # one Philox counter gives four 64-bit words
_CPU_BLOCK_BYTES = 2**19  # of one block of a batch: stays in a core's cache
_GPU_BLOCK_BYTES = 2**28
_RADEMACHER_BLOCK_BYTES = 2**26  # of the dense sign matrix


def _philox(seed: int, purpose: str, name: str, counter: int) -> np.random.Philox:
    key = hashlib.blake2b(f"{seed}\0{purpose}\0{name}".encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(key, "little"), counter=counter)


def signs(seed: int, name: str, offset: int, n: int) -> Int8[np.ndarray, " n"]:
    """The random signs (+1 or −1) of coordinates offset … offset + n of the parameter `name`."""
    first = offset // _SIGNS_PER_COUNTER
    last = -(-(offset + n) // _SIGNS_PER_COUNTER)
    words = _philox(seed, "signs", name, first).random_raw(4 * (last - first)).astype("<u8")
    start = offset - first * _SIGNS_PER_COUNTER
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[start : start + n]
    return bits.astype(np.int8) * np.int8(2) - np.int8(1)


def rotations(seed: int, name: str, n_chunks: int, dim: int) -> Int64[np.ndarray, " n_chunks"]:
    """How far each chunk of the parameter `name` is rotated: uniform in [0, dim) (up to dim/2⁶⁴)."""
    words = _philox(seed, "rotations", name, 0).random_raw(n_chunks)
    return (words % np.uint64(dim)).astype(np.int64)


@runtime_checkable
class Projection(Protocol):
    """Adds a block of one parameter's values to the projected rows."""

    @property
    def dim(self) -> int:
        """Length of a projected row."""
        ...

    def block(self, n_rows: int) -> int:
        """Coordinates in one block of n_rows rows; a parameter is handed over in blocks that start at its multiples."""

    def add_(
        self, out: Float32[Tensor, "rows dim"], name: str, offset: int, values: Float32[Tensor, "rows param"]
    ) -> None:
        """out += Π[:, coordinates offset … of parameter `name`] · values; `values` may be overwritten."""


@dataclass(frozen=True)
class Sketch:
    """Chunked count sketch, O(param) time: out[(j + rotation_c) mod dim] += sign[c·dim + j] · value[c·dim + j].

    Each parameter is cut into chunks of length dim; every coordinate has its own sign and every chunk one uniform
    rotation, so two coordinates meet only if they are of different chunks, with probability 1/dim. Variance of inner
    products: (‖x‖²‖y‖² + ⟨x,y⟩² − Σ_c(‖x_c‖²‖y_c‖² + ⟨x_c,y_c⟩²)) / dim, never above a dense Rademacher matrix's.
    Signs are held as int8 on the device, one byte a coordinate.
    """

    dim: int
    device: torch.device
    sign: dict[str, Int8[Tensor, " param"]]
    rotation: dict[str, Int64[np.ndarray, " chunk"]]

    def block(self, n_rows: int) -> int:
        """A whole number of chunks, at least one."""
        size = _CPU_BLOCK_BYTES if self.device.type == "cpu" else _GPU_BLOCK_BYTES
        return self.dim * max(1, size // (4 * self.dim * n_rows))

    def add_(
        self, out: Float32[Tensor, "rows dim"], name: str, offset: int, values: Float32[Tensor, "rows param"]
    ) -> None:
        """See `Projection.add_`; offset is a multiple of dim."""
        n = values.shape[1]
        first, n_chunks = offset // self.dim, -(-n // self.dim)
        turns = self.rotation[name][first : first + n_chunks]
        sign = self.sign[name][offset : offset + n].to(torch.float32)
        if self.device.type == "cpu":
            _add_by_slices(out, values, sign, turns)
        else:
            _add_by_gather(out, values, sign, turns)


def _add_by_slices(
    out: Float32[Tensor, "rows dim"],
    values: Float32[Tensor, "rows param"],
    sign: Float32[Tensor, " param"],
    turns: Int64[np.ndarray, " chunk"],
) -> None:
    """Two contiguous multiply-adds a chunk: one read of the values, which is what bounds it on a CPU."""
    n, dim = values.shape[1], out.shape[1]
    for chunk, turn in enumerate(turns.tolist()):
        start, end = chunk * dim, min(n, (chunk + 1) * dim)
        fold = min(end, start + dim - turn)
        out[:, turn : turn + fold - start].addcmul_(values[:, start:fold], sign[start:fold])
        if fold < end:
            out[:, : end - fold].addcmul_(values[:, fold:end], sign[fold:end])


def _add_by_gather(
    out: Float32[Tensor, "rows dim"],
    values: Float32[Tensor, "rows param"],
    sign: Float32[Tensor, " param"],
    turns: Int64[np.ndarray, " chunk"],
) -> None:
    """All chunks of the block in a few kernels; gather, not scatter, so that the order of additions is fixed."""
    n_rows, dim = out.shape
    flat = torch.nn.functional.pad(values.mul_(sign), (0, len(turns) * dim - values.shape[1]))
    turn = torch.from_numpy(turns).to(out.device)
    index = (torch.arange(dim, device=out.device) - turn[:, None]) % dim
    chunks = flat.view(n_rows, len(turns), dim)
    out.add_(chunks.gather(2, index.expand(n_rows, -1, -1)).sum(1))


@dataclass(frozen=True)
class Rademacher:
    """Dense matrix of ±1/√dim, made anew in blocks: O(param · dim) time, for reproducing published results.

    Variance of inner products: (‖x‖²‖y‖² + ⟨x,y⟩² − 2 Σᵢ xᵢ²yᵢ²) / dim.
    """

    dim: int
    device: torch.device
    seed: int

    def block(self, n_rows: int) -> int:
        """Coordinates whose rows of signs fit the block."""
        return max(1, _RADEMACHER_BLOCK_BYTES // (4 * self.dim))

    def add_(
        self, out: Float32[Tensor, "rows dim"], name: str, offset: int, values: Float32[Tensor, "rows param"]
    ) -> None:
        """See `Projection.add_`."""
        n = values.shape[1]
        matrix = torch.from_numpy(signs(self.seed, name, offset * self.dim, n * self.dim)).to(self.device)
        out.addmm_(values, matrix.view(n, self.dim).to(torch.float32), alpha=1 / math.sqrt(self.dim))


@dataclass(frozen=True)
class Identity:
    """No projection: the parameters one after the other, in the order of their names. For small models and tests."""

    dim: int
    start: dict[str, int]

    def block(self, n_rows: int) -> int:
        """All at once: there is nothing to stream."""
        return self.dim

    def add_(
        self, out: Float32[Tensor, "rows dim"], name: str, offset: int, values: Float32[Tensor, "rows param"]
    ) -> None:
        """See `Projection.add_`."""
        start = self.start[name] + offset
        out[:, start : start + values.shape[1]].add_(values)


@dataclass(frozen=True)
class Several:
    """Several projections of the same values side by side: `out` has one's rows after the other's."""

    parts: tuple[Projection, ...]

    @property
    def dim(self) -> int:
        """Of all together."""
        return sum(part.dim for part in self.parts)

    def block(self, n_rows: int) -> int:
        """The parts are of one kind and dim, so they agree."""
        return self.parts[0].block(n_rows)

    def add_(
        self, out: Float32[Tensor, "rows dim"], name: str, offset: int, values: Float32[Tensor, "rows param"]
    ) -> None:
        """See `Projection.add_`."""
        start = 0
        for part in self.parts:
            mine = out[:, start : start + part.dim]
            part.add_(mine, name, offset, values.clone())  # each may overwrite its own
            start += part.dim


def projection(kind: Kind, dim: int, seed: int, sizes: dict[str, int], device: torch.device) -> Projection:
    """The projection of parameters {name: number of coordinates} to dim, on a device.

    `none` ignores dim: its rows are as long as all the parameters together.
    """
    if kind == "none":
        names = sorted(sizes)
        ends = np.cumsum([sizes[name] for name in names]).tolist()
        return Identity(ends[-1], dict(zip(names, [0, *ends[:-1]], strict=True)))
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}")
    if kind == "rademacher":
        return Rademacher(dim, device, seed)
    sign = {name: torch.from_numpy(signs(seed, name, 0, size)).to(device) for name, size in sizes.items()}
    turns = {name: rotations(seed, name, -(-size // dim), dim) for name, size in sizes.items()}
    return Sketch(dim, device, sign, turns)
