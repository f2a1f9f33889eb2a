"""The recipe of a store: what its rows are. Written once, and never mixed with another."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tamis.errors import DamagedError, StoreError
from tamis.store import files

_NAME = "recipe.json"


def create_or_check(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Write the recipe of a new store, or check that the store there has it."""
    asked = json.loads(json.dumps(dict(recipe), allow_nan=False))
    if not isinstance(asked.get("dim"), int) or asked["dim"] < 1:
        raise ValueError(f'expected a recipe with a positive whole number "dim", got {asked.get("dim")!r}')
    if not (folder / _NAME).exists():
        folder.mkdir(parents=True, exist_ok=True)
        files.put(folder / _NAME, (json.dumps(asked, indent=2, sort_keys=True) + "\n").encode())
    found = read(folder)  # also when just written: another writer may have been faster
    if found != asked:
        raise StoreError(
            f"{folder}: the features there were made with another recipe: {_differences(found, asked)}. "
            "Use the settings of the store, or another workspace folder."
        )


def read(folder: Path) -> dict[str, Any]:
    """The recipe of the store in this folder; StoreError if there is none."""
    path = folder / _NAME
    try:
        recipe: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{folder}: no feature store here ({_NAME} is missing). Run `tamis represent`.") from error
    except ValueError as error:
        raise DamagedError(f"{path}: not a recipe ({error}). Restore it, or delete the folder.") from error
    return recipe


def _differences(found: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> str:
    """Both sides of every key that differs, as `projection.dim: 512 in the store, 8192 asked for`."""
    parts = []
    for key in sorted(found.keys() | asked.keys()):
        left, right = found.get(key, "(nothing)"), asked.get(key, "(nothing)")
        if isinstance(left, Mapping) and isinstance(right, Mapping) and left != right:
            parts.append(_differences(left, right, f"{prefix}{key}."))
        elif left != right:
            parts.append(f"{prefix}{key}: {left!r} in the store, {right!r} asked for")
    return "; ".join(parts)
