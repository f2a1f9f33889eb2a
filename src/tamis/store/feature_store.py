"""Feature rows on disk, keyed by example id: a folder of shards and one recipe.

The set of files is the truth: there is no shared mutable file, so any number of writers may work at once. If two shards
hold an id, the lexically first wins. Each question walks the ids of all shards, so memory grows with the ids asked
for, never with the store.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, Int64, Shaped

from tamis.errors import DamagedError, StoreError
from tamis.ids import DTYPE, Ids, Packed, Places, first_places, pack
from tamis.remote import Place
from tamis.store import files
from tamis.store import recipe as recipes
from tamis.store.quantize import EncodedRows, StoreDtype, quantize
from tamis.store.shards import (
    ShardIds,
    each,
    encode_shard,
    map_features,
    pack_ids,
    read_column,
    read_ids,
    read_shard,
    shard_name,
    unpack_ids,
)

_UNIT_TOLERANCE = 0.01  # float16 rounding moves the norm of a unit row by less than 0.001


class _Found(NamedTuple):
    """What a shard holds of the ids asked for: `positions` there, `entries` here (rows, then skipped)."""

    path: Place
    ids: ShardIds
    positions: Int64[np.ndarray, " found"]
    entries: Int64[np.ndarray, " found"]

    @property
    def is_row(self) -> np.ndarray:
        """Which of these are rows; the others are skipped."""
        return self.entries < len(self.ids.rows)


@dataclass(frozen=True, slots=True)
class FeatureStore:
    """A folder of shards whose rows were all made by one recipe.

    The recipe is any JSON object that says what the rows are; it must hold their length under "dim", and under
    "store_dtype" how they are encoded, unless that is float16.
    Make one with `FeatureStore.open` (to write) or `FeatureStore.load` (to read what is there).

    Every reader raises DamagedError for a shard that is cut short or whose ids, norms or token counts fail their
    checksum, or whose features fail their CRC-32. Their cryptographic digest is for `verify` alone.

    The folder may be on an object store: then shards are fetched without their features where those are not asked for,
    and else as copies (`tamis.remote.cache`).
    """

    folder: Place
    recipe: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Place, recipe: Mapping[str, Any]) -> "FeatureStore":
        """Create the store, or check that the one there has this recipe; StoreError names every key that differs."""
        recipes.create_or_check(folder, recipe)
        files.remove_dead_temporaries(folder)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Place) -> "FeatureStore":
        """The store that is in this folder; StoreError if there is none."""
        return cls(folder, recipes.read(folder))

    def check(self) -> None:
        """StoreError unless this store is there as it was opened: another host may not see the folder."""
        recipes.check(self.folder, self.recipe)

    @property
    def dim(self) -> int:
        """Length of a row."""
        return int(self.recipe["dim"])

    @property
    def store_dtype(self) -> StoreDtype:
        """How the rows are encoded."""
        return recipes.store_dtype(self.recipe)

    def held(self) -> set[str]:
        """The ids that some shard holds, as a row or as skipped. To ask about given ids, `todo` takes less memory."""
        return {id_ for _, shard in self._shards() for id_ in unpack_ids(shard.assigned)}

    def skipped(self) -> dict[str, str]:
        """Of every example that was skipped: the reason."""
        reasons: dict[str, str] = {}
        for _, shard in self._shards():
            reasons |= {id_: reason for _, id_, reason in shard.skipped if id_ not in reasons}
        candidates = list(reasons)
        for found in self._walk(pack(candidates)):  # an id that a lexically earlier shard holds as a row is not skipped
            for position in found.positions[found.is_row]:
                del reasons[candidates[position]]
        return reasons

    def missing(self, ids: Ids) -> Int64[np.ndarray, " todo"]:
        """The positions in `ids` of those that no shard holds, ascending, each id once."""
        packed = pack(ids)
        is_missing = np.zeros(len(packed), bool)
        is_missing[first_places(packed)] = True
        for found in self._walk(packed):
            is_missing[found.positions] = False
        return np.flatnonzero(is_missing)

    def todo(self, ids: Sequence[str]) -> list[str]:
        """The ids that no shard holds, in the order given, each once."""
        return [ids[position] for position in self.missing(ids).tolist()]

    def plan(self, ids: Sequence[str], rows_per_shard: int) -> list[tuple[str, ...]]:
        """The work that is left: `todo` cut into shards."""
        todo = self.todo(ids)
        return [tuple(todo[start : start + rows_per_shard]) for start in range(0, len(todo), rows_per_shard)]

    def has(self, ids_assigned: Sequence[str]) -> bool:
        """Whether the shard to which these ids are assigned is there by now: another writer may have made it."""
        return self._path(ids_assigned).exists()

    def write(
        self,
        ids_assigned: Sequence[str],
        features: Float[np.ndarray, "row dim"],
        norm: Float[np.ndarray, " row"],
        n_tokens: Int[np.ndarray, " row"],
        ids_of_rows: Sequence[str],
        skipped: Mapping[str, str],
    ) -> Place:
        """Write one shard: the unit rows of `ids_of_rows`, and the reason for every other id of `ids_assigned`.

        The order of the rows does not matter; the shard holds them in the order assigned. `norm` is the L2 norm of each
        row before it was scaled to unit, `n_tokens` its supervised tokens. Rows are rounded to float16, and from there
        to the store's dtype.

        ValueError if rows and skipped together are not the ids assigned, or a row is not finite and of norm 1.
        """
        place = {id_: index for index, id_ in enumerate(ids_assigned)}
        if sorted([*ids_of_rows, *skipped]) != sorted(place) or len(place) != len(ids_assigned):
            raise ValueError(
                f"expected each of {len(ids_assigned)} different assigned ids once as row or as skipped, "
                f"got {len(ids_of_rows)} rows and {len(skipped)} skipped of {len(place)} different ids"
            )
        _check_rows(features, norm, ids_of_rows, self.dim)
        order = sorted(range(len(ids_of_rows)), key=lambda row: place[ids_of_rows[row]])
        ids = ShardIds(
            pack_ids([ids_of_rows[row] for row in order]),
            tuple((place[id_], id_, skipped[id_]) for id_ in sorted(skipped, key=place.__getitem__)),
        )
        encoded = quantize(features[order].astype(np.float16, copy=False), self.store_dtype)
        columns = norm[order].astype(np.float32), n_tokens[order].astype(np.int32)
        data = encode_shard(recipes.digest(self.recipe), ids, *encoded, *columns)
        path = self._path(ids_assigned)
        files.put(path, data)
        return path

    def shards(self, ids: Ids, normalized: bool = True) -> Iterator[tuple[Int64[np.ndarray, " found"], EncodedRows]]:
        """Walk the wanted rows shard by shard, as (positions in `ids`, features): what `similarity` streams.

        Ids that are skipped or in no shard do not come up. An id asked for twice comes up twice. The features may be a
        read-only memory map of the shard. Unless normalized, each is to be scaled by the norm it had.
        """
        walked = (found for found in self._walk(pack(ids)) if found.is_row.any())
        features = each(lambda found: (found, self._features(found, normalized)), walked, self.folder)
        yield from ((found.positions[found.is_row], rows) for found, rows in features)

    def places(self, ids: Ids) -> Iterator[tuple[Place, int, np.ndarray, np.ndarray]]:
        """For each shard that holds some: its path, how many rows it has, positions in `ids`, and the rows of these."""
        for found in self._walk(pack(ids)):
            if found.is_row.any():
                yield found.path, len(found.ids.rows), found.positions[found.is_row], found.entries[found.is_row]

    def part(self, path: Place, n_rows: int, rows: range | np.ndarray, normalized: bool = True) -> EncodedRows:
        """Some rows of a shard of n_rows, as `places` told."""
        features = map_features(path, n_rows, self.dim, self.store_dtype)
        if not np.array_equal(rows, range(n_rows)):
            features = features.take(np.asarray(rows))
        return features if normalized else features.scaled(read_column(path, "norm", n_rows)[rows])

    def parts(
        self, shards: Iterable[tuple[Place, int, range | np.ndarray]], normalized: bool = True
    ) -> Iterator[EncodedRows]:
        """`part` of several shards, in order; of a remote store the next few are fetched meanwhile."""
        return each(lambda shard: self.part(*shard, normalized), shards, self.folder)

    def rows(self, ids: Ids, normalized: bool = True) -> Float32[np.ndarray, "row dim"]:
        """The features of these ids, in this order, as unit rows or as long as they were; StoreError if some have none.

        Rows of a quantised store are about as long.
        """
        rows = np.empty((len(ids), self.dim), np.float32)
        self._gather(ids, lambda found: self._features(found, normalized).to_float32(), rows)
        return rows

    def norms(self, ids: Ids) -> Float32[np.ndarray, " row"]:
        """The L2 norm that each row had before it was scaled to unit, in the order of `ids`."""
        norms = np.empty(len(ids), np.float32)
        self._gather(ids, lambda found: _column(found, "norm"), norms)
        return norms

    def n_tokens(self, ids: Ids) -> Int32[np.ndarray, " row"]:
        """Supervised tokens of each row, in the order of `ids`."""
        n_tokens = np.empty(len(ids), np.int32)
        self._gather(ids, lambda found: _column(found, "n_tokens"), n_tokens)
        return n_tokens

    def verify(self) -> list[tuple[Place, str]]:
        """Read every shard whole; the damaged ones and what is wrong. Once set aside, the next run recomputes them."""

        def problem(path: Place) -> str | None:
            try:
                read_shard(path, recipes.digest(self.recipe), self.dim, self.store_dtype)
            except DamagedError as error:
                return str(error.__cause__)
            return None

        shards = files.list_shards(self.folder)
        problems = zip(shards, each(problem, shards, self.folder), strict=True)
        return [(path, said) for path, said in problems if said is not None]

    def set_aside(self, path: Place) -> Place:
        """Rename a damaged shard to `*.damaged`: its ids are to do again. Returns the new name."""
        return files.set_aside(path)

    def _path(self, ids_assigned: Sequence[str]) -> Place:
        return self.folder / shard_name(pack_ids(ids_assigned))

    def _shards(self) -> Iterator[tuple[Place, ShardIds]]:
        """Every shard with its ids, in lexical order."""
        shards = files.list_shards(self.folder)
        return zip(shards, each(self._ids, shards, self.folder), strict=True)

    def _ids(self, path: Place) -> ShardIds:
        return read_ids(path, recipes.digest(self.recipe))

    def _walk(self, ids: Packed) -> Iterator[_Found]:
        """For each shard in lexical order, which of the ids it holds that no earlier shard held."""
        if not len(ids):
            return
        wanted = Places(ids)
        taken = np.zeros(len(ids), bool)
        for path, shard in self._shards():
            rows = np.ascontiguousarray(shard.rows).view(DTYPE).reshape(-1)
            slots = wanted.slots(np.concatenate([rows, pack([id_ for _, id_, _ in shard.skipped])]))
            fresh = np.flatnonzero((slots >= 0) & ~taken[slots])
            taken[slots[fresh]] = True
            positions, which = wanted.copies(slots[fresh])
            yield _Found(path, shard, positions, fresh[which])

    def _features(self, found: _Found, normalized: bool) -> EncodedRows:
        """The found rows of a shard."""
        return self.part(found.path, len(found.ids.rows), found.entries[found.is_row], normalized)

    def _gather(self, ids: Ids, read: Callable[[_Found], np.ndarray], out: Shaped[np.ndarray, "row ..."]) -> None:
        n_missing, n_skipped = len(ids), 0
        for found in self._walk(pack(ids)):
            n_missing -= len(found.positions)
            n_skipped += int((~found.is_row).sum())
            if found.is_row.any():
                out[found.positions[found.is_row]] = read(found)
        if n_missing or n_skipped:
            raise StoreError(
                f"{self.folder}: of {len(ids)} examples asked for {n_missing} are missing and {n_skipped} are skipped. "
                "Run `tamis represent` for the missing ones, and leave out the skipped."
            )


def _column(found: _Found, name: str) -> np.ndarray:
    """The found rows of one column of a shard."""
    column: np.ndarray = read_column(found.path, name, len(found.ids.rows))[found.entries[found.is_row]]
    return column


def _check_rows(features: np.ndarray, norm: np.ndarray, ids_of_rows: Sequence[str], dim: int) -> None:
    if features.shape != (len(ids_of_rows), dim):
        raise ValueError(f"expected features of shape {(len(ids_of_rows), dim)}, got {features.shape}")
    length = np.sqrt(np.einsum("rd,rd->r", features, features, dtype=np.float32))
    is_good = (np.abs(length - 1) < _UNIT_TOLERANCE) & np.isfinite(norm)  # false for NaN
    if not is_good.all():
        row = int(np.argmin(is_good))
        raise ValueError(
            f"expected unit rows with a finite norm, got one of length {length[row]} and norm {norm[row]} "
            f"for example {ids_of_rows[row]}; such an example is to be skipped"
        )
