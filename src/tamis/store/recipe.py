"""The recipe of a store: what its rows are. Written once, and never mixed with another.

The store dtype, see `quantize`, is under "store_dtype"; that key is not there for float16, so that stores keep the
digest they had before there was a choice.

recipe.json    {"digest": 128-bit digest of the recipe, which every shard repeats, "recipe": {…}}
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tamis.errors import DamagedError, StoreError
from tamis.remote import Place
from tamis.store import files
from tamis.store.quantize import StoreDtype

NAME = "recipe.json"


def create_or_check(folder: Place, recipe: Mapping[str, Any]) -> None:
    """Write the recipe of a new store, or check that the store there has it."""
    asked = json.loads(json.dumps(dict(recipe), allow_nan=False))
    if not isinstance(asked.get("dim"), int) or asked["dim"] < 1:
        raise ValueError(f'expected a recipe with a positive whole number "dim", got {asked.get("dim")!r}')
    store_dtype(asked)
    if not (folder / NAME).exists():
        folder.mkdir(parents=True, exist_ok=True)
        content = {"digest": digest(asked), "recipe": asked}
        files.put(folder / NAME, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
    check(folder, asked)  # also when just written: another writer may have been faster


def check(folder: Place, asked: Mapping[str, Any]) -> None:
    """StoreError unless the store in this folder has this recipe."""
    found = read(folder)
    if found != asked:
        raise StoreError(
            f"{folder}: the features there were made with another recipe: {_differences(found, asked)}. "
            "Use the settings of the store, or another workspace folder."
        )


def read(folder: Place) -> dict[str, Any]:
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
    store_dtype(recipe, path)
    return recipe


def store_dtype(recipe: Mapping[str, Any], where: object = "recipe") -> StoreDtype:
    """How the rows of this recipe are encoded; StoreError for an encoding that is not known here."""
    asked = recipe.get("store_dtype")
    if asked is None:
        return "float16"
    if asked == "int8" or asked == "sign":
        dtype: StoreDtype = asked
        return dtype
    raise StoreError(
        f'{where}: expected "store_dtype" int8 or sign, or no such key for float16, found {asked!r}. '
        "A later tamis may know it; use that one, or another workspace folder."
    )


def with_store_dtype(recipe: Mapping[str, Any], dtype: StoreDtype) -> dict[str, Any]:
    """The recipe of the same rows, encoded so."""
    rest = {key: value for key, value in recipe.items() if key != "store_dtype"}
    return rest if dtype == "float16" else {**rest, "store_dtype": dtype}


def digest(recipe: Mapping[str, Any]) -> str:
    """128-bit digest of a recipe as JSON."""
    return _digest(recipe)


def folder_name(recipe: Mapping[str, Any]) -> str:
    """The name of a recipe's store among the features of a workspace."""
    return _digest([recipe])  # a list: what `tamis.inputs.digest` makes of one part


def _digest(content: object) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


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
