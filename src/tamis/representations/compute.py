"""Fills feature stores with the rows of a recipe, shard by shard: the function that every engine runs."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32

from tamis.data.example import Example
from tamis.errors import ModelError
from tamis.model.batch import Attempts, is_out_of_memory, token_batches
from tamis.progress import Advance, Told
from tamis.store import FeatureStore

Shard = Sequence[Example]
BatchRows = Callable[[Sequence[Any]], Float32[np.ndarray, "batch dim"]]


@runtime_checkable
class Item(Protocol):
    """What a row is made of: tokens, or words."""

    @property
    def n_tokens(self) -> int:
        """How long it is."""
        ...

    @property
    def n_supervised(self) -> int:
        """How many of its tokens count in the loss; 0 where nothing was tokenised."""
        ...


@runtime_checkable
class Recipe(Protocol):
    """What a row is, given its example; everything a worker needs to make rows.

    what     of a row: named where a row is zero or not finite
    remedy   what to do where a single row is too much for the memory
    dim      length of a row
    """

    @property
    def what(self) -> str:  # noqa: D102
        ...

    @property
    def remedy(self) -> str:  # noqa: D102
        ...

    @property
    def dim(self) -> int:  # noqa: D102
        ...

    def to_dicts(self) -> list[dict[str, Any]]:
        """The readable recipe of each store that the rows go to, whose digest names it. Nearly always one."""
        ...

    def load(self, *, activation_checkpointing: bool) -> BatchRows:
        """Load the model; what comes back makes the rows of a batch, one store's after the other's, not yet unit."""
        ...


def fill_shards(
    recipe: Recipe,
    stores: Sequence[FeatureStore],
    read: Callable[[Example], Item | str],
    *,
    batch_tokens: int,
    activation_checkpointing: bool,
) -> Callable[[Shard, Told], int]:
    """A worker that holds the model and computes one shard of examples; it returns how many it wrote.

    read gives an example's tokens or words, or the reason why it has none. A shard that another writer has made by
    now is left alone. Where memory runs out, the shard is computed again in batches of half the tokens, and so are
    those after it, which is told. ModelError where even single rows are too much; StoreError where the folder of a
    store is not that of the one who asked for the rows.
    """
    for store in stores:
        store.check()
    batch_rows = recipe.load(activation_checkpointing=activation_checkpointing)

    def all_rows(items: list[Item], told: Told) -> np.ndarray:
        nonlocal batch_tokens
        attempts, lengths = Attempts(told.advance), [item.n_tokens for item in items]
        while True:
            batches = token_batches(lengths, batch_tokens)
            try:
                return rows_in_batches(batch_rows, items, batches, attempts.new())
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Here the error is gone, and with it its traceback, which held on to the tensors of the failed batch
            if len(batches[0]) == 1 and len(batches) == len(items):
                raise ModelError(f"out of memory with single rows of up to {max(lengths):,} tokens: {recipe.remedy}")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            widest = max(len(batch) * lengths[batch[0]] for batch in batches)
            told.note(f"out of memory at {widest:,} tokens a batch: going on with {widest // 2:,}")
            batch_tokens = widest // 2

    def work(shard: Shard, told: Told) -> int:
        ids = tuple(example.id for example in shard)
        found = {example.id: read(example) for example in shard}
        items = {id_: item for id_, item in found.items() if not isinstance(item, str)}
        missing = [place for place, store in enumerate(stores) if not store.has(ids)]
        if not missing:
            told.advance(sum(item.n_tokens for item in items.values()))
            return 0
        n_tokens = np.array([item.n_supervised for item in items.values()], np.int32)
        rows = all_rows(list(items.values()), told) if items else np.zeros((0, len(stores) * recipe.dim), np.float32)
        for place in missing:
            skipped = {id_: reason for id_, reason in found.items() if isinstance(reason, str)}
            part, norm = unit_rows(rows[:, place * recipe.dim : (place + 1) * recipe.dim])
            skipped |= {
                id_: reason for id_, n in zip(items, norm, strict=True) if (reason := _bad_norm(float(n), recipe.what))
            }
            kept = [i for i, id_ in enumerate(items) if id_ not in skipped]
            names = list(items)
            stores[place].write(ids, part[kept], norm[kept], n_tokens[kept], [names[i] for i in kept], skipped)
        return len(ids)

    return work


def fill_in_turn(
    makers: Sequence[Callable[[], Callable[[Shard, Told], int]]],
) -> Callable[[tuple[int, Shard], Told], int]:
    """A worker for shards of several kinds; it holds the model of the last one's kind."""
    number: int | None = None
    worker: Callable[[Shard, Told], int] | None = None

    def work(task: tuple[int, Shard], told: Told) -> int:
        nonlocal number, worker
        if worker is None or task[0] != number:
            worker = None  # its model goes before the next one comes
            number, worker = task[0], makers[task[0]]()
        return worker(task[1], told)

    return work


def rows_in_batches(
    batch_rows: BatchRows, items: Sequence[Any], batches: Sequence[Sequence[int]], advance: Advance
) -> Float32[np.ndarray, "rows dim"]:
    """Rows of `items` in its order, computed in batches of positions; `advance` gets tokens done."""
    rows: list[np.ndarray | None] = [None] * len(items)
    for batch in batches:
        for position, row in zip(batch, batch_rows([items[i] for i in batch]), strict=True):
            rows[position] = row
        advance(sum(items[i].n_tokens for i in batch))
    return np.stack([row for row in rows if row is not None])


def unit_rows(
    features: Float32[np.ndarray, "rows dim"],
) -> tuple[Float32[np.ndarray, "rows dim"], Float32[np.ndarray, " rows"]]:
    """Rows scaled to L2 norm 1, and their norms; a zero or non-finite row stays as it is, its norm tells."""
    norm = np.linalg.norm(features.astype(np.float64), axis=1).astype(np.float32)
    scale = np.where((norm > 0) & np.isfinite(norm), norm, 1)
    return features / scale[:, None], norm


def _bad_norm(norm: float, what: str) -> str | None:
    if not np.isfinite(norm):
        return f"the {what} is not finite"
    return f"the {what} is zero" if norm == 0 else None
