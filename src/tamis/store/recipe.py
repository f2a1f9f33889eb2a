"""The recipe of a store: what its rows are. Written once, and never mixed with another.

recipe.json    {"digest": 128-bit digest of the recipe, which every shard repeats, "recipe": {…}}
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tamis.errors import DamagedError, StoreError
from tamis.store import files

NAME = "recipe.json"


def create_or_check(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Write the recipe of a new store, or check that the store there has it."""
    asked = json.loads(json.dumps(dict(recipe), allow_nan=False))
    if not isinstance(asked.get("dim"), int) or asked["dim"] < 1:
        raise ValueError(f'expected a recipe with a positive whole number "dim", got {asked.get("dim")!r}')
    if not (folder / NAME).exists():
        folder.mkdir(parents=True, exist_ok=True)
        content = {"digest": digest(asked), "recipe": asked}
        files.put(folder / NAME, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
    found = read(folder)  # also when just written: another writer may have been faster
    if found != asked:
        raise StoreError(
            f"{folder}: the features there were made with another recipe: {_differences(found, asked)}. "
            "Use the settings of the store, or another workspace folder."
        )


def read(folder: Path) -> dict[str, Any]:
    """The recipe of the store in this folder; StoreError if there is none, DamagedError if it is not as written."""
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        recipe: dict[str, Any] = content["recipe"]
        if content["digest"] != digest(recipe):
            raise ValueError(f"its digest is {digest(recipe)}, not {content['digest']!r} as it says")
    except FileNotFoundError as error:
        raise StoreError(f"{folder}: no feature store here ({NAME} is missing). Run `tamis represent`.") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedError(
            f"{path}: not the recipe that was written ({error}). Delete this file, and the next run writes it again."
        ) from error
    return recipe


def digest(recipe: Mapping[str, Any]) -> str:
    """128-bit digest of a recipe as JSON."""
    return hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=16).hexdigest()


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
