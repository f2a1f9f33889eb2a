"""The similarity a run picks by: kept in the workspace, or a file of one's own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from tamis.data.pool import Pool
from tamis.engine import Engine
from tamis.errors import DamagedError, InputError
from tamis.ids import Ids, Places
from tamis.inputs import Inputs
from tamis.progress import Told
from tamis.remote import Place
from tamis.remote.lease import lock
from tamis.selectors import nearest_target
from tamis.selectors.constraints import Walked
from tamis.similarity import add_blocks, load_similarity, products, take_columns, writing_similarity
from tamis.store import FeatureStore

_MESSAGE_BYTES = 1 << 24  # of products that a worker sends at once


@dataclass(frozen=True)
class Similarity:
    """The matrix with the examples its rows and columns stand for; float32, memory-mapped."""

    values: Float[np.ndarray, "target pool"]
    targets: Pool
    pool: Pool
    path: Place


def kept_similarity(
    path: Place,
    targets: Pool,
    pool: Pool,
    fill: Callable[[np.ndarray], None],
    stage: Callable[[], AbstractContextManager[object]],
    rows: Sequence[str] = (),
) -> Similarity:
    """The similarity at `path`; where there is none yet, `fill` writes it into a memory-mapped array within `stage`.

    `rows` names its rows where they do not stand for targets.

    DamagedError unless what is there is as it was written, and of these rows.
    """
    target_ids, pool_ids = list(rows) or targets.ids, pool.packed_ids
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another run may be writing the same. The lock dies with its process.
        with lock(path.with_suffix(".lock")):
            if not path.exists():
                with stage(), writing_similarity(path, target_ids, pool_ids) as out:
                    fill(out)
                    for row, of_row in enumerate(out):
                        if not np.isfinite(of_row).all():
                            column = int(np.argmin(np.isfinite(of_row)))
                            raise InputError(
                                f"the similarity of row {row} to {pool[column].file} row {pool[column].row} is "
                                f"{of_row[column]}: leave that row out (pick.exclude)"
                            )
    values, its_targets, its_pool = load_similarity(path)
    if its_pool is None or its_targets != target_ids or not np.array_equal(its_pool, pool_ids):
        raise DamagedError(f"{path}: its ids are not those of this run's rows. Delete it, and run again.")
    return Similarity(values, targets, pool, path)


def score_rows(
    engine: Engine,
    targets: Sequence[Float32[np.ndarray, "target dim"]],
    pool: Sequence[FeatureStore],
    lr_weights: Sequence[float],
    ids: Ids,
    normalized: bool,
    out: np.ndarray,
) -> None:
    """`tamis.similarity.similarity` of target rows and the rows of these ids, each a list over checkpoints; an engine's
    workers multiply, some shards at a time."""
    found = [[_Part.of(*place) for place in store.places(ids)] for store in pool]
    tasks = _Tasks(pool, [(c, group) for c, parts in enumerate(found) for group in _groups(parts, len(targets[0]))])
    weighted = [rows * np.float32(weight) for rows, weight in zip(targets, lr_weights, strict=True)]
    done = engine.run(partial(_multiplier, weighted, normalized), tasks, Told())

    def blocks(checkpoint: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for _, group in (task for task in tasks.groups if task[0] == checkpoint):
            block, start = next(done), 0
            for part in group:
                yield np.asarray(part.positions), block[:, start : start + len(part.positions)]
                start += len(part.positions)

    for checkpoint in range(len(pool)):
        add_blocks(out, blocks(checkpoint), checkpoint)
    for _ in done:  # the engine ends its workers when it is asked for more than there is
        raise AssertionError("more results than tasks")


_Which = range | np.ndarray


class _Part(NamedTuple):
    """What a shard of n_rows holds of the ids: which of its rows, and their positions among the ids."""

    path: Place
    n_rows: int
    positions: _Which
    rows: _Which

    @classmethod
    def of(cls, path: Place, n_rows: int, positions: np.ndarray, rows: np.ndarray) -> "_Part":
        """Without an array where numbers follow one another, as they do in a pool that was represented as it is."""
        return cls(path, n_rows, _compact(positions), _compact(rows))


def _compact(numbers: np.ndarray) -> _Which:
    first = int(numbers[0])
    run = range(first, first + len(numbers))
    return run if np.array_equal(numbers, run) else numbers


def _groups(parts: Sequence[_Part], n_targets: int) -> Iterator[list[_Part]]:
    """Neighbouring shards whose products are of a size that is worth a message."""
    group: list[_Part] = []
    for part in parts:
        group.append(part)
        if 4 * n_targets * sum(len(part.positions) for part in group) >= _MESSAGE_BYTES:
            yield group
            group = []
    if group:
        yield group


@dataclass(frozen=True, slots=True)
class _Tasks(Sequence[Any]):
    """The store and, of each shard, the path, its number of rows and the rows wanted."""

    pool: Sequence[FeatureStore]
    groups: Sequence[tuple[int, list[_Part]]]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: Any) -> Any:
        checkpoint, group = self.groups[number]
        return checkpoint, self.pool[checkpoint], [(part.path, part.n_rows, part.rows) for part in group]


def _multiplier(
    weighted: Sequence[np.ndarray], normalized: bool
) -> Callable[[tuple[int, FeatureStore, list[Any]], Told], np.ndarray]:
    """A worker that holds the target rows of every checkpoint."""

    def work(task: tuple[int, FeatureStore, list[Any]], _: Told) -> np.ndarray:
        checkpoint, store, shards = task
        blocks = [
            block for rows in store.parts(shards, normalized) for _, block in products(weighted[checkpoint], rows)
        ]
        return np.concatenate(blocks, axis=1)

    return work


def given_similarity(path: Place, inputs: Inputs, candidates: Pool, memory_bytes: int) -> Similarity:
    """A matrix of one's own, whose columns are the rows of the pool in their order, equal ones included.

    A matrix with ids, as `tamis score` writes it, is joined by them. InputError where it does not fit pool or target.
    """
    values, _, pool_ids = load_similarity(path)
    n_rows = len(inputs.pool_rows)
    if pool_ids is None and values.shape[1] != n_rows:
        raise InputError(
            f"{path}: expected a column for each of the {n_rows:,} rows of the pool that can be read (equal "
            f"rows included), found {values.shape[1]:,}. Save one column for each, in their order"
        )
    targets = inputs.target if inputs.has_target else Pool.of([])
    if len(targets) and len(targets) != len(values):
        raise InputError(f"{path}: expected a row for each of {len(targets):,} target rows, found {len(values):,}")
    if pool_ids is None:
        columns = candidates.places
    else:
        columns = Places(pool_ids).positions(candidates.packed_ids)
        if (columns < 0).any():
            missing = candidates[int(columns.argmin())]
            raise InputError(f"{path}: no column has the id of {missing.file} row {missing.row}; score this pool anew")
    if not np.array_equal(columns, np.arange(values.shape[1])):
        values = take_columns(values, columns, memory_bytes)
    return Similarity(values, targets, candidates, path)


def takers(scored: Similarity | None, parts: Sequence[slice], walked: Walked, selector: str) -> list[int | None]:
    """The target row that took each pick, by its position; `parts` are the rows of each ranking's target."""
    rows: list[int | None] = [None] * len(walked.indices)
    if scored is None or not len(scored.targets):
        return rows
    for number, part in enumerate(parts):
        mine = [k for k, taker in enumerate(walked.takers) if taker == number]
        positions = range(len(scored.targets))[part]
        if selector == "round_robin":
            found = [walked.places[k] % len(positions) for k in mine]
        else:
            found = nearest_target(scored.values[part], np.array([walked.indices[k] for k in mine], int)).tolist()
        for k, row in zip(mine, found, strict=True):
            rows[k] = positions[row]
    return rows
