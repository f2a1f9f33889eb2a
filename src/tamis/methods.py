"""The table of methods: what each name means, where its code is, what it needs. Imports nothing heavy."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from tamis.errors import InputError


@dataclass(frozen=True, slots=True)
class Selector:
    """`function` is "module:name"; `needs` what it is called with besides n_examples.

    `options` are what a user may set, each with the values it may have.
    """

    function: str
    needs: tuple[str, ...]
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Representation:
    """`selector`: its usual one. `function`: "module:name" of (target texts, pool texts) → similarity; where it is None
    the representation makes feature rows with a model and keeps them in a store.
    """

    selector: str
    function: str | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """A representation (None where the selector needs none) joined with a selector."""

    name: str
    representation: str | None
    selector: str


SELECTORS = {
    "top_k": Selector("tamis.selectors:top_k", ("similarity", "groups"), {"reduce": ("group_mean_max", "mean", "max")}),
    "round_robin": Selector("tamis.selectors:round_robin", ("similarity",)),
    "random": Selector("tamis.selectors:random", ("n_pool", "seed", "sources"), {"balanced": (True, False)}),
}

REPRESENTATIONS = {
    "gradient": Representation("top_k"),
    "bm25": Representation("top_k", "tamis.representations.lexical:bm25"),
}

ALIASES = {"less": "gradient"}


def known_methods() -> list[str]:
    """Every name `--method` takes alone; representations may also be joined, as in less+round_robin."""
    return [*ALIASES, *REPRESENTATIONS, *(name for name, s in SELECTORS.items() if "similarity" not in s.needs)]


def parse_method(text: str) -> Method:
    """`less`, `bm25+round_robin`, `random` …: a representation, a selector that needs none, or the two joined by +.

    Raises InputError that lists the choices and names the nearest.
    """
    first, joined, second = text.partition("+")
    if not joined and first in SELECTORS and "similarity" not in SELECTORS[first].needs:
        return Method(text, None, first)
    representation = ALIASES.get(first, first)
    if representation not in REPRESENTATIONS:
        raise InputError(f"unknown method {text!r}: {_choices(first, known_methods())}")
    if not joined:
        return Method(text, representation, REPRESENTATIONS[representation].selector)
    if second not in SELECTORS or "similarity" not in SELECTORS[second].needs:
        usable = [name for name, s in SELECTORS.items() if "similarity" in s.needs]
        raise InputError(f"unknown selector {second!r} in method {text!r}: {_choices(second, usable)}")
    return Method(text, representation, second)


def load(function: str) -> Any:
    """The function a "module:name" stands for."""
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)


def _choices(given: str, known: list[str]) -> str:
    near = difflib.get_close_matches(given, known, n=1)
    return f"choose from {', '.join(known)}" + (f" (did you mean {near[0]}?)" if near else "")
