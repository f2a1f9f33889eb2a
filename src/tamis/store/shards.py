"""One shard file: some feature rows, the ids they belong to, and the ids that were skipped.

A shard is a safetensors file with

    features  [row, dim]  float16   unit rows
    norm      [row]       float32   the L2 norm before scaling to unit
    n_tokens  [row]       int32     supervised tokens
    ids       [row, 16]   uint8

Rows stand in the order in which the ids were assigned. All metadata is one JSON string under one key, because several
keys would be written in an order that varies between processes: the same content always gives the same bytes.

Reading checks all but the features, which only `check_shard` reads twice: hashing them costs as much as using them.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Float32, Int32, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tamis.errors import DamagedError
from tamis.store.files import SHARD_SUFFIX

_FORMAT = 1
_DTYPES = {"features": np.float16, "ids": np.uint8, "n_tokens": np.int32, "norm": np.float32}
_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class ShardIds:
    """The ids a shard holds: those of its rows, and those skipped as (place in the assigned order, id, reason)."""

    rows: UInt8[np.ndarray, "row 16"]
    skipped: tuple[tuple[int, str, str], ...]

    @property
    def assigned(self) -> UInt8[np.ndarray, "row_or_skipped 16"]:
        """The ids in the order in which they were assigned to this shard."""
        places = [place for place, _, _ in self.skipped]
        ids = np.empty((len(self.rows) + len(places), _ID_BYTES), np.uint8)
        ids[places] = pack_ids([skipped_id for _, skipped_id, _ in self.skipped])
        ids[np.delete(np.arange(len(ids)), places)] = self.rows
        return ids


def pack_ids(ids: Sequence[str]) -> UInt8[np.ndarray, "row 16"]:
    """Ids of 32 hexadecimal digits as bytes; ValueError for any other string."""
    if any(len(id_) != 2 * _ID_BYTES for id_ in ids):
        wrong = next(id_ for id_ in ids if len(id_) != 2 * _ID_BYTES)
        raise ValueError(f"expected example ids of {2 * _ID_BYTES} hexadecimal digits, got {wrong!r}")
    packed = np.frombuffer(bytes.fromhex("".join(ids)), np.uint8)
    if len(packed) != len(ids) * _ID_BYTES:  # bytes.fromhex skips spaces
        raise ValueError("expected example ids of hexadecimal digits only, got one with a space")
    return packed.reshape(len(ids), _ID_BYTES)


def unpack_ids(packed: UInt8[np.ndarray, "row 16"]) -> list[str]:
    """The inverse of `pack_ids`."""
    digits = packed.tobytes().hex()
    return [digits[start : start + 2 * _ID_BYTES] for start in range(0, len(digits), 2 * _ID_BYTES)]


def shard_name(assigned: UInt8[np.ndarray, "row_or_skipped 16"]) -> str:
    """The file name of the shard to which these ids were assigned, in this order."""
    return hashlib.blake2b(assigned.tobytes(), digest_size=16).hexdigest() + SHARD_SUFFIX


def encode_shard(
    ids: ShardIds,
    features: Float16[np.ndarray, "row dim"],
    norm: Float32[np.ndarray, " row"],
    n_tokens: Int32[np.ndarray, " row"],
) -> bytes:
    """The bytes of a shard file: a pure function of its content."""
    tensors = {"features": features, "ids": ids.rows, "n_tokens": n_tokens, "norm": norm}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    checksums = {name: _digest(tensor.tobytes()) for name, tensor in tensors.items()}
    skipped = [list(entry) for entry in ids.skipped]
    checksums["skipped"] = _digest(json.dumps(skipped).encode())
    metadata = {"checksums": checksums, "format": _FORMAT, "skipped": skipped}
    return bytes(save(tensors, metadata={"tamis": json.dumps(metadata, sort_keys=True)}))


def read_ids(path: Path) -> ShardIds:
    """The ids of a shard, checked against the file's name; its features are not read."""
    with _opened(path) as file:
        return _read_ids(path, file)


def read_tensor(path: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor of a shard, as stored. The small ones are checked against their checksum, features are not."""
    with _opened(path) as file:
        return _tensor(file, name, shape, check=name != "features")


def check_shard(path: Path, dim: int) -> None:
    """Read the whole shard; DamagedError names the first thing that is wrong with it."""
    with _opened(path) as file:
        n_rows = len(_read_ids(path, file).rows)
        for name in ("features", "norm", "n_tokens"):
            tensor = _tensor(file, name, (n_rows, dim) if name == "features" else (n_rows,), check=True)
            if not np.isfinite(tensor).all():
                raise ValueError(f"{name} holds a number that is not finite")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Whatever is wrong with the content becomes a DamagedError; errors of the file system stay what they are."""
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise DamagedError(
            f"{path}: damaged shard ({error}). Run `tamis verify {path.parent}`: it sets the file aside, "
            "and the next run computes its rows again."
        ) from error


def _metadata(file: Any) -> Mapping[str, Any]:
    metadata: Mapping[str, Any] = json.loads(file.metadata()["tamis"])
    if metadata["format"] != _FORMAT:
        raise ValueError(f"expected shard format {_FORMAT}, found {metadata['format']!r}")
    return metadata


def _read_ids(path: Path, file: Any) -> ShardIds:
    metadata = _metadata(file)
    if _digest(json.dumps(metadata["skipped"]).encode()) != metadata["checksums"]["skipped"]:
        raise ValueError("checksum of the skipped examples differs")
    n_rows, _ = file.get_slice("ids").get_shape()
    rows = _tensor(file, "ids", (n_rows, _ID_BYTES), check=True)
    ids = ShardIds(rows, tuple((place, id_, why) for place, id_, why in metadata["skipped"]))
    if path.name != shard_name(ids.assigned):
        raise ValueError(f"its ids belong to a shard named {shard_name(ids.assigned)}")
    return ids


def _tensor(file: Any, name: str, shape: tuple[int, ...], check: bool) -> np.ndarray:
    tensor: np.ndarray = file.get_tensor(name)
    if tensor.shape != shape or tensor.dtype != _DTYPES[name]:
        expected = f"{shape} {np.dtype(_DTYPES[name])}"
        raise ValueError(f"{name}: expected {expected}, found {tensor.shape} {tensor.dtype}")
    if check and _digest(tensor.tobytes()) != _metadata(file)["checksums"][name]:
        raise ValueError(f"checksum of {name} differs")
    return tensor


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
