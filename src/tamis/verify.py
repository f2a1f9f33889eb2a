"""Checks a workspace, or one store of it, against its checksums."""

import re
from pathlib import Path

import torch

from tamis.errors import DamagedError, InputError, StoreError
from tamis.model.checkpoint import load_moments, read_checkpoint
from tamis.remote import Place
from tamis.remote.cache import fetched
from tamis.similarity import load_similarity
from tamis.store import FeatureStore
from tamis.store.files import SIMILARITY_IDS_SUFFIX, list_shards, set_aside
from tamis.store.recipe import NAME
from tamis.store.records import FOLDERS, read_record


def verify_folder(folder: Place) -> tuple[int, list[tuple[Place, str]]]:
    """Number of whole files, and the damaged ones with the reason.

    Damaged shards, similarities, picks and cells are set aside, to be computed again. Of a store whose recipe is
    damaged or gone the recipe is named, and its shards are neither checked nor counted.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a workspace (default .tamis) or a feature store")
    shards = [path for path in folder.rglob("*.safetensors") if re.fullmatch("[0-9a-f]{32}", path.stem)]
    stores = sorted({path.parent for path in [*folder.rglob(NAME), *shards]})
    checkpoints = sorted(path.parent for path in folder.rglob("checkpoint.json") if path.parent.suffix != ".tmp")
    matrices = sorted(
        path for path in folder.rglob("*.npy") if path.parent.name == "similarity" and path.name[0] != "."
    )
    records = sorted(path for path in folder.rglob("*.json") if path.parent.name in FOLDERS and path.name[0] != ".")
    if not (stores or checkpoints or matrices or records):
        raise InputError(f"{folder}: nothing here that tamis keeps (no {NAME}, checkpoint.json or similarity)")
    n_whole = 0
    damaged: list[tuple[Place, str]] = []
    for path in stores:
        try:
            store = FeatureStore.load(path)
        except StoreError as error:
            damaged.append((path / NAME, str(error)))
            continue
        n_shards, bad = len(list_shards(path)), store.verify()
        n_whole += n_shards - len(bad)
        damaged += [(store.set_aside(shard), reason) for shard, reason in bad]
    for path in checkpoints:
        with fetched(path) as folder_now:
            try:
                load_moments(read_checkpoint(folder_now / path.name), torch.device("cpu"))
                n_whole += 1
            except DamagedError as error:
                damaged.append((path, _about(path, folder_now, error)))
    for path in matrices:
        ids = path.with_name(path.name + SIMILARITY_IDS_SUFFIX)
        with fetched(*[part for part in (path, ids) if part.exists()]) as folder_now:
            try:
                load_similarity(folder_now / path.name)
                n_whole += 1
            except (DamagedError, InputError) as error:
                damaged.append((set_aside(path), _about(path, folder_now, error)))
    for path in records:
        try:
            read_record(path)
            n_whole += 1
        except DamagedError as error:
            damaged.append((set_aside(path), str(error)))
    return n_whole, damaged


def _about(path: Place, folder: Path, error: Exception) -> str:
    """An error about the copy in a folder, as one about the original."""
    return str(error).replace(str(folder), str(path.parent))
