"""What a workspace holds, in numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis.errors import DamagedError, InputError, StoreError
from tamis.remote import Place, RemotePath
from tamis.store import files
from tamis.store import recipe as recipes
from tamis.store.shards import ShardIds, each, pack_ids, read_ids

_PARTS = ("checkpoints", "features", "similarity")


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """One store in numbers; an id counts once. `problem` says why its recipe, or the first damaged shard, cannot be
    read.
    """

    folder: Place
    recipe: dict[str, Any] | None
    n_rows: int
    n_skipped: int
    n_shards: int
    n_bytes: int
    problem: str | None

    @property
    def what(self) -> str:
        """What the rows are, as `gradient, sgd, 2f139d1d`."""
        recipe = self.recipe or {}
        maker = next((recipe[key] for key in ("checkpoint", "encoder", "base_model") if key in recipe), None)
        words = recipe.get("kind", "?"), recipe.get("adam"), None if maker is None else str(maker)[:8]
        return ", ".join(str(word) for word in words if word is not None)

    @property
    def dtype(self) -> str:
        """How they are encoded."""
        return "?" if self.recipe is None else recipes.store_dtype(self.recipe)


@dataclass(frozen=True, slots=True)
class Total:
    """How many there are, and their bytes."""

    n: int
    n_bytes: int


def store_infos(folder: Place) -> list[StoreInfo]:
    """Each store of a workspace, or the one store in this folder; InputError where there is neither."""
    if is_store(folder):
        return [_info(folder)]
    check_workspace(folder)
    return [_info(store) for store in store_folders(folder, follow=True)]


def totals(workspace: Place) -> dict[str, Total]:
    """Of a workspace: its stores, checkpoints, similarities, files set aside and temporaries."""
    check_workspace(workspace)
    paths = list(places(workspace, follow=True))
    matrices = [path for path in paths if path.parent.name == "similarity" and path.suffix == ".npy"]
    ids = [path.with_name(path.name + files.SIMILARITY_IDS_SUFFIX) for path in matrices]
    found = {
        "stores": store_folders(workspace, follow=True),
        "checkpoints": [path for path in paths if path.name[0] != "." and (path / "checkpoint.json").is_file()],
        "similarities": matrices,
        "set aside": list(filter(is_aside, paths)),
        "temporaries": list(filter(is_temporary, paths)),
    }
    n_bytes = {name: sum(files.size(path.resolve()) for path in these) for name, these in found.items()}
    n_bytes["similarities"] += sum(path.stat().st_size for path in ids if path.exists())
    return {name: Total(len(these), n_bytes[name]) for name, these in found.items()}


def is_store(folder: Place) -> bool:
    """Whether this folder is a store, be its recipe gone."""
    return (folder / recipes.NAME).exists() or any(files.list_shards(folder))


def check_workspace(folder: Place) -> None:
    """InputError unless this folder holds anything that a workspace holds."""
    if not any((folder / part).is_dir() for part in _PARTS):
        raise InputError(f"{folder}: no workspace here (none of {', '.join(_PARTS)}). Give the folder of --workspace")


def inside(folder: Place, *, follow: bool) -> list[Place]:
    """What a folder holds, in lexical order; nothing if it is not there. Unless `follow`, symlinks are not there."""
    if not folder.is_dir() or (folder.is_symlink() and not follow):
        return []
    if isinstance(folder, RemotePath):
        return list(folder.iterdir())
    return sorted(path for path in folder.iterdir() if path.exists() and (follow or not path.is_symlink()))


def store_folders(workspace: Place, *, follow: bool) -> list[Place]:
    """The folders of its stores."""
    return [path for path in inside(workspace / "features", follow=follow) if path.is_dir() and path.name[0] != "."]


def places(workspace: Place, *, follow: bool) -> Iterator[Place]:
    """Everything at the two levels where tamis writes files."""
    for part in _PARTS:
        for path in inside(workspace / part, follow=follow):
            yield path
            if path.name[0] != ".":
                yield from inside(path, follow=follow)


def is_aside(path: Place) -> bool:
    """Whether it is a file set aside as damaged."""
    return path.name.endswith(files.DAMAGED_SUFFIX) and path.is_file()


def is_temporary(path: Place) -> bool:
    """Whether it is a file or folder that was being written, or still is."""
    return path.name[0] == "." and path.suffix == ".tmp"


def first_holders(contents: Sequence[ShardIds]) -> tuple[np.ndarray, np.ndarray]:
    """Of all entries of these shards, one shard after the other, rows before skipped: whether it is a row; and the
    places of those that are the first with their id.
    """
    packed = [np.concatenate([ids.rows, pack_ids([id_ for _, id_, _ in ids.skipped])]) for ids in contents]
    is_row = [np.arange(len(ids.rows) + len(ids.skipped)) < len(ids.rows) for ids in contents]
    if not packed:
        return np.zeros(0, bool), np.zeros(0, np.int64)
    _, first = np.unique(np.ascontiguousarray(np.concatenate(packed)).view("S16"), return_index=True)
    return np.concatenate(is_row), first


def _info(folder: Place) -> StoreInfo:
    shards = files.list_shards(folder)
    n_bytes = sum(path.stat().st_size for path in shards)
    try:
        recipe = recipes.read(folder)
    except StoreError as error:
        return StoreInfo(folder, None, 0, 0, len(shards), n_bytes, str(error))
    digest = recipes.digest(recipe)

    def ids(path: Place) -> ShardIds | DamagedError:
        try:
            return read_ids(path, digest)
        except DamagedError as error:
            return error

    found = list(each(ids, shards, folder))
    contents = [ids for ids in found if isinstance(ids, ShardIds)]
    problem = next((str(error) for error in found if isinstance(error, DamagedError)), None)
    is_row, first = first_holders(contents)
    n_rows = int(is_row[first].sum())
    return StoreInfo(folder, recipe, n_rows, len(first) - n_rows, len(shards), n_bytes, problem)
