"""One shard file: some feature rows, the ids they belong to, and the ids that were skipped.

A shard is a safetensors file with

    features  [row, dim]  float16   unit rows; or int8, or bits of signs as uint8: see `quantize`
    scale     [row]       float32   int8 alone has it
    norm      [row]       float32   the L2 norm before scaling to unit
    n_tokens  [row]       int32     supervised tokens
    ids       [row, 16]   uint8

Rows stand in the order in which the ids were assigned. All metadata is one JSON string under one key, because several
keys would be written in an order that varies between processes: the same content always gives the same bytes. It names
the recipe (by its digest), so that a shard that strayed into another store is not taken for one of its own.

Reading checks everything: the features by CRC-32, because a cryptographic digest of them costs as much as using them;
`read_shard` checks that too.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32, Int32, Shaped, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tamis.errors import DamagedError
from tamis.remote import Place, RemotePath, local
from tamis.remote.cache import ahead, fetched
from tamis.store.files import SHARD_SUFFIX
from tamis.store.quantize import EncodedRows, StoreDtype, stored_dim
from tamis.store.remote_shards import RemoteShard

_FORMAT = 3
_WITHOUT_CRC = 2  # written by earlier versions, and read
_DTYPES: dict[str, type[np.generic]] = {"ids": np.uint8, "n_tokens": np.int32, "norm": np.float32, "scale": np.float32}
_FEATURES: dict[StoreDtype, tuple[type[np.generic], str]] = {  # as NumPy and as safetensors call it
    "float16": (np.float16, "F16"),
    "int8": (np.int8, "I8"),
    "sign": (np.uint8, "U8"),
}
_ID_BYTES = 16
_checked: set[tuple[str, int, int, int]] = set()  # files whose features were as they were written

T = TypeVar("T")
R = TypeVar("R")


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
    recipe_digest: str,
    ids: ShardIds,
    features: Shaped[np.ndarray, "row stored"],
    scale: Float32[np.ndarray, " row"] | None,
    norm: Float32[np.ndarray, " row"],
    n_tokens: Int32[np.ndarray, " row"],
) -> bytes:
    """The bytes of a shard file: a pure function of its content."""
    tensors = {"features": features, "ids": ids.rows, "n_tokens": n_tokens, "norm": norm}
    if scale is not None:
        tensors["scale"] = scale
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    checksums = {name: _digest(tensor.tobytes()) for name, tensor in tensors.items()}
    skipped = [list(entry) for entry in ids.skipped]
    checksums["skipped"] = _digest(json.dumps(skipped).encode())
    metadata = {
        "checksums": checksums,
        "features_crc32": _crc(tensors["features"]),
        "format": _FORMAT,
        "recipe": recipe_digest,
        "skipped": skipped,
    }
    return bytes(save(tensors, metadata={"tamis": json.dumps(metadata, sort_keys=True)}))


def read_ids(path: Place, recipe_digest: str) -> ShardIds:
    """The ids of a shard, checked against the file's name and the store's recipe; its features are not read."""
    with _opened(path) as file:
        return _read_ids(path, file, recipe_digest)


def read_column(path: Place, name: str, n_rows: int) -> Shaped[np.ndarray, " row"]:
    """`norm`, `n_tokens` or `scale` of a shard, checked against its checksum."""
    with _opened(path) as file:
        return _tensor(file, name, (n_rows,))


def map_features(path: Place, n_rows: int, dim: int, dtype: StoreDtype) -> EncodedRows:
    """The features of a shard, memory-mapped. They are checked the first time a process asks for them, by CRC-32; those
    of a shard that was written before it had one are not.
    """
    shape = n_rows, stored_dim(dtype, dim)
    numpy_type, name = _FEATURES[dtype]
    here = local(path)
    with _opened(path, here) as file:
        found = file.get_slice("features")
        if (found.get_shape(), found.get_dtype()) != ([*shape], name):
            raise ValueError(f"features: expected {[*shape]} {name}, found {found.get_shape()} {found.get_dtype()}")
        scale = _tensor(file, "scale", (n_rows,)) if dtype == "int8" else None
        # safetensors would copy. The file is an 8-byte length, a JSON header of that length, and the data.
        with here.open("rb") as raw:
            header_bytes = int.from_bytes(raw.read(8), "little")
            start, _ = json.loads(raw.read(header_bytes))["features"]["data_offsets"]
        features = np.memmap(here, numpy_type, "r", 8 + header_bytes + start, shape)
        _check_once(here, features, _metadata(file).get("features_crc32"))
        return EncodedRows(features, dim, scale)


def _check_once(here: Path, features: np.ndarray, expected: str | None) -> None:
    found = here.stat()
    version = str(here), found.st_ino, found.st_size, found.st_mtime_ns
    if version not in _checked:
        _check_crc(features, expected)
        _checked.add(version)


def _check_crc(features: np.ndarray, expected: str | None) -> None:
    if expected is not None and _crc(features) != expected:
        raise ValueError("checksum of features differs")


def _crc(features: np.ndarray) -> str:
    return f"{zlib.crc32(features.reshape(-1).view(np.uint8).data):08x}"


def read_shard(path: Place, recipe_digest: str, dim: int, dtype: StoreDtype) -> tuple[ShardIds, dict[str, np.ndarray]]:
    """The ids and the whole content by the names above; DamagedError names the first thing that is wrong with it.

    Of a remote shard what the server has now is read, not a copy.
    """
    with fetched(path) as folder, _opened(path, folder / path.name) as file:
        ids = _read_ids(path, file, recipe_digest)
        tensors: dict[str, np.ndarray] = {}
        for name in ("features", "norm", "n_tokens", *(["scale"] if dtype == "int8" else [])):
            if name == "features":
                shape: tuple[int, ...] = len(ids.rows), stored_dim(dtype, dim)
                tensors[name] = _tensor(file, name, shape, _FEATURES[dtype][0])
                _check_crc(tensors[name], _metadata(file).get("features_crc32"))
            else:
                tensors[name] = _tensor(file, name, (len(ids.rows),))
            if not np.isfinite(tensors[name]).all():
                raise ValueError(f"{name} holds a number that is not finite")
    return ids, tensors


def each(do: Callable[[T], R], tasks: Iterable[T], folder: Place) -> Iterator[R]:
    """What `do` makes of each task, in order; for a remote folder of shards several are under way at a time."""
    if isinstance(folder, Path):
        return map(do, tasks)
    return ahead(do, tasks)


@contextmanager
def _opened(path: Place, here: Path | None = None) -> Iterator[Any]:
    """A shard, read from a local copy if there is one, else of a remote one all but its features.

    Whatever is wrong with the content becomes a DamagedError; errors of the file system stay what they are.
    """
    try:
        if isinstance(path, RemotePath) and here is None:
            yield RemoteShard(path)
        else:
            with safe_open(here or path, framework="numpy") as file:
                yield file
    except (SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DamagedError(
            f"{path}: damaged shard ({error}). Run `tamis verify {path.parent}`: it sets the file aside, "
            "and the next run computes its rows again."
        ) from error


def _metadata(file: Any) -> Mapping[str, Any]:
    metadata: Mapping[str, Any] = json.loads(file.metadata()["tamis"])
    if metadata["format"] not in (_FORMAT, _WITHOUT_CRC):
        raise ValueError(f"expected shard format {_FORMAT}, found {metadata['format']!r}")
    if ("features_crc32" in metadata) != (metadata["format"] == _FORMAT):
        raise ValueError(f"expected features_crc32 in shard format {_FORMAT} alone, found format {metadata['format']}")
    return metadata


def _read_ids(path: Place, file: Any, recipe_digest: str) -> ShardIds:
    metadata = _metadata(file)
    if metadata["recipe"] != recipe_digest:
        raise ValueError(f"its rows were made by a recipe with digest {metadata['recipe']!r}, not by the store's")
    if _digest(json.dumps(metadata["skipped"]).encode()) != metadata["checksums"]["skipped"]:
        raise ValueError("checksum of the skipped examples differs")
    n_rows, _ = file.get_slice("ids").get_shape()
    rows = _tensor(file, "ids", (n_rows, _ID_BYTES))
    ids = ShardIds(rows, tuple((place, id_, why) for place, id_, why in metadata["skipped"]))
    if path.name != shard_name(ids.assigned):
        raise ValueError(f"its ids belong to a shard named {shard_name(ids.assigned)}")
    return ids


def _tensor(file: Any, name: str, shape: tuple[int, ...], dtype: type[np.generic] | None = None) -> np.ndarray:
    tensor: np.ndarray = file.get_tensor(name)
    dtype = dtype or _DTYPES[name]
    if tensor.shape != shape or tensor.dtype != dtype:
        expected = f"{shape} {np.dtype(dtype)}"
        raise ValueError(f"{name}: expected {expected}, found {tensor.shape} {tensor.dtype}")
    if _digest(tensor.tobytes()) != _metadata(file)["checksums"][name]:
        raise ValueError(f"checksum of {name} differs")
    return tensor


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
