"""Hashed n-grams against their formula, written down directly, and through the pipeline's own filling of shards."""

import json
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils import murmurhash3_32

from tamis.data.example import Example, Message
from tamis.progress import Told
from tamis.representations.compute import fill_shards
from tamis.representations.ngrams import NgramRecipe, Text
from tamis.store import FeatureStore

CONTENTS = [
    ("the quick brown fox", "jumps over the lazy dog."),
    ("The FOX; the fox!", "the THE the"),
    ("été à la mer", "夏 ☀ 2024"),
    ("a", "b"),
]


def example(*contents: str) -> Example:
    roles = ["user", "assistant"] * len(contents)
    return Example.of([Message(role, content) for role, content in zip(roles, contents, strict=False)], source="s")


def by_hand(text: str, dim: int) -> np.ndarray:
    words = re.findall(r"\w+|[^\w\s]+", text.lower())
    row = np.zeros(dim)
    for ngram, count in Counter([*words, *map(" ".join, pairwise(words))]).items():
        hashed = murmurhash3_32(ngram.encode(), seed=0)
        row[abs(hashed) % dim] += count if hashed >= 0 else -count
    return row


def rows(recipe: NgramRecipe, texts: list[str]) -> np.ndarray:
    return recipe.load(activation_checkpointing=False)([Text(text) for text in texts])


@pytest.mark.parametrize("dim", [1, 64, 8192])
def test_rows_are_the_formula_s(dim: int) -> None:
    texts = ["\n".join(contents) for contents in CONTENTS]
    found = rows(NgramRecipe(dim), texts)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [by_hand(text, dim) for text in texts])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=4))
def test_rows_of_any_text_are_the_formula_s(texts: list[str]) -> None:
    np.testing.assert_array_equal(rows(NgramRecipe(16), texts), [by_hand(text, 16) for text in texts])


def test_roles_are_no_words_and_turns_are_parted() -> None:
    recipe = NgramRecipe(64)
    text = recipe.text(example("one two", "three"))
    assert isinstance(text, Text)
    assert text.text == "one two\nthree"
    assert recipe.text(example("one two\nthree")) == text


def test_an_example_without_a_word_has_a_reason() -> None:
    assert NgramRecipe(64).text(example(" ", "\n\t")) == "no word in any of its turns"


def test_shards_hold_unit_rows_norms_and_the_skipped(tmp_path: Path) -> None:
    recipe = NgramRecipe(32)
    [made_by] = recipe.to_dicts()
    store = FeatureStore.open(tmp_path, made_by)
    shard = [example(*contents) for contents in [*CONTENTS, (" ", " ")]]
    work = fill_shards(recipe, [store], recipe.text, batch_tokens=2, activation_checkpointing=False)
    assert work(shard, Told()) == 5
    expected = np.array([by_hand("\n".join(contents), 32) for contents in CONTENTS])
    norms = np.linalg.norm(expected, axis=1)
    ids = [e.id for e in shard[:4]]
    np.testing.assert_allclose(store.norms(ids), norms, rtol=1e-6)
    np.testing.assert_allclose(store.rows(ids), expected / norms[:, None], atol=1e-3)
    assert store.skipped() == {shard[4].id: "no word in any of its turns"}
    assert work(shard, Told()) == 0  # it is there


@given(st.lists(st.sampled_from(["a", "b", "c", "!", "été"]), max_size=6), st.integers(1, 4))
def test_no_row_cancels_out(words: list[str], dim: int) -> None:
    """An odd number of n-grams, each with +1 or -1, cannot leave zero in every bucket."""
    [row] = rows(NgramRecipe(dim), [" ".join(words)])
    assert row.any() == bool(words)


def test_other_processes_make_the_same_rows_and_recipe_without_torch() -> None:
    script = """
import json, sys
from tamis.representations.ngrams import NgramRecipe, Text
recipe = NgramRecipe(8)
row = recipe.load(activation_checkpointing=False)([Text("the quick brown fox")])[0]
print(json.dumps([row.tolist(), recipe.to_dicts(), "torch" in sys.modules]))
    """
    said = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout for _ in "ab"
    ]
    assert said[0] == said[1]
    row, recipe, has_torch = json.loads(said[0])
    assert row == by_hand("the quick brown fox", 8).tolist()
    assert recipe == NgramRecipe(8).to_dicts()
    assert not has_torch
