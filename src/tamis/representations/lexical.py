"""Lexical similarity: no model, only words. BM25 by the bm25s library."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32


def bm25(target_texts: Sequence[str], pool_texts: Sequence[str]) -> Iterator[Float32[np.ndarray, " pool"]]:
    """For each target text as the query, the BM25 score (Lucene's form, k1 1.5, b 0.75) of every pool text.

    Words are runs of at least two word characters, lower-cased; no stop words, no stemming, so that no language is
    preferred. It depends on the whole pool (document frequencies), so it is a similarity, not rows.
    Source: Lù, BM25S, arXiv 2407.03618.
    """
    import bm25s

    tokens = bm25s.tokenize(list(pool_texts), stopwords=None, show_progress=False)
    retriever = bm25s.BM25()
    retriever.index(tokens, show_progress=False)
    queries = bm25s.tokenize(list(target_texts), stopwords=None, return_ids=False, show_progress=False)
    for words in queries:
        known = [word for word in words if word in retriever.vocab_dict]
        yield retriever.get_scores(known) if known else np.zeros(len(pool_texts), np.float32)
