"""Example ids as arrays: 16 bytes each, where people and files of text have 32 hexadecimal digits.

A packed id is a NumPy string of 16 bytes (`S16`): these compare, sort and print in one order with the digits. Only
whole arrays are to be compared: NumPy cuts the zero bytes off the end of a single one.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, Shaped, UInt64

ID_BYTES = 16
DTYPE = f"S{ID_BYTES}"
_BLOCK_ROWS = 1 << 20

Packed = Shaped[np.ndarray, " row"]
Ids = Sequence[str] | Packed  # as digits, or packed


def pack(ids: Ids) -> Packed:
    """Ids as packed ones. ValueError for a string that is not of 32 hexadecimal digits."""
    if isinstance(ids, np.ndarray):
        if ids.dtype != DTYPE:
            raise ValueError(f"expected packed ids of type {DTYPE}, got an array of {ids.dtype}")
        return ids
    if wrong := [id_ for id_ in ids if len(id_) != 2 * ID_BYTES][:1]:
        raise ValueError(f"expected example ids of {2 * ID_BYTES} hexadecimal digits, got {wrong[0]!r}")
    data = bytes.fromhex("".join(ids))
    if len(data) != len(ids) * ID_BYTES:  # bytes.fromhex skips spaces
        raise ValueError("expected example ids of hexadecimal digits only, got one with a space")
    return np.frombuffer(data, DTYPE)


def unpack(ids: Packed) -> list[str]:
    """Packed ids as digits."""
    digits = ids.tobytes().hex()
    return [digits[start : start + 2 * ID_BYTES] for start in range(0, len(digits), 2 * ID_BYTES)]


def digest(ids: Ids) -> str:
    """128-bit digest (hex) of some ids in their order."""
    packed, found = pack(ids), hashlib.blake2b(digest_size=16)
    for start in range(0, len(packed), _BLOCK_ROWS):
        found.update(np.ascontiguousarray(packed[start : start + _BLOCK_ROWS]).view(np.uint8).data)
    return found.hexdigest()


def first_places(ids: Packed) -> Int64[np.ndarray, " unique"]:
    """Positions of the ids that equal no earlier one, ascending."""
    return Places(ids).first()


class Places:
    """Where ids are among some given ones: 16 bytes of memory for each of these.

    They are sorted by their first 64 bits, which tell them apart but for copies; were there others that are alike in
    these, all 128 are taken. A slot is a place in the sorted order; copies of one id follow one another in the order
    given, and `slots` gives the first.
    """

    def __init__(self, ids: Packed) -> None:
        self._ids = ids
        self._keys = _heads(ids)
        self._order = np.argsort(self._keys, kind="stable")
        self._keys = self._keys[self._order]
        self._is_copy = np.zeros(len(ids), bool)
        self._is_copy[1:] = self._keys[1:] == self._keys[:-1]
        alike = np.flatnonzero(self._is_copy)
        self._is_whole = bool((ids[self._order[alike]] != ids[self._order[alike - 1]]).any())
        if self._is_whole:
            self._order = np.argsort(ids, kind="stable")
            self._keys = ids[self._order]
            self._is_copy[1:] = self._keys[1:] == self._keys[:-1]
        self._n_copies: Int64[np.ndarray, " row"] | None = None
        if self._is_copy.any():  # for each slot, how many copies there are from it on
            stops = np.append(np.flatnonzero(~self._is_copy), len(ids))
            self._n_copies = np.repeat(stops[1:], np.diff(stops)) - np.arange(len(ids))

    def first(self) -> Int64[np.ndarray, " unique"]:
        """Positions of the ids that equal no earlier one, ascending."""
        return np.sort(self._order[~self._is_copy])

    def slots(self, ids: Packed) -> Int64[np.ndarray, " asked"]:
        """The slot of each of some other ids; −1 for one that is not among the given."""
        if not len(self._ids):
            return np.full(len(ids), -1)
        keys = ids if self._is_whole else _heads(ids)
        order = np.argsort(keys)  # looked up in order they are found several times faster
        slots = np.empty(len(ids), np.int64)
        slots[order] = np.searchsorted(self._keys, keys[order])
        slots[slots == len(self._ids)] = 0
        slots[self._ids[self._order[slots]] != ids] = -1
        return slots

    def positions(self, ids: Packed) -> Int64[np.ndarray, " asked"]:
        """Where each of some other ids is for the first time; −1 for one that is not among the given."""
        slots = self.slots(ids)
        return np.where(slots < 0, -1, self._order[slots]) if len(self._ids) else slots

    def copies(
        self, slots: Int64[np.ndarray, " asked"]
    ) -> tuple[Int64[np.ndarray, " found"], Int64[np.ndarray, " found"]]:
        """The positions of all copies of the ids in some slots, and for each which of the slots it is of."""
        which = np.arange(len(slots))
        if self._n_copies is None:
            return self._order[slots], which
        n = self._n_copies[slots]
        nth = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        return self._order[np.repeat(slots, n) + nth], np.repeat(which, n)


def _heads(ids: Packed) -> UInt64[np.ndarray, " row"]:
    """The first 64 bits, as numbers that sort as the ids do."""
    return np.ascontiguousarray(ids).view(">u8")[::2].astype(np.uint64)
