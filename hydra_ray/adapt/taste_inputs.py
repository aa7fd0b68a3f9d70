"""Inputs of a choice's candidates that read the user's records: what the user chose, and what was rejected.

Shape suffixes: A choices that are asked, C their candidates, N records, T distinct candidates of records, H the
encoder's width, I inputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from hydra_ray.adapt.user_label_model import PRIOR_RECORDS
from hydra_ray.lamp.choices import Choice
from hydra_ray.retrieve.dense import NEAR_TEMPERATURE, Floats, Vectors
from hydra_ray.rows import Record
from hydra_ray.scorer.linear.groups import Ints

_LENGTH_SCALE = 100.0
"""Number of characters of a candidate that counts as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taste:
    """What a user's records show of the candidates in them."""

    vectors_TH: Floats
    lengths_T: Floats
    outcomes_NT: Floats
    """1 of the chosen candidate of a record; of the rejected ones together -1."""
    surprises_NT: Floats
    """The same, weighted by how little the texts alone lead to expect it."""

    @classmethod
    def of(cls, records: Sequence[Record], scores: Mapping[str, Floats], vectors: Vectors) -> "Taste":
        """Return the taste that some records show.

        Args:
            scores: score of each candidate by its text alone (1).
            vectors: vector of each candidate.
        """
        choices = [Choice.of_text(record.input).candidates for record in records]
        texts = list(dict.fromkeys(text for candidates in choices for text in candidates))
        places = {text: place for place, text in enumerate(texts)}
        outcomes_NT, surprises_NT = np.zeros((len(records), len(texts))), np.zeros((len(records), len(texts)))
        for number, (record, candidates) in enumerate(zip(records, choices, strict=True)):
            own = [places[each] for each in candidates]
            outcomes_NT[number, own] = -1 / (len(candidates) - 1)
            outcomes_NT[number, places[record.output]] = 1
            shares = softmax([scores[each][0] for each in candidates])
            surprises_NT[number] = outcomes_NT[number] * (1 - shares[candidates.index(record.output)])
        width = len(next(iter(vectors.values())))
        return cls(
            vectors_TH=np.array([vectors[text] for text in texts]).reshape(-1, width),
            lengths_T=lengths_of(texts),
            outcomes_NT=outcomes_NT,
            surprises_NT=surprises_NT,
        )

    def inputs(
        self, asked_C: Ints, texts_C: Sequence[str], scores_C: Floats, vectors: Vectors, shown_AN: Floats
    ) -> Floats:
        """Return the inputs of candidates (C, I): the text's score and length; how alike the candidate is to what was
        chosen rather than rejected, over all records and over those near it, by outcomes and by surprises; and the same
        of its length.

        Args:
            asked_C: choice that each candidate belongs to.
            shown_AN: 1 for each record that a choice may use, else 0.
        """
        vectors_CH = np.array([vectors[text] for text in texts_C]).reshape(-1, self.vectors_TH.shape[1])
        lengths_C, cosines_CT = lengths_of(texts_C), vectors_CH @ self.vectors_TH.T
        near_CT = np.exp((cosines_CT - 1) / NEAR_TEMPERATURE)
        num_shown_A = shown_AN.sum(axis=1) + PRIOR_RECORDS
        seen_CT = (shown_AN @ np.abs(self.outcomes_NT))[asked_C]
        total_C = np.maximum((near_CT * seen_CT).sum(axis=1), 1e-300)
        columns = [scores_C, lengths_C]
        for outcomes_NT in (self.outcomes_NT, self.surprises_NT):
            shown_AT = shown_AN @ outcomes_NT
            means_CT = (shown_AT / num_shown_A[:, None])[asked_C]
            columns += [(cosines_CT * means_CT).sum(axis=1), (near_CT * shown_AT[asked_C]).sum(axis=1) / total_C]
        longer_A = (shown_AN @ self.outcomes_NT @ self.lengths_T) / num_shown_A
        return np.stack([*columns, lengths_C * longer_A[asked_C]], axis=1)


def lengths_of(texts: Sequence[str]) -> Floats:
    """Return the lengths of texts on a logarithmic scale."""
    return np.log1p(np.array([len(text) for text in texts], np.float64) / _LENGTH_SCALE)
