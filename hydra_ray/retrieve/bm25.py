"""BM25 over one user's records: the ranking of rank_bm25's BM25Okapi, vectorized over the records.

score(q, d) = sum_w idf(w) * f(w, d) * (k1 + 1) / (f(w, d) + k1 * (1 - b + b * length(d) / mean length))
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from hydra_ray.config import RetrieveConfig
from hydra_ray.lamp.word_overlap import words


class BM25:
    """Index of a few texts (Robertson and Zaragoza 2009; the Okapi variant with a floor for negative idf)."""

    def __init__(self, texts: Sequence[str], config: RetrieveConfig):
        from sklearn.feature_extraction.text import CountVectorizer

        self._num_texts = len(texts)
        self._vectorizer: Any = CountVectorizer(analyzer=cast(Any, words))
        try:
            counts: Any = self._vectorizer.fit_transform(texts).astype(np.float64)
        except ValueError:  # no text has a word
            self._weights = None
            return
        lengths = np.asarray(counts.sum(axis=1)).ravel()
        frequencies = np.bincount(counts.indices, minlength=counts.shape[1])
        idf = np.log(self._num_texts - frequencies + 0.5) - np.log(frequencies + 0.5)
        idf = np.where(idf < 0, config.epsilon * idf.mean(), idf)
        rows = np.repeat(np.arange(self._num_texts), np.diff(counts.indptr))
        norms = config.k1 * (1 - config.b + config.b * lengths[rows] / lengths.mean())
        counts.data = idf[counts.indices] * counts.data * (config.k1 + 1) / (counts.data + norms)
        self._weights = counts

    def scores(self, query: str) -> np.ndarray:
        """Return the score of every text for `query`, in the order of the texts."""
        if self._weights is None:
            return np.zeros(self._num_texts)
        return np.asarray((self._weights @ self._vectorizer.transform([query]).T.astype(np.float64)).todense()).ravel()
