"""Lexical similarity: no model, only words. BM25 by the bm25s library, hashed n-grams by scikit-learn.

Both write the similarity into `out`, float32 `[target, pool]`, which may be memory-mapped.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float32

_N_BUCKETS = 10_000  # of the paper's released code, as are single words and pairs
WORD = r"\w+|[^\w\s]+"
_CHUNK = 10_000  # texts whose counts exist at once


def bm25(target_texts: Sequence[str], pool_texts: Sequence[str], out: Float32[np.ndarray, "target pool"]) -> None:
    """For each target text as the query, the BM25 score (Lucene's form, k1 1.5, b 0.75) of every pool text.

    Words are runs of at least two word characters, lower-cased; no stop words, no stemming, so that no language is
    preferred. It depends on the whole pool (document frequencies), so it is a similarity, not rows.
    Source: Lù, BM25S, arXiv 2407.03618.
    """
    import bm25s

    tokens = bm25s.tokenize(pool_texts, stopwords=None, show_progress=False)
    retriever = bm25s.BM25()
    retriever.index(tokens, show_progress=False)
    queries = bm25s.tokenize(list(target_texts), stopwords=None, return_ids=False, show_progress=False)
    for row, words in enumerate(queries):
        known = [word for word in words if word in retriever.vocab_dict]
        out[row] = retriever.get_scores(known) if known else 0


def dsir(
    target_texts: Sequence[str],
    pool_texts: Sequence[str],
    out: Float32[np.ndarray, "target pool"],
    groups: Sequence[str | None],
    smoothing: float,
) -> None:
    """Importance of every pool text under the distribution of the target's group: Σ counts · log(p_group / p_pool).

    The counts are those of a text's words and pairs of words (lower-cased; a run of punctuation is a word), hashed into
    10,000 buckets. p_pool is the pool's distribution over buckets
    (each counted once more), p_group that of the target texts of one group (of
    all where there are no groups), each target text having its group's row. The
    pool's texts are read twice, a few thousand at a time.

    Source: DSIR, arXiv 2302.03169. Departures: the highest are taken, not sampled by Gumbel noise; p_group is
    (counts + smoothing · p_pool) / (all counts + smoothing), because a handful of target texts has few of the buckets,
    and with the released code's + 1e-8 a text's importance would be how few n-grams it has that the target lacks.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    hashed = HashingVectorizer(
        n_features=_N_BUCKETS, ngram_range=(1, 2), token_pattern=WORD, alternate_sign=False, norm=None
    )

    def counts() -> Iterator[Any]:
        texts = iter(pool_texts)
        while chunk := list(islice(texts, _CHUNK)):
            yield hashed.transform(chunk)

    in_pool = np.zeros(_N_BUCKETS)
    for chunk in counts():
        in_pool += np.asarray(chunk.sum(axis=0)).ravel()
    p_pool = (in_pool + 1) / (in_pool.sum() + _N_BUCKETS)
    names = sorted(set(groups), key=str)
    in_target = hashed.transform(target_texts)
    log_ratio = np.empty((_N_BUCKETS, len(names)), np.float32)
    for column, name in enumerate(names):
        mine = np.asarray(in_target[[group == name for group in groups]].sum(axis=0)).ravel()
        p_group = (mine + smoothing * p_pool) / (mine.sum() + smoothing)
        log_ratio[:, column] = np.log(p_group / p_pool)
    column_of = [names.index(group) for group in groups]
    start = 0
    for chunk in counts():
        out[:, start : start + chunk.shape[0]] = (chunk @ log_ratio)[:, column_of].T
        start += chunk.shape[0]
