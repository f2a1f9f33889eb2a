"""Target × pool similarity: streamed over shards, summed over checkpoints, kept as one .npy with the ids beside it.

    <name>.npy        float32 [target, pool]; or any .npy of floats of one's own, without ids
    <name>.npy.ids    a line of JSON: the target ids, and 128 bits of ids and matrix, so that damage is noticed;
                      then the pool's ids, 16 bytes each

On an object store the matrix is written as a local file, and uploaded after its ids; read is a local copy.
"""

import hashlib
import json
import os
import tempfile
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from jaxtyping import Float, Float32, Int64

from tamis import ids
from tamis.errors import DamagedError, InputError, StoreError
from tamis.ids import DTYPE, Ids, Packed, pack
from tamis.remote import Place, local
from tamis.store.files import SIMILARITY_IDS_SUFFIX, publish, temporary_for
from tamis.store.quantize import EncodedRows

# What NumPy raises for a header that it cannot read: it is Python source, tokenised and then parsed
_NOT_NUMPY = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError, tokenize.TokenError)


_BLOCK_BYTES = 1 << 22  # of pool rows as float32


def similarity(
    targets: Sequence[Float32[np.ndarray, "target dim"]],
    pools: Sequence[Iterable[tuple[np.ndarray, np.ndarray | EncodedRows]]],
    lr_weights: Sequence[float],
    n_pool: int,
    out: np.ndarray | None = None,
    block_bytes: int = _BLOCK_BYTES,
) -> Float32[np.ndarray, "target pool"]:
    """Weighted sum over checkpoints of the inner products of target and pool features (cosines, where rows are unit).

    S = Σᵢ lr_weightᵢ · targetᵢ @ poolᵢᵀ, float32 `[target, pool]`. Source: LESS, arXiv 2402.04333.

    Each checkpoint's pool is walked once, as (positions in the pool, features `[found, dim]`), in any order: what
    `FeatureStore.shards` gives. Features, of any float type or as a shard encodes them, are turned into float32 in
    blocks of at most `block_bytes`; what scales a row is applied to its column of the product. The sum is formed in
    `out`, which may be memory-mapped and whose content does not matter.

    Another sharding gives the same numbers up to float32 rounding, because the order of summation inside a matrix
    product depends on its shape.

    StoreError unless every checkpoint gives each pool position exactly once.
    """
    if not targets or not len(targets) == len(pools) == len(lr_weights):
        raise ValueError(
            "expected targets, pools and lr_weights of one or more checkpoints, "
            f"got {len(targets)}, {len(pools)} and {len(lr_weights)}"
        )
    shape = (len(targets[0]), n_pool)
    if out is None:
        out = np.empty(shape, np.float32)
    if out.shape != shape or out.dtype != np.float32:
        raise ValueError(f"expected out of shape {shape} float32, got {out.shape} {out.dtype}")
    for checkpoint, (target, pool, lr_weight) in enumerate(zip(targets, pools, lr_weights, strict=True)):
        weighted = target * np.float32(lr_weight)
        blocks = (
            (positions[part], block)
            for positions, features in pool
            for part, block in products(weighted, features, block_bytes)
        )
        add_blocks(out, blocks, checkpoint)
    return out


