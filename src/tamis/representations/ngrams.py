"""NGRAMS: an example's words and pairs of words, hashed into a row of any length; no model, some 25 µs a row."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.data.example import Example
from tamis.representations.lexical import WORD
from tamis.store import StoreDtype
from tamis.store.recipe import with_store_dtype

if TYPE_CHECKING:
    from tamis.representations.compute import BatchRows

_WORD = re.compile(WORD)


@dataclass(frozen=True, slots=True)
class Text:
    """What is hashed. Nothing is padded, so each text is as long as any other."""

    text: str
    n_tokens: int = 1
    n_supervised: int = 0  # there is no loss


@dataclass(frozen=True, slots=True)
class NgramRecipe:
    """Counts of the words and pairs of words of all turns, each added to one of `dim` buckets with a sign of its own.

    row[j] = Σ over n-grams g with h(g) = j of ξ(g) · count(g), where h and the sign ξ come from m, the 32-bit
    MurmurHash3 of the n-gram's UTF-8: h = |m| mod dim, ξ = 1 if m ≥ 0 else −1. The store scales it to unit. The signs
    make the inner product of two rows that of their counts, on average over hash functions. A word is what `dsir` takes
    for one; the roles of turns are not in the text, because every row has them. A row of n words has 2n − 1 n-grams: an
    odd number of signs, so that no row is zero.

    Source: Weinberger et al. 2009, Feature hashing for large scale multitask learning, arXiv 0902.2206; the n-grams are
    DSIR's, arXiv 2302.03169. By scikit-learn's HashingVectorizer.
    """

    dim: int
    store_dtype: StoreDtype = "float16"
    what: str = "sum of its n-grams"
    remedy: str = "use a smaller represent.dim or represent.shard_rows"

    def to_dicts(self) -> list[dict[str, Any]]:
        """See Recipe."""
        recipe = {"kind": "ngrams", "words": WORD, "lengths": [1, 2], "hash": "murmurhash3_32", "dim": self.dim}
        return [with_store_dtype(recipe, self.store_dtype)]

    def load(self, *, activation_checkpointing: bool) -> "BatchRows":
        """See Recipe."""
        from sklearn.feature_extraction.text import HashingVectorizer

        hashed = HashingVectorizer(
            n_features=self.dim, ngram_range=(1, 2), token_pattern=WORD, norm=None, dtype=np.float32
        )

        def batch_rows(items: Sequence[Text]) -> np.ndarray:
            rows: np.ndarray = hashed.transform(item.text for item in items).toarray()
            return rows

        return batch_rows

    def text(self, example: Example) -> Text | str:
        """The content of an example's turns as an item of this recipe, or the reason why it has none."""
        text = "\n".join(message.content for message in example.messages)
        return Text(text) if _WORD.search(text) else "no word in any of its turns"
