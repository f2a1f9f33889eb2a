"""Lexical similarity: no model, only words. BM25 by the bm25s library."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32


def bm25(target_texts: Sequence[str], pool_texts: Sequence[str]) -> Float32[np.ndarray, "target pool"]:
    """BM25 score (Lucene's form, k1 1.5, b 0.75) of every pool text for every target text as the query.

    Words are runs of at least two word characters, lower-cased; no stop words, no stemming, so that no language is
    preferred. It depends on the whole pool (document frequencies), so it is a similarity, not rows.
    Source: Lù, BM25S, arXiv 2407.03618.
    """
    import bm25s

    tokens = bm25s.tokenize(list(pool_texts), stopwords=None, show_progress=False)
    retriever = bm25s.BM25()
    retriever.index(tokens, show_progress=False)
    queries = bm25s.tokenize(list(target_texts), stopwords=None, return_ids=False, show_progress=False)
    out = np.zeros((len(target_texts), len(pool_texts)), dtype=np.float32)
    for row, words in enumerate(queries):
        known = [word for word in words if word in retriever.vocab_dict]
        if known:
            out[row] = retriever.get_scores(known)
    return out
