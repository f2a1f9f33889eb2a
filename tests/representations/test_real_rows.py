"""RDS+ and embeddings of real rows: unchanged by padding, batch composition and order, to rounding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.config import load_config
from tamis.inputs import Inputs
from tamis.representations.compute import Recipe, rows_in_batches, unit_rows
from tamis.representations.recipes import ForwardRecipe
from tamis.representations.sentence import SentenceRecipe


@pytest.fixture(scope="module")
def inputs(shared: Path) -> Inputs:
    settings = {
        "data.pool": str(shared / "data" / "pool-5k.jsonl.gz"),
        "data.limit": 300,
        "model.name": str(shared / "models" / "tiny-llama"),
        "model.max_tokens": 256,
    }
    return Inputs(load_config(None, settings), lambda _: None)


@pytest.fixture(scope="module", params=["rds", "embed"])
def rows(request: pytest.FixtureRequest, inputs: Inputs, encoder: str) -> tuple[Recipe, list[Any]]:
    """A recipe and what its rows are made of."""
    pool = list(inputs.pool)[::7]
    if request.param == "embed":
        recipe = SentenceRecipe.of(encoder, device="cpu", trust_remote_code=False, store_dtype="float16")
        return recipe, [recipe.words(e.text) for e in pool]
    encoded = [e for e in map(inputs.encode, pool) if not isinstance(e, str)]
    forward = ForwardRecipe("rds", inputs.source, inputs.base_digest, 256, inputs.chat.fingerprint, 256, inputs.dtype)
    return forward, encoded


def test_rows_depend_on_their_example_alone(rows: tuple[Recipe, list[Any]]) -> None:
    recipe, items = rows
    compute = recipe.load(activation_checkpointing=False)
    rng = np.random.default_rng(0)

    def unit(batches: list[list[int]]) -> np.ndarray:
        return unit_rows(rows_in_batches(compute, items, batches, lambda _: None))[0]

    n = len(items)
    alone = unit([[i] for i in range(n)])
    for size in (3, 16, n):
        order = rng.permutation(n).tolist()
        batches = [order[start : start + size] for start in range(0, n, size)]
        np.testing.assert_allclose(unit(batches), alone, atol=2e-6)
