"""Dense retrieval: records whose vectors point where the query's vector points.

Letters in shape suffixes: Q queries, N records or texts, H the encoder's width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from hydra_ray.rows import Record, User

Floats = NDArray[np.floating]

Encode = Callable[[Sequence[str]], Floats]
"""Vectors (N, H) of texts, each of length 1; equal texts have equal vectors."""

Vectors = Mapping[str, Floats]
"""The encoder's vector (H) of each text, of length 1."""

NEAR_TEMPERATURE = 0.1
"""Of the weights that records get by the cosine of their input with a text."""


def indexed_text(record: Record) -> str:
    """The text by which a record is found."""
    return record.input or record.output


def nearness(text: str, records: Sequence[Record], vectors: Vectors) -> Floats:
    """Weight (N) of each record by how near its input is to a text, for the encoder; they sum to 1."""
    if not records:
        return np.zeros(0)
    cosines_N = np.stack([vectors[indexed_text(record)] for record in records]) @ vectors[text]
    return softmax(cosines_N / NEAR_TEMPERATURE)


def encode_ahead(users: Iterable[User], encode: Encode) -> Encode:
    """`encode` for everything that ranking the records of `users` asks for, encoded here in one call."""
    texts = dict.fromkeys(
        text for user in users for text in (*map(indexed_text, user.history), *(query.input for query in user.queries))
    )
    places = {text: place for place, text in enumerate(texts)}
    vectors_NH = encode(list(texts))
    return lambda wanted: vectors_NH[[places[text] for text in wanted]]


def cosines(queries: Sequence[str], texts: Sequence[str], encode: Encode) -> Floats:
    """Cosine (Q, N) of each query with each text; all are encoded in one call."""
    vectors_NH = encode([*texts, *queries])
    # Not a matrix product: its blocks round differently, so that equal texts would not always be equally good.
    return np.einsum("qh,nh->qn", vectors_NH[len(texts) :], vectors_NH[: len(texts)])
