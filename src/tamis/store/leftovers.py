"""What of a workspace nothing needs any more."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tamis.errors import DamagedError, InputError
from tamis.remote import Place
from tamis.store import files
from tamis.store import recipe as recipes
from tamis.store.contents import check_workspace, first_holders, inside, is_aside, is_temporary, places, store_folders
from tamis.store.feature_store import FeatureStore
from tamis.store.shards import each, read_ids

_OF_A_RUN = re.compile("[0-9a-f]{32}[.]npy(" + re.escape(files.SIMILARITY_IDS_SUFFIX) + ")?")


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file or folder that nothing needs, and why."""

    path: Place
    n_bytes: int
    reason: str


def leftovers(workspace: Place, *, similarities: bool = False, checkpoints: Sequence[Place] = ()) -> list[Leftover]:
    """What nothing in a workspace needs any more:

    - files set aside as damaged, and temporary files and folders nobody wrote to for an hour;
    - shards all of whose ids lexically earlier shards of the store hold, which therefore win;
    - gradient stores of a checkpoint that is neither in the workspace nor in the folders `checkpoints`, which are for
      warm-ups kept elsewhere. Where no checkpoint is known at all, gradient stores are not judged;
    - a similarity without its ids, or ids without their similarity; with `similarities` all of them.

    Whatever was written to in the last hour is left out: another process may be at work on it. Not covered: a process
    that only reads, for which a file lives on until it lets go of it, and one that writes to a store of an unknown
    checkpoint less than once an hour.

    Everything stays within the workspace: symlinks are neither followed nor removed, and a store folder that holds
    anything else than a store is left alone.

    InputError if there is no workspace; DamagedError for a checkpoint.json or a shard that cannot be read, because then
    it is not known what is needed.
    """
    check_workspace(workspace)
    now = files.clock(workspace)
    paths = list(places(workspace, follow=False))
    found = [_leftover(path, "set aside as damaged") for path in paths if is_aside(path)]
    found += [_leftover(path, "its writer died") for path in paths if is_temporary(path) and files.is_idle(path, now)]
    for folder in checkpoints:
        if not _fingerprints([folder]):
            raise InputError(f"{folder}: no checkpoint.json of tamis in it; give a warm-up, or the folder of several")
    known = _fingerprints([workspace / "checkpoints", *checkpoints])
    for folder in store_folders(workspace, follow=False):
        if not (folder / recipes.NAME).exists() or not _holds_only_a_store(folder):
            continue
        store = FeatureStore.load(folder)
        made_at = store.recipe.get("checkpoint") if store.recipe.get("kind") == "gradient" else None
        if known and made_at is not None and made_at not in known:
            if files.is_idle(folder, now):
                reason = (
                    f"its checkpoint {str(made_at)[:8]} is not in {workspace / 'checkpoints'} (say where a warm-up "
                    "is kept elsewhere: --checkpoints)"
                )
                found = [*(other for other in found if other.path.parent != folder), _leftover(folder, reason)]
            continue
        found += [_leftover(path, "other shards hold all of its ids") for path in _superfluous(store, now)]
    return found + [_leftover(*pair) for pair in _similarity_leftovers(workspace / "similarity", similarities, now)]


def remove(found: Sequence[Leftover]) -> int:
    """Remove these; the bytes set free. What was written to since it was found stays."""
    n_bytes = 0
    now = {folder: files.clock(folder) for folder in {leftover.path.parent for leftover in found}}
    for leftover in found:
        is_aside = leftover.path.name.endswith(files.DAMAGED_SUFFIX)
        try:
            if is_aside or files.is_idle(leftover.path, now[leftover.path.parent]):
                files.remove(leftover.path)
                n_bytes += leftover.n_bytes
        except FileNotFoundError:  # another process was faster
            continue
    return n_bytes


def _leftover(path: Place, reason: str) -> Leftover:
    return Leftover(path, files.size(path), reason)


def _holds_only_a_store(folder: Place) -> bool:
    """Whether all that is in a folder was put there by the store: what one keeps beside it is not to be lost."""
    suffixes = (files.SHARD_SUFFIX, files.DAMAGED_SUFFIX, ".tmp")
    return all(not p.is_symlink() and (p.name == recipes.NAME or p.suffix in suffixes) for p in folder.iterdir())


def _fingerprints(folders: Sequence[Place]) -> set[str]:
    """Of the checkpoints that these folders are or hold, symlinks or not: one too many does no harm."""
    found = set()
    for folder in folders:
        patterns = ("given-*.json", *(depth + "checkpoint.json" for depth in ("", "*/", "*/*/")))
        for path in (path for pattern in patterns for path in folder.glob(pattern)):  # given: kept elsewhere
            try:
                found.add(str(json.loads(path.read_text(encoding="utf-8"))["fingerprint"]))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise DamagedError(
                    f"{path}: cannot be read ({error}), so it is not known which features belong to it. Run "
                    f"`tamis verify`; remove {path.parent} if it is of no use, and run this again."
                ) from error
    return found


def _superfluous(store: FeatureStore, now: float) -> list[Place]:
    """Shards of which no reader would use anything. None while any shard of the store is damaged."""
    shards = files.list_shards(store.folder)
    digest = recipes.digest(store.recipe)
    contents = list(each(lambda path: read_ids(path, digest), shards, store.folder))
    _, first = first_holders(contents)
    used = np.unique(np.repeat(np.arange(len(shards)), [len(ids.rows) + len(ids.skipped) for ids in contents])[first])
    unused = np.setdiff1d(np.arange(len(shards)), used).tolist()
    found = [shards[number] for number in unused if files.is_idle(shards[number], now)]
    return found if found and not store.verify() else []


def _similarity_leftovers(folder: Place, every: bool, now: float) -> Iterator[tuple[Place, str]]:
    """A matrix before its ids, because without ids it would be taken for a matrix of one's own."""
    for path in inside(folder, follow=False):
        if not _OF_A_RUN.fullmatch(path.name) or not files.is_idle(path, now):
            continue
        is_matrix = path.suffix == ".npy"
        stem, suffix = path.name.removesuffix(files.SIMILARITY_IDS_SUFFIX), files.SIMILARITY_IDS_SUFFIX * is_matrix
        if not (folder / (stem + suffix)).exists():
            yield path, "its ids are gone" if is_matrix else "its similarity is gone"
        elif every:
            yield path, "computed again in seconds"
