"""The table of methods: what each name means, where its code is, what it needs. Imports nothing heavy."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from tamis.errors import InputError


@dataclass(frozen=True, slots=True)
class Selector:
    """`function` is "module:name"; `needs` what it is called with besides n_examples.

    `options` are what a user may set, each with the values it may have, or their type. Of a method that is `nested` a
    smaller number of picks is a prefix of a larger one. One with `distances` takes 1 − similarity for a distance.
    """

    function: str
    needs: tuple[str, ...]
    options: Mapping[str, tuple[Any, ...] | type] = field(default_factory=dict)
    nested: bool = True
    distances: bool = False

    @property
    def needs_rows(self) -> bool:
        """Whether it looks at feature rows, which not every representation makes."""
        return bool({"features", "pool_features"} & set(self.needs))


@dataclass(frozen=True, slots=True)
class Representation:
    """`selector`: its usual one. `makes`: what it tells of an example.

    rows      a feature row, kept in a store: similarities are cosines (or dot products)
    scores    a score for each target, which may have any size; `function` is "module:name" of (target texts, pool
              texts, the similarity to fill, and what it `needs`)
    ranking   one number a row, whatever the target

    `heeds`: the represent.* settings that it looks at, beside those of batches and shards. `libraries`: whose versions
    its result depends on, beside torch's.
    """

    selector: str
    makes: Literal["rows", "scores", "ranking"] = "rows"
    function: str | None = None
    needs: tuple[str, ...] = ()
    heeds: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Method:
    """A representation (None where the selector needs none) joined with a selector."""

    name: str
    representation: str | None
    selector: str


_KNN = {"n_neighbors": int, "alpha": float, "c": float}
_PURSUIT = {"ridge": float, "tolerance": float}

SELECTORS = {
    "top_k": Selector("tamis.selectors:top_k", ("similarity", "groups"), {"reduce": ("group_mean_max", "mean", "max")}),
    "doubly_greedy": Selector("tamis.selectors:doubly_greedy", ("similarity",)),
    "round_robin": Selector("tamis.selectors:round_robin", ("similarity", "memory_bytes")),
    "unbalanced_transport": Selector(
        "tamis.selectors:unbalanced_transport",
        ("similarity", "memory_bytes"),
        {"epsilon": float, "target_weight": float, "pool_weight": float},
        distances=True,
    ),
    "knn_uniform": Selector("tamis.selectors:knn_uniform", ("similarity",), _KNN, distances=True),
    "knn_kde": Selector(
        "tamis.selectors:knn_kde",
        ("similarity", "pool_features", "lr_weights", "memory_bytes"),
        {**_KNN, "n_density_neighbors": int, "bandwidth": float},
        distances=True,
    ),
    "matching_pursuit": Selector(
        "tamis.selectors:matching_pursuit", ("features", "goal", "memory_bytes"), _PURSUIT, nested=False
    ),
    "tagcos": Selector(
        "tamis.selectors:tagcos",
        ("features", "seed", "map", "memory_bytes"),
        {"n_clusters": int, **_PURSUIT},
        nested=False,
    ),
    "k_center": Selector("tamis.selectors:k_center", ("features", "seed")),
    "herding": Selector("tamis.selectors:herding", ("features",)),
    "facility_location": Selector(
        "tamis.selectors:facility_location", ("features", "memory_bytes"), {"n_neighbors": int}
    ),
    "random": Selector("tamis.selectors:random", ("n_pool", "seed", "sources"), {"balanced": (True, False)}),
}

_OF_ROWS = ("normalize", "store_dtype")
_LEXICAL = "tamis.representations.lexical"

REPRESENTATIONS = {
    "gradient": Representation(
        "top_k", heeds=("checkpoints", "adam", "projection", "dim", "projection_seed", *_OF_ROWS)
    ),
    "rds": Representation("round_robin", heeds=_OF_ROWS),
    "embed": Representation("round_robin", heeds=("encoder", *_OF_ROWS), libraries=("sentence-transformers",)),
    "ngrams": Representation("top_k", heeds=("dim", *_OF_ROWS), libraries=("scikit-learn",)),
    "bm25": Representation("top_k", "scores", f"{_LEXICAL}:bm25", libraries=("bm25s",)),
    "dsir": Representation(
        "top_k", "scores", f"{_LEXICAL}:dsir", ("groups", "smoothing"), ("smoothing",), ("scikit-learn",)
    ),
    "loss": Representation("top_k", "ranking", heeds=("prefer",)),
    "perplexity": Representation("top_k", "ranking", heeds=("prefer",)),
    "ifd": Representation("top_k", "ranking", heeds=("prefer",)),
}

ALIASES = {"less": "gradient"}


def known_methods() -> list[str]:
    """Every name `--method` takes alone; representations may also be joined, as in less+round_robin."""
    return [*ALIASES, *REPRESENTATIONS, *(name for name, s in SELECTORS.items() if "similarity" not in s.needs)]


def parse_method(text: str) -> Method:
    """`less`, `bm25+round_robin`, `tagcos`, `random` …: a representation, a selector, or the two joined by +.

    A representation alone has its usual selector. A selector alone needs no target: one over feature rows looks at
    gradients, `random` at nothing. Raises InputError that lists the choices and names the nearest.
    """
    first, joined, second = text.partition("+")
    if not joined and first in SELECTORS and "similarity" not in SELECTORS[first].needs:
        return Method(text, "gradient" if SELECTORS[first].needs_rows else None, first)
    representation = ALIASES.get(first, first)
    if representation not in REPRESENTATIONS:
        hint = f" (or less+{first}: it compares with a target)" if first in SELECTORS and not joined else ""
        raise InputError(f"unknown method {text!r}{hint}: {_choices(first, known_methods())}")
    if not joined:
        return Method(text, representation, REPRESENTATIONS[representation].selector)
    usable = [name for name, selector in SELECTORS.items() if selector.needs_rows or "similarity" in selector.needs]
    if second not in usable:
        raise InputError(f"unknown selector {second!r} in method {text!r}: {_choices(second, usable)}")
    if reason := misfit(representation, second):
        fitting = [name for name in REPRESENTATIONS if misfit(name, second) is None]
        raise InputError(f"method {text!r}: {reason}; join {second} with {' or '.join(fitting)}")
    return Method(text, representation, second)


def misfit(representation: str, selector: str) -> str | None:
    """Why the two do not go together; None where they do."""
    makes, by = REPRESENTATIONS[representation].makes, SELECTORS[selector]
    tells = {"scores": "scores of any size", "ranking": "one number a row"}.get(makes, "")
    if by.needs_rows and makes != "rows":
        return f"{selector} looks at feature rows, and {representation} has {tells} only"
    if by.distances and makes != "rows":
        return f"{selector} takes 1 − similarity for a distance, and {representation} has {tells}, no cosines"
    return None


def parse_selector(text: str) -> Method:
    """A selector for a similarity of one's own; InputError where it needs more than that."""
    usable = [name for name, selector in SELECTORS.items() if "similarity" in selector.needs]
    if text not in usable:
        raise InputError(f"method {text!r} cannot pick from a similarity alone: {_choices(text, usable)}")
    if SELECTORS[text].needs_rows:
        raise InputError(
            f"method {text!r} looks at the pool's feature rows too, which a similarity alone does not give; call "
            f"tamis.selectors.{text} with arrays of your own, or choose from "
            f"{', '.join(name for name in usable if not SELECTORS[name].needs_rows)}"
        )
    return Method(text, None, text)


def load(function: str) -> Any:
    """The function a "module:name" stands for."""
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)


def _choices(given: str, known: list[str]) -> str:
    near = difflib.get_close_matches(given, known, n=1)
    return f"choose from {', '.join(known)}" + (f" (did you mean {near[0]}?)" if near else "")
