"""tamis: select the instruction-tuning examples that matter.

`select` is the whole pipeline; `tamis.selectors` holds the selectors as functions on plain arrays.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.errors import ChatError, DamagedError, InputError, ModelError, StoreError, TamisError

if TYPE_CHECKING:
    from tamis.data.selection import Selection

__all__ = ["ChatError", "DamagedError", "InputError", "ModelError", "StoreError", "TamisError", "select"]

Files = str | Path | Sequence[str | Path]


def select(
    pool: Files,
    target: Files | None = None,
    *,
    model: str | Path | None = None,
    method: str | None = None,
    budget: str | int = "5%",
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> "Selection":
    """Pick from a pool what serves a target.

    pool, target    files or glob patterns; methods such as `random` need no target
    model           folder in Hugging Face format or hub name; methods such as `bm25` need none
    method          representation and selector: less, tagcos, bm25, random, less+knn_kde, …; by default less, and
                    without a target tagcos
    budget          500 (examples), "5%" (of the usable rows) or "200000tok" (supervised tokens)
    out             folder to write the selection to; nothing is written without it, but for the workspace's caches
    settings        any other setting by its name in the configuration, {"warmup.epochs": 2, "workspace": "/data/ws"}

    Raises TamisError, whose message says what was expected, what was found, where, and what to do.
    """
    from tamis.config import load_config
    from tamis.pipeline import select as run

    given = {
        "data.pool": _texts(pool),
        "data.target": _texts(target),
        "model.name": None if model is None else str(model),
        "pick.method": method,
        "pick.budget": budget,
        "out": None if out is None else str(out),
    }
    return run(load_config(None, {**given, **(settings or {})}))


def _texts(files: Files | None) -> list[str]:
    if files is None:
        return []
    return [str(files)] if isinstance(files, str | Path) else [str(file) for file in files]
