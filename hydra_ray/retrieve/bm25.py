"""BM25 over one user's records: the ranking of rank_bm25's BM25Okapi, vectorized over the records and the queries.

score(q, d) = sum_w idf(w) * f(w, d) * (k1 + 1) / (f(w, d) + k1 * (1 - b + b * length(d) / mean length))

Shape suffixes: N texts, V words of all texts, Q queries, P pairs of a text and one of its distinct words.
"""

from array import array
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, count

import numpy as np
from scipy.sparse import csr_array

from hydra_ray.config import RetrieveConfig
from hydra_ray.lamp.word_overlap import words


class BM25:
    """Index of a few texts (Robertson and Zaragoza 2009; the Okapi variant with a floor for negative idf)."""

    def __init__(self, texts: Sequence[str], config: RetrieveConfig):
        by_text = [words(text) for text in texts]
        # Words are numbered as they come, by one look-up each.
        numbers: defaultdict[str, int] = defaultdict(count().__next__)
        tokens = np.array(array("q", list(map(numbers.__getitem__, chain.from_iterable(by_text)))))
        self._places = dict(numbers)
        shape = num_texts, num_words = len(texts), len(numbers)
        if not num_words:
            self._weights_NV = csr_array(shape)
            return
        lengths_N = np.array(list(map(len, by_text)))
        keys = np.sort(np.repeat(np.arange(num_texts) * num_words, lengths_N) + tokens)
        firsts_P = np.flatnonzero(np.diff(keys, prepend=-1))
        counts_P, keys_P = np.diff(firsts_P, append=len(keys)), keys[firsts_P]
        rows_P, columns_P = np.divmod(keys_P, num_words)
        frequencies_V = np.bincount(columns_P)
        idf_V = np.log(num_texts - frequencies_V + 0.5) - np.log(frequencies_V + 0.5)
        idf_V = np.where(idf_V < 0, config.epsilon * idf_V.mean(), idf_V)
        norms_N = config.k1 * (1 - config.b + config.b * lengths_N / lengths_N.mean())
        weights_P = idf_V[columns_P] * counts_P * (config.k1 + 1) / (counts_P + norms_N[rows_P])
        starts = np.searchsorted(rows_P, np.arange(num_texts + 1))
        self._weights_NV = csr_array((weights_P, columns_P, starts), shape=shape)

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """Return the score of every text for each query (Q, N), in the order of the texts."""
        num_queries, num_words = len(queries), len(self._places)
        known = [
            place * num_words + self._places[word]
            for place, query in enumerate(queries)
            for word in words(query)
            if word in self._places
        ]
        counts_QV = np.bincount(np.array(known, np.int64), minlength=num_queries * num_words)
        return (self._weights_NV @ counts_QV.reshape(num_queries, num_words).T.astype(np.float64)).T
