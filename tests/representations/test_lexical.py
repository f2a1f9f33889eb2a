"""BM25 against its formula, written down directly."""

import math
import re
from collections import Counter

import numpy as np
import pytest

from tamis.representations.lexical import bm25

POOL = [
    "user: the quick brown fox\nassistant: jumps over the lazy dog",
    "The fox; the FOX, the fox!",
    "a b c d dog",
    "été à la mer, été 2024",
    "",
    "dog dog dog dog dog dog dog dog dog dog fox",
]


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
    [found] = bm25([query], POOL)
    assert np.allclose(found, by_hand(query, POOL), atol=1e-5)


def test_each_target_is_a_query_of_its_own() -> None:
    queries = ["the fox", "dog", "nothing known"]
    found = np.array(list(bm25(queries, POOL)))
    assert (found.shape, found.dtype) == ((3, 6), np.float32)
    assert np.array_equal(found, np.concatenate([list(bm25([query], POOL)) for query in queries]))
    assert not found[2].any()