def products(
    weighted: Float32[np.ndarray, "target dim"], features: np.ndarray | EncodedRows, block_bytes: int = _BLOCK_BYTES
) -> Iterator[tuple[slice, Float32[np.ndarray, "target part"]]]:
    """Inner products of target rows with the features of one shard, in blocks: (which of its rows, products)."""
    rows = features if isinstance(features, EncodedRows) else EncodedRows(features, features.shape[1])
    n_rows = max(1, min(len(rows), block_bytes // (4 * max(1, rows.room_dim))))
    buffer = np.empty((n_rows, rows.room_dim), np.float32)
    for start in range(0, len(rows), n_rows):
        part = slice(start, start + n_rows)
        block = weighted @ rows.values(part, buffer).T
        if rows.scale is not None:
            block *= rows.scale[part]
        yield part, block


def add_blocks(
    out: np.ndarray, blocks: Iterable[tuple[Int64[np.ndarray, " part"], np.ndarray]], checkpoint: int
) -> None:
    """Put one checkpoint's blocks of products, each with its pool positions, into `out`: the first ones take the place
    of what is there, later ones are added. StoreError unless they give each pool position exactly once.
    """
    n_times = np.zeros(out.shape[1], np.int32)
    for positions, block in blocks:
        _count(n_times, positions, checkpoint)
        columns = _columns(positions)
        if checkpoint == 0:
            out[:, columns] = block
        else:
            out[:, columns] += block
    _check_cover(n_times, checkpoint)


@contextmanager
def writing_similarity(path: Place, target_ids: Sequence[str], pool_ids: Ids) -> Iterator[np.ndarray]:
    """A writable float32 memory map `[target, pool]`; `path` (.npy) appears with its ids when the block ends well.

    The ids are in place before the matrix gets its name, and an old matrix is removed before: a matrix with the ids of
    another cannot be left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ids_path = path.with_name(path.name + SIMILARITY_IDS_SUFFIX)
    with ExitStack() as stack:
        temporary, temporary_ids = (stack.enter_context(temporary_for(target)) for target in (path, ids_path))
        matrix = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.float32, shape=(len(target_ids), len(pool_ids))
        )
        if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash at some later page
            with temporary.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        yield matrix
        matrix.flush()
        head = {"digest": _digest(matrix, target_ids, pool_ids), "target": list(target_ids)}
        with temporary_ids.open("wb") as file:
            file.write(json.dumps(head).encode() + b"\n")
            pack(pool_ids).tofile(file)
        path.unlink(missing_ok=True)
        publish(temporary_ids, ids_path)
        publish(temporary, path)


def save_similarity(
    path: Place, matrix: Float[np.ndarray, "target pool"], target_ids: Sequence[str], pool_ids: Ids
) -> None:
    """Save a matrix that is in memory; `load_similarity` reads it back."""
    if matrix.shape != (len(target_ids), len(pool_ids)):
        raise ValueError(f"expected a matrix of shape {(len(target_ids), len(pool_ids))}, got {matrix.shape}")
    with writing_similarity(path, target_ids, pool_ids) as out:
        out[:] = matrix


def load_similarity(path: Place) -> tuple[Float[np.ndarray, "target pool"], list[str] | None, Packed | None]:
    """A memory-mapped matrix, its target ids and its pool ids (packed, and mapped too); no ids for one of one's own.

    InputError unless a matrix of one's own is a .npy of two axes and finite floats; DamagedError unless one with ids is
    as it was written. Nothing pickled is loaded.
    """
    ids_path = path.with_name(path.name + SIMILARITY_IDS_SUFFIX)
    if ids_path.exists():
        return _load_with_ids(path, ids_path)
    matrix = _open_matrix(path)
    for row, values in enumerate(matrix):
        if not np.isfinite(values).all():
            column = int(np.argmin(np.isfinite(values)))
            raise InputError(
                f"{path}: expected finite similarities, found {values[column]} at target {row}, pool {column} "
                "(both counted from 0). Mend that cell, or leave that row out."
            )
    return matrix, None, None


def _load_with_ids(path: Place, ids_path: Place) -> tuple[np.ndarray, list[str], Packed]:
    remedy = f"Delete it and {ids_path.name}, and the next run makes both again."
    try:
        here, ids_here = local(path), local(ids_path)
        matrix = np.lib.format.open_memmap(here, mode="r")
        with ids_here.open("rb") as file:
            head = json.loads(file.readline())
            pool_ids = np.asarray(np.memmap(ids_here, DTYPE, "r", file.tell()))
        expected, target_ids = head["digest"], head["target"]
        found, shape = _digest(matrix, target_ids, pool_ids), (len(target_ids), len(pool_ids))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such similarity file. Give the path of a .npy.") from error
    except (*_NOT_NUMPY, LookupError, AttributeError) as error:
        raise DamagedError(f"{path}: it or its ids cannot be read ({error}). {remedy}") from error
    n_bytes = here.stat().st_size - matrix.offset
    if matrix.shape != shape or found != expected or n_bytes != matrix.nbytes:
        raise DamagedError(
            f"{path}: expected shape {shape} and digest {expected} by {ids_path.name}, found {matrix.shape} and "
            f"{found} in {n_bytes} bytes. {remedy}"
        )
    return matrix, target_ids, pool_ids


def _digest(matrix: np.ndarray, target_ids: Sequence[str], pool_ids: Ids) -> str:
    """Row by row, because the matrix may be larger than memory."""
    about = [matrix.dtype.str, matrix.shape, list(target_ids), ids.digest(pool_ids)]
    digest = hashlib.blake2b(json.dumps(about).encode(), digest_size=16)
    for row in matrix:
        digest.update(np.ascontiguousarray(row).data)
    return digest.hexdigest()


def _open_matrix(path: Place) -> np.ndarray:
    try:
        matrix = np.lib.format.open_memmap(local(path), mode="r")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{path}: no such similarity file. Give the path of a .npy.") from error
    except _NOT_NUMPY as error:
        raise InputError(f"{path}: expected a .npy file of floats ({error}). Write it with numpy.save.") from error
    if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.floating) or matrix.size == 0:
        raise InputError(
            f"{path}: expected floats of shape [target, pool], at least one of each; "
            f"found shape {matrix.shape} {matrix.dtype}. Save one row per target and one column per pool row."
        )
    return matrix


def take_columns(
    matrix: Float[np.ndarray, "target pool"], columns: Int64[np.ndarray, " picked"], memory_bytes: int
) -> Float[np.ndarray, "target picked"]:
    """Some columns of a matrix; what is larger than `memory_bytes` is kept in a nameless temporary file."""
    shape = (len(matrix), len(columns))
    taken: np.ndarray
    if matrix.itemsize * len(matrix) * len(columns) <= memory_bytes:
        taken = np.empty(shape, matrix.dtype)
    else:
        with tempfile.TemporaryFile() as file:
            taken = np.memmap(file, matrix.dtype, "w+", shape=shape)
    for row, values in enumerate(matrix):
        taken[row] = values[columns]
    return taken


def _columns(positions: np.ndarray) -> np.ndarray | slice:
    """A slice where the positions are consecutive, which is the common case and several times faster to write to."""
    first, n_rows = int(positions[0]), len(positions)
    return slice(first, first + n_rows) if np.array_equal(positions, np.arange(first, first + n_rows)) else positions


def _count(n_times: np.ndarray, positions: np.ndarray, checkpoint: int) -> None:
    if len(positions) and not 0 <= positions.min() <= positions.max() < len(n_times):
        raise StoreError(
            f"checkpoint {checkpoint}: expected pool positions below {len(n_times)}, "
            f"found {positions.min()} to {positions.max()}. Run `tamis represent` for this pool."
        )
    np.add.at(n_times, positions, 1)


def _check_cover(n_times: np.ndarray, checkpoint: int) -> None:
    if (n_times != 1).any():
        position = int(np.argmax(n_times != 1))
        raise StoreError(
            f"checkpoint {checkpoint}: expected every pool position once, found {(n_times == 0).sum()} without "
            f"features and {(n_times > 1).sum()} with several; the first is position {position}, "
            f"{n_times[position]} times. Run `tamis represent` for this pool, and leave out skipped examples."
        )
