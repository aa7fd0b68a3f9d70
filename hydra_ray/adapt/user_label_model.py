"""User label model: a conditional logit of a text's label given the user's other records.

    p(l | text, user) = softmax_l(weights' inputs_l)

Inputs of label l: its log probability by the text alone; its fraction of the user's records and of those near the text;
and the user's residuals, how much more often the user gives it than the texts alone predict (negative throughout for a
strict critic). The generator is not used, so that all records are trained on and not only pseudo-queries.

Shape suffixes: N records, A texts, L labels, I inputs, F folds of users, D features (the inputs).
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
"""Pseudo-count, in records, of a uniform distribution over labels."""
PRIOR_VARIANCE = 0.5
"""Prior variance of the weights, of inputs with standard deviation 1 within a query."""
_FLOOR = 0.02
"""Added to fractions before taking logarithms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Evidence on the label of one text of a user: the text's own, and the records that its query may use."""

    text_logs_L: Floats
    """Log probabilities of the labels by the text alone."""
    record_logs_NL: Floats
    """Log probabilities of the labels by each record's text alone."""
    record_labels_N: Ints
    """Index of each record's label."""
    near_N: Floats
    """Weight of each record by the similarity of its input to the text; they sum to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserLabelModel:
    """Weights for each fold of users, fitted on the records of the users of the other folds."""

    weights_FI: Floats

    def log_probabilities(self, fold: int, evidence: Evidence, task: Task) -> Floats:
        """Return the log probability of each label (L) for a text of a user of a fold."""
        return log_softmax(label_inputs(evidence, task) @ self.weights_FI[fold])


def fit_user_label_model(task: Task, evidences: Iterable[Evidence], labels_N: Ints, fold_N: Ints) -> UserLabelModel:
    """Fit the weights to records, each predicted from the user's other records.

    Args:
        evidences: evidence on each record, without the record itself; consumed one by one.
        labels_N: index of each record's label.
        fold_N: fold of each record's user.
    """
    inputs_NLI = np.empty((len(labels_N), *label_inputs(_nothing(task), task).shape))
    for place, evidence in enumerate(evidences):
        inputs_NLI[place] = label_inputs(evidence, task)
    weights = [
        fit_conditional_logit(inputs_NLI[fold_N != fold], labels_N[fold_N != fold]) for fold in range(NUM_USER_FOLDS)
    ]
    return UserLabelModel(weights_FI=np.stack(weights))


def _nothing(task: Task) -> Evidence:
    """Return the evidence on an empty text of a user without records."""
    num_labels = len(task.labels)
    return Evidence(
        text_logs_L=np.full(num_labels, -np.log(num_labels)),
        record_logs_NL=np.zeros((0, num_labels)),
        record_labels_N=np.zeros(0, np.int64),
        near_N=np.zeros(0),
    )


def fit_conditional_logit(inputs_NLI: Floats, labels_N: Ints) -> Floats:
    """Return the MAP weights (I) of the conditional logit of records; zeros without any."""
    num_records, num_labels, num_inputs = inputs_NLI.shape
    targets_N = np.eye(num_labels)[labels_N].ravel()
    table = GroupTable(
        features_ND=inputs_NLI.reshape(-1, num_inputs),
        targets_N=targets_N,
        qualities_N=targets_N,
        group_starts=starts_of([num_labels] * num_records),
        user_starts=starts_of([num_records]),
    )
    return fit_choice_weights(table)


def fit_choice_weights(table: GroupTable) -> Floats:
    """Return the MAP weights (I) of the features of all groups' candidates; zeros without groups."""
    num_inputs = table.features_ND.shape[1]
    if not table.num_groups:
        return np.zeros(num_inputs)
    scales_I = within_group_scales(table)
    scaled = table.pooled().scaled(scales_I)
    regression = PooledRegression(scaled, scaled.features_ND, np.zeros(len(table.targets_N)))
    variances_I = np.full(num_inputs, PRIOR_VARIANCE)
    return regression.code(variances_I, np.ones(table.num_groups), np.zeros(num_inputs)) / scales_I


def label_inputs(evidence: Evidence, task: Task) -> Floats:
    """Return the inputs of each label (L, I): fractions of the user's records and of those near the text, residuals,
    bias; for a rating also distances from the user's ratings.
    """
    shown_1N = np.ones((1, len(evidence.record_labels_N)))
    return inputs_of_texts(
        evidence.text_logs_L[None],
        evidence.record_logs_NL,
        evidence.record_labels_N,
        shown_1N,
        evidence.near_N[None],
        task,
    )[0]


def inputs_of_texts(
    text_logs_AL: Floats,
    record_logs_NL: Floats,
    record_labels_N: Ints,
    shown_AN: Floats,
    near_AN: Floats,
    task: Task,
) -> Floats:
    """Return the inputs of the labels of several texts of one user (A, L, I).

    Args:
        text_logs_AL: log probabilities of each text's labels by the text alone.
        record_logs_NL: the same of the user's records.
        record_labels_N: index of each record's label.
        shown_AN: 1 for each record that a text's query may use, else 0.
        near_AN: weight of each record by the similarity of its input to the text; 0 where it is not shown.
    """
    num_texts, num_labels = text_logs_AL.shape
    given_NL = np.eye(num_labels)[record_labels_N]
    counts_AL = shown_AN @ given_NL
    num_shown_A1 = counts_AL.sum(axis=1, keepdims=True) + PRIOR_RECORDS
    shares_AL = (counts_AL + PRIOR_RECORDS / num_labels) / num_shown_A1
    residuals_NL = given_NL - np.exp(record_logs_NL)
    residuals_AL, near_AL = shown_AN @ residuals_NL / num_shown_A1, near_AN @ given_NL
    columns = [
        text_logs_AL,
        np.log(shares_AL),
        near_AL,
        np.log(near_AL + _FLOOR),
        residuals_AL,
        near_AN @ residuals_NL,
        (counts_AL > 0).astype(float),
        *np.broadcast_to(np.eye(num_labels)[:, None], (num_labels, num_texts, num_labels)),  # bias of each label
    ]
    if task.kind == "rating":
        columns += _rating_columns(task, shares_AL, near_AL, residuals_AL, np.exp(text_logs_AL))
    return np.stack(columns, axis=2)


def rating_scale(task: Task) -> Floats:
    """Return the labels of a rating task as numbers from -1 to 1 (L)."""
    values_L = np.array([float(label) for label in task.labels])
    return 2 * (values_L - values_L.min()) / np.ptp(values_L) - 1


def _rating_columns(
    task: Task, shares_AL: Floats, near_AL: Floats, residuals_AL: Floats, text_AL: Floats
) -> list[Floats]:
    """Return the inputs that use ratings as numbers: products with the user's means, and distances from them."""
    ratings_L = rating_scale(task)
    mean_A1, near_A1 = (shares_AL @ ratings_L)[:, None], (near_AL @ ratings_L)[:, None]
    sides = [ratings_L * (each_AL @ ratings_L)[:, None] for each_AL in (shares_AL, near_AL, residuals_AL, text_AL)]
    spread_A1 = (shares_AL @ ratings_L**2)[:, None] - mean_A1**2
    distances = [abs(ratings_L - mean_A1), (ratings_L - mean_A1) ** 2, abs(ratings_L - near_A1)]
    return [*sides, ratings_L**2 * spread_A1, *distances]
