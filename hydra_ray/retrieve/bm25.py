"""BM25 over one user's records: the ranking of rank_bm25's BM25Okapi, vectorized over the records and the queries.

score(q, d) = sum_w idf(w) * f(w, d) * (k1 + 1) / (f(w, d) + k1 * (1 - b + b * length(d) / mean length))

Shape suffixes: N texts, V words of all texts, Q queries, P pairs of a text and one of its distinct words.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from scipy.sparse import csr_array

from hydra_ray.config import RetrieveConfig
from hydra_ray.lamp.word_overlap import words


class BM25:
    """Index of a few texts (Robertson and Zaragoza 2009; the Okapi variant with a floor for negative idf)."""

    def __init__(self, texts: Sequence[str], config: RetrieveConfig):
        by_text = [words(text) for text in texts]
        vocabulary = sorted(set(chain.from_iterable(by_text)))
        self._places = {word: place for place, word in enumerate(vocabulary)}
        shape = num_texts, num_words = len(texts), len(vocabulary)
        if not vocabulary:
            self._weights_NV = csr_array(shape)
            return
        lengths_N = np.array([len(each) for each in by_text])
        tokens = np.fromiter(map(self._places.__getitem__, chain.from_iterable(by_text)), np.int64, lengths_N.sum())
        keys_P, counts_P = np.unique(
            np.repeat(np.arange(num_texts), lengths_N) * num_words + tokens, return_counts=True
        )
        rows_P, columns_P = np.divmod(keys_P, num_words)
        frequencies_V = np.bincount(columns_P, minlength=num_words)
        idf_V = np.log(num_texts - frequencies_V + 0.5) - np.log(frequencies_V + 0.5)
        idf_V = np.where(idf_V < 0, config.epsilon * idf_V.mean(), idf_V)
        norms_P = config.k1 * (1 - config.b + config.b * lengths_N[rows_P] / lengths_N.mean())
        weights_P = idf_V[columns_P] * counts_P * (config.k1 + 1) / (counts_P + norms_P)
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows_P, minlength=num_texts))])
        self._weights_NV = csr_array((weights_P, columns_P, starts), shape=shape)

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """Return the score of every text for each query (Q, N), in the order of the texts."""
        counts_VQ = np.zeros((len(self._places), len(queries)))
        for place, query in enumerate(queries):
            known = [self._places[word] for word in words(query) if word in self._places]
            np.add.at(counts_VQ, (known, place), 1)
        return (self._weights_NV @ counts_VQ).T
