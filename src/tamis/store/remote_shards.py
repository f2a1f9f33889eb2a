"""A shard on an object store, of which all but the features is fetched: two small requests, once on each machine."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from tamis.remote import RemotePath
from tamis.remote.cache import kept

_FIRST_BYTES = 1 << 16  # the header, and the tensors before the features, of a shard of some hundred rows
_DTYPES: dict[str, type[np.generic]] = {
    "F16": np.float16,
    "F32": np.float32,
    "I32": np.int32,
    "I8": np.int8,
    "U8": np.uint8,
}


class RemoteShard:
    """What `safetensors.safe_open` gives for a local one; ValueError for a file that is cut short or no shard.

    Features can be asked for their shape alone.
    """

    def __init__(self, path: RemotePath) -> None:
        path = RemotePath(path.url, path.info())  # one version, whatever becomes of the file
        held = kept(path, "all-but-features", lambda: _all_but_features(path))
        self._header, start = _header(held)
        self._before, self._tensors = start, held
        self._cut = _span(self._header["features"], start)

    def metadata(self) -> Mapping[str, str]:
        """The text fields of the file."""
        found: Mapping[str, str] = self._header["__metadata__"]
        return found

    def get_slice(self, name: str) -> "_Slice":
        """Shape and type of a tensor."""
        return _Slice(self._header[name])

    def get_tensor(self, name: str) -> np.ndarray:
        """A tensor other than the features."""
        about = self._header[name]
        start, stop = _span(about, self._before)
        if start >= self._cut[1]:
            start, stop = (place - (self._cut[1] - self._cut[0]) for place in (start, stop))
        data = np.frombuffer(self._tensors[start:stop], _DTYPES[about["dtype"]])
        return data.reshape(about["shape"]).copy()


class _Slice:
    def __init__(self, about: Mapping[str, Any]) -> None:
        self._about = about

    def get_shape(self) -> list[int]:
        return list(self._about["shape"])

    def get_dtype(self) -> str:
        return str(self._about["dtype"])


def _all_but_features(path: RemotePath) -> bytes:
    """The file with its features cut out."""
    size = path.stat().st_size
    first = path.read_bytes(0, min(_FIRST_BYTES, size)) if size else b""
    if len(first) >= 8 and (wanted := 8 + int.from_bytes(first[:8], "little")) > len(first):
        first = path.read_bytes(0, wanted) if wanted <= size else first
    header, begin = _header(first)
    ends = [about["data_offsets"][1] for name, about in header.items() if name != "__metadata__"]
    if begin + max(ends) != size:
        raise ValueError(f"expected {begin + max(ends):,} bytes by its header, found {size:,}")
    start, stop = _span(header["features"], begin)
    before = first[:start] if start <= len(first) else path.read_bytes(0, start)
    return before + (path.read_bytes(stop, size) if stop < size else b"")


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where the tensors begin."""
    begin = 8 + int.from_bytes(data[:8], "little")
    if not 8 < begin <= len(data):
        raise ValueError("cut short within its header")
    header = json.loads(data[8:begin])
    if not isinstance(header, dict) or not isinstance(header.get("features"), dict):
        raise ValueError("no header of a shard")
    return header, begin


def _span(about: Mapping[str, Any], begin: int) -> tuple[int, int]:
    start, stop = about["data_offsets"]
    if not (isinstance(start, int) and isinstance(stop, int) and 0 <= start <= stop):
        raise ValueError(f"expected a tensor's first and last byte, found {start!r} and {stop!r}")
    return begin + start, begin + stop
