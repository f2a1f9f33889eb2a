"""Small results as JSON files that hold their own checksum: a study's cells, and picks that are made once."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tamis.errors import DamagedError
from tamis.remote import Place
from tamis.store.files import put

FOLDERS = ("cells", "selections")  # of a workspace


def write_record(path: Place, fields: Mapping[str, Any]) -> None:
    """Write plain values, whole or absent; the folder is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path, (json.dumps({"digest": _digest(fields), **fields}) + "\n").encode())


def read_record(path: Place) -> dict[str, Any]:
    """The values as they were written. DamagedError where they are not; FileNotFoundError where there is no file."""
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("digest") != _digest(fields):
            raise ValueError("its checksum is another")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path}: cannot be used ({error}); remove it, and run this again") from error
    return fields


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(fields).encode(), digest_size=16).hexdigest()
