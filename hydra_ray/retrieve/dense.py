"""Dense retrieval: cosine similarity of the encoder's vectors of query and records.

Shape suffixes: Q queries, N records or texts, H the encoder's width.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from hydra_ray.rows import Record, User

Floats = NDArray[np.floating]

Encode = Callable[[Sequence[str]], Floats]
"""Function from texts to unit vectors (N, H); equal texts have equal vectors."""

Vectors = Mapping[str, Floats]
"""Unit vector (H) of each text."""

NEAR_TEMPERATURE = 0.1
"""Temperature of the softmax over records' cosines with a text."""


def indexed_text(record: Record) -> str:
    """Return the text by which a record is found."""
    return record.input or record.output


def nearness(text: str, records: Sequence[Record], vectors: Vectors) -> Floats:
    """Return softmax(cosines of the records' indexed texts with `text` / NEAR_TEMPERATURE) (N)."""
    if not records:
        return np.zeros(0)
    cosines_N = np.stack([vectors[indexed_text(record)] for record in records]) @ vectors[text]
    return softmax(cosines_N / NEAR_TEMPERATURE)


def each_nearness(records: Sequence[Record], vectors: Vectors) -> Iterator[Floats]:
    """Yield for each record the nearness of all others to its text (N - 1)."""
    if not records:
        return
    vectors_NH = np.stack([vectors[indexed_text(record)] for record in records])
    # All rows but one, which differ by one row from record to record: a product with all rows would round differently.
    others_NH = vectors_NH[1:].copy()
    for place, vector_H in enumerate(vectors_NH):
        if place:
            others_NH[place - 1] = vectors_NH[place - 1]
        yield softmax(others_NH @ vector_H / NEAR_TEMPERATURE) if len(others_NH) else np.zeros(0)


def encode_ahead(users: Iterable[User], encode: Encode) -> Encode:
    """Return an encoder with all texts that ranking the records of `users` needs, encoded here in one call."""
    texts = dict.fromkeys(
        text for user in users for text in (*map(indexed_text, user.history), *(query.input for query in user.queries))
    )
    places = {text: place for place, text in enumerate(texts)}
    vectors_NH = encode(list(texts))
    return lambda wanted: vectors_NH[[places[text] for text in wanted]]


def encode_besides(known: Vectors, encode: Encode) -> Encode:
    """Return an encoder that takes the vectors of known texts, and encodes all others in one call."""

    def encoded(texts: Sequence[str]) -> Floats:
        new = [text for text in texts if text not in known]
        added = dict(zip(new, encode(new), strict=True)) if new else {}
        return np.stack([added[text] if text in added else known[text] for text in texts]) if texts else encode(texts)

    return encoded if known else encode


def cosines(queries: Sequence[str], texts: Sequence[str], encode: Encode) -> Floats:
    """Return the cosine of each query with each text (Q, N); all are encoded in one call."""
    vectors_NH = encode([*texts, *queries])
    # A matrix product is blocked and rounds differently, so that equal texts might get different scores.
    return np.einsum("qh,nh->qn", vectors_NH[len(texts) :], vectors_NH[: len(texts)])
