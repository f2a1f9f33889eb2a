"""BM25 and hashed n-grams against their formulas, written down directly."""

import math
import re
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tamis.representations import lexical
from tamis.representations.lexical import bm25, dsir

POOL = [
    "user: the quick brown fox\nassistant: jumps over the lazy dog",
    "The fox; the FOX, the fox!",
    "a b c d dog",
    "été à la mer, été 2024",
    "",
    "dog dog dog dog dog dog dog dog dog dog fox",
]


def filled(function: Any, targets: list[str], *more: Any) -> np.ndarray:
    out = np.full((len(targets), len(POOL)), np.nan, np.float32)
    function(targets, POOL, out, *more)
    return out


def by_hand(query: str, pool: list[str], k1: float = 1.5, b: float = 0.75) -> list[float]:
    """Lucene's form: Σ over the query's words, as often as they are there, of idf · tf / (tf + k1·(1 − b + b·l/l̄))."""
    documents = [re.findall(r"\b\w\w+\b", text.lower()) for text in pool]
    mean_length = sum(map(len, documents)) / len(documents)
    scores = [0.0] * len(pool)
    for word in re.findall(r"\b\w\w+\b", query.lower()):
        n_with = sum(word in document for document in documents)
        idf = math.log(1 + (len(pool) - n_with + 0.5) / (n_with + 0.5))
        for position, document in enumerate(documents):
            tf = Counter(document)[word]
            scores[position] += idf * tf / (tf + k1 * (1 - b + b * len(document) / mean_length)) if n_with else 0
    return scores


@pytest.mark.parametrize("query", ["the fox", "dog fox dog", "été", "unknown words dog", "a b", "", "user"])
def test_scores_are_the_formulas(query: str) -> None:
    [found] = filled(bm25, [query])
    assert np.allclose(found, by_hand(query, POOL), atol=1e-5)


def test_each_target_is_a_query_of_its_own() -> None:
    queries = ["the fox", "dog", "nothing known"]
    found = filled(bm25, queries)
    assert (found.shape, found.dtype) == ((3, 6), np.float32)
    assert np.array_equal(found, np.concatenate([filled(bm25, [query]) for query in queries]))
    assert not found[2].any()


# ---- hashed n-grams ------------------------------------------------------------------------------------------------


def ngrams(text: str) -> list[str]:
    words = re.findall(r"\w+|[^\w\s]+", text.lower())
    return words + [f"{a} {b}" for a, b in pairwise(words)]


def importance(targets: list[str], pool: list[str], smoothing: float) -> list[float]:
    """The formula over n-grams themselves: no two of these small texts' n-grams share a bucket."""
    in_pool, in_target = (Counter(n for text in texts for n in ngrams(text)) for texts in (pool, targets))
    n_pool, n_target = in_pool.total() + 10_000, in_target.total() + smoothing

    def log_ratio(ngram: str) -> float:
        p_pool = (in_pool[ngram] + 1) / n_pool
        return math.log((in_target[ngram] + smoothing * p_pool) / n_target / p_pool)

    return [sum(map(log_ratio, ngrams(text))) for text in pool]


@pytest.mark.parametrize("smoothing", [0.5, 100.0, 10_000.0])
def test_importance_is_the_formulas(smoothing: float) -> None:
    found = filled(dsir, ["the fox", "The dog, the dog."], [None, None], smoothing)
    assert np.allclose(found[0], importance(["the fox", "The dog, the dog."], POOL, smoothing), atol=1e-4)
    assert np.array_equal(*found)  # one group: one distribution


def test_each_group_has_its_distribution_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, groups = ["the fox", "été", "a fox jumps"], ["animals", "seasons", "animals"]
    found = filled(dsir, targets, groups, 100.0)
    assert np.allclose(found[0], importance(["the fox", "a fox jumps"], POOL, 100.0), atol=1e-4)
    assert np.allclose(found[1], importance(["été"], POOL, 100.0), atol=1e-4)
    assert np.array_equal(found[0], found[2])
    monkeypatch.setattr(lexical, "_CHUNK", 2)
    assert np.allclose(found, filled(dsir, targets, groups, 100.0), atol=1e-5)
