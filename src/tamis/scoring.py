"""The similarity a run picks by: kept in the workspace, or a file of one's own."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Float

from tamis.data.pool import Pool
from tamis.errors import DamagedError, InputError
from tamis.inputs import Inputs
from tamis.selectors import nearest_target
from tamis.selectors.constraints import Walked
from tamis.similarity import load_similarity, take_columns, writing_similarity


@dataclass(frozen=True)
class Similarity:
    """The matrix with the examples its rows and columns stand for; float32, memory-mapped."""

    values: Float[np.ndarray, "target pool"]
    targets: Pool
    pool: Pool
    path: Path


def kept_similarity(
    path: Path,
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
    target_ids, pool_ids = list(rows) or targets.ids, pool.ids
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another run may be writing the same. The lock dies with its process.
        with FileLock(path.with_suffix(".lock")):
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
    values, *ids = load_similarity(path)
    if ids != [target_ids, pool_ids]:
        raise DamagedError(f"{path}: its ids are not those of this run's rows. Delete it, and run again.")
    return Similarity(values, targets, pool, path)


def given_similarity(path: Path, inputs: Inputs, candidates: Pool, memory_bytes: int) -> Similarity:
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
        place = {id_: column for column, id_ in enumerate(pool_ids)}
        columns = np.array([place.get(id_, -1) for id_ in candidates.ids])
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
