"""Bytes on disk: of stores from the shard format itself, of checkpoints and similarities by formula."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tamis.planning.flops import Shape
from tamis.store import recipe as recipes
from tamis.store.quantize import quantize, stored_dim
from tamis.store.shards import ShardIds, encode_shard, pack_ids

_ENCODED_CELLS = 1 << 22  # numbers of a shard that is really encoded; of a larger one the rest is counted
_ID_TEXT_BYTES = 36  # "…32 digits…" and what parts it from the next, in JSON: of the target's rows
_TENSOR_HEADER_BYTES = 80  # of one tensor in a safetensors header, without its name
_FACTS_BYTES = 1_500  # of adapter_config.json and checkpoint.json


@dataclass(frozen=True, slots=True)
class Place:
    """A file system that is written to: bytes more by what, all of them, and how many are free."""

    folder: Path
    used_by: Mapping[str, int]
    needed: int
    free: int


def shard_bytes(recipe: Mapping[str, Any], n_rows: int) -> int:
    """Bytes of a shard of so many rows."""
    dim, dtype = int(recipe["dim"]), recipes.store_dtype(recipe)
    some = max(1, min(dim, _ENCODED_CELLS // max(1, n_rows)))
    ids = ShardIds(pack_ids([f"{row:032x}" for row in range(n_rows)]), ())
    encoded = quantize(np.zeros((n_rows, some), np.float16), dtype)
    columns = np.zeros(n_rows, np.float32), np.zeros(n_rows, np.int32)
    held = len(encode_shard(recipes.digest(recipe), ids, *encoded, *columns))
    item = encoded[0].itemsize
    return held + n_rows * item * (stored_dim(dtype, dim) - stored_dim(dtype, some))


def store_bytes(recipe: Mapping[str, Any], n_todo: int, shard_rows: int, n_skipped: int = 0, reason: str = "") -> int:
    """Bytes that filling a store adds: n_todo ids, of which n_skipped are skipped for a reason such as this.

    Exact where none is skipped; else but for some bytes of headers, for which shards these are in is not known.
    """
    if not n_todo:
        return 0
    n_full, rest = divmod(n_todo, shard_rows)
    total = n_full * shard_bytes(recipe, shard_rows) + (shard_bytes(recipe, rest) if rest else 0)
    of_row = shard_bytes(recipe, 9) - shard_bytes(recipe, 8)
    of_skipped = len(json.dumps(json.dumps([shard_rows - 1, "0" * 32, reason])))
    content = {"digest": "0" * 32, "recipe": dict(recipe)}
    return total + n_skipped * (of_skipped - of_row) + len(json.dumps(content, indent=2)) + 1


def checkpoint_bytes(shape: Shape) -> int:
    """Bytes of one checkpoint: the trained weights and Adam's two moments of each, in float32, and their headers."""
    headers = sum(3 * (_TENSOR_HEADER_BYTES + len(name)) for name in shape.trained)
    return 3 * 4 * shape.n_trained + headers + _FACTS_BYTES


def similarity_bytes(n_targets: int, n_pool: int) -> int:
    """Bytes of the matrix in float32, and of the file with its ids."""
    return 128 + 4 * n_targets * n_pool + _ID_TEXT_BYTES * n_targets + 16 * n_pool + 65


def places(needs: Sequence[tuple[str, Path, int]]) -> list[Place]:
    """The file systems of (what, folder, bytes): folders on the same one share what is free there."""
    found: dict[int, Place] = {}
    for what, folder, n_bytes in needs:
        if not n_bytes:
            continue
        there = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
        device = there.stat().st_dev
        before = found.get(device, Place(there, {}, 0, shutil.disk_usage(there).free))
        used_by = {**before.used_by, what: before.used_by.get(what, 0) + n_bytes}
        found[device] = Place(before.folder, used_by, before.needed + n_bytes, before.free)
    return list(found.values())


def temporary_folder() -> Path:
    """Where temporary files go."""
    return Path(tempfile.gettempdir())
