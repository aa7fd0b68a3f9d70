"""What a text says about its label, given who wrote it: a conditional logit over what the user's other records show.

What the text says whoever wrote it is one input among others; how often the user gives a label, what the user gave to
texts like this one, and how far the user's labels are from what their texts say (a strict critic's residual is negative
throughout) are the others. Nothing of it asks the generator, so that all records teach it and not only pseudo-queries.

Letters in shape suffixes: N records, L labels, I inputs, K folds of users.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from hydra_ray.config import Task
from hydra_ray.retrieve.dense import Floats
from hydra_ray.scorer.linear.groups import GroupTable, Ints, starts_of
from hydra_ray.scorer.linear.pooled import PooledRegression
from hydra_ray.scorer.linear.prior import within_group_scales
from hydra_ray.scorer.linear.shared import NUM_USER_FOLDS

PRIOR_RECORDS = 2.0
"""As many imagined records, shared by all labels alike, stand beside the user's own."""
PRIOR_VARIANCE = 0.5
"""Of the weights of inputs that vary by 1 within a query."""
_FLOOR = 0.02
"""Added to shares before their logarithm is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One text of a user, and the records that it may look at."""

    text_logs_L: Floats
    """What the text says whoever wrote it: log probabilities."""
    record_logs_NL: Floats
    """The same of each record."""
    record_labels_N: Ints
    """The label that each record has."""
    near_N: Floats
    """Weight of each record by how near it is to the text; they sum to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnLabels:
    """One set of weights for each fold of users, fitted on the records of the users of the other folds."""

    weights_KI: Floats

    def log_probabilities(self, fold: int, evidence: Evidence, task: Task) -> Floats:
        """Log probability (L) of each label for a text of a user of a fold."""
        return log_softmax(label_inputs(evidence, task) @ self.weights_KI[fold])


def fit_own_labels(task: Task, evidences: Iterable[Evidence], labels_N: Ints, fold_N: Ints) -> OwnLabels:
    """The weights that records teach, each of them asked as if its label were not known.

    Args:
        evidences: of each record, which is not among the records that it may look at; they are not held.
        labels_N: the records' labels.
        fold_N: of each record's user.
    """
    inputs_NLI = np.empty((len(labels_N), *label_inputs(_nothing(task), task).shape))
    for place, evidence in enumerate(evidences):
        inputs_NLI[place] = label_inputs(evidence, task)
    weights = [_fit(inputs_NLI[fold_N != fold], labels_N[fold_N != fold]) for fold in range(NUM_USER_FOLDS)]
    return OwnLabels(weights_KI=np.stack(weights))


def _nothing(task: Task) -> Evidence:
    """About a text that says nothing, of a user without records."""
    num_labels = len(task.labels)
    return Evidence(
        text_logs_L=np.full(num_labels, -np.log(num_labels)),
        record_logs_NL=np.zeros((0, num_labels)),
        record_labels_N=np.zeros(0, np.int64),
        near_N=np.zeros(0),
    )


def _fit(inputs_NLI: Floats, labels_N: Ints) -> Floats:
    """The weights (I) that make the records' labels likely; none where there are no records."""
    num_records, num_labels, num_inputs = inputs_NLI.shape
    if not num_records:
        return np.zeros(num_inputs)
    targets_N = np.eye(num_labels)[labels_N].ravel()
    table = GroupTable(
        features_ND=inputs_NLI.reshape(-1, num_inputs),
        targets_N=targets_N,
        qualities_N=targets_N,
        group_starts=starts_of([num_labels] * num_records),
        user_starts=starts_of([num_records]),
    )
    scales_I = within_group_scales(table)
    scaled = table.scaled(scales_I)
    regression = PooledRegression(scaled, scaled.features_ND, np.zeros(len(targets_N)))
    variances_I = np.full(num_inputs, PRIOR_VARIANCE)
    return regression.code(variances_I, np.ones(num_records), np.zeros(num_inputs)) / scales_I


def label_inputs(evidence: Evidence, task: Task) -> Floats:
    """What is known of each label (L, I): its share of the user's records and of those near the text, how much more
    often the user gives it than texts say, and, of a rating, how far it is from the user's ratings."""
    num_labels = len(task.labels)
    given_NL = np.eye(num_labels)[evidence.record_labels_N]
    num_shown = len(given_NL) + PRIOR_RECORDS
    shares_L = (given_NL.sum(axis=0) + PRIOR_RECORDS / num_labels) / num_shown
    residuals_NL = given_NL - np.exp(evidence.record_logs_NL)
    residuals_L, near_L = residuals_NL.sum(axis=0) / num_shown, evidence.near_N @ given_NL
    columns = [
        evidence.text_logs_L,
        np.log(shares_L),
        near_L,
        np.log(near_L + _FLOOR),
        residuals_L,
        evidence.near_N @ residuals_NL,
        given_NL.any(axis=0).astype(float),
        *np.eye(num_labels),  # each label's own bias
    ]
    if task.kind == "rating":
        columns += _rating_columns(task, shares_L, near_L, residuals_L, np.exp(evidence.text_logs_L))
    return np.stack(columns, axis=1)


def _rating_columns(task: Task, shares_L: Floats, near_L: Floats, residuals_L: Floats, text_L: Floats) -> list[Floats]:
    """Ratings are numbers: which side of the scale speaks for each, and how far each is from what was usual."""
    values_L = np.array([float(label) for label in task.labels])
    ratings_L = 2 * (values_L - values_L.min()) / np.ptp(values_L) - 1
    mean, near = ratings_L @ shares_L, ratings_L @ near_L
    sides = [ratings_L * side for side in (mean, near, ratings_L @ residuals_L, ratings_L @ text_L)]
    spread = ratings_L**2 @ shares_L - mean**2
    return [*sides, ratings_L**2 * spread, abs(ratings_L - mean), (ratings_L - mean) ** 2, abs(ratings_L - near)]
