"""Checks a workspace, or one store of it, against its checksums."""

from pathlib import Path

import torch

from tamis.errors import DamagedError, InputError
from tamis.model.checkpoint import load_moments, read_checkpoint
from tamis.similarity import load_similarity
from tamis.store import FeatureStore


def verify_folder(folder: Path) -> tuple[int, list[tuple[Path, str]]]:
    """Number of whole files, and the damaged ones with the reason. Damaged shards are set aside, to be recomputed."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a workspace (default .tamis) or a feature store")
    stores = sorted(path.parent for path in folder.rglob("recipe.json"))
    checkpoints = sorted(path.parent for path in folder.rglob("checkpoint.json") if path.parent.suffix != ".tmp")
    matrices = sorted(path for path in folder.rglob("*.npy") if path.parent.name == "similarity")
    if not (stores or checkpoints or matrices):
        raise InputError(f"{folder}: nothing here that tamis keeps (no recipe.json, checkpoint.json or similarity)")
    n_whole = 0
    damaged: list[tuple[Path, str]] = []
    for path in stores:
        store = FeatureStore.load(path)
        bad = store.verify()
        n_whole += len(list(path.glob("*.safetensors"))) - len(bad)
        damaged += [(store.set_aside(shard), reason) for shard, reason in bad]
    for path in checkpoints:
        try:
            load_moments(read_checkpoint(path), torch.device("cpu"))
            n_whole += 1
        except DamagedError as error:
            damaged.append((path, str(error)))
    for path in matrices:
        try:
            load_similarity(path)
            n_whole += 1
        except (DamagedError, InputError) as error:
            damaged.append((path, str(error)))
    return n_whole, damaged
