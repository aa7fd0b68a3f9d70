"""What a text says about its label, whoever wrote it: a classifier on the encoder's vectors of all users' records.

It learns from histories alone, so no target of a query is seen in any fold. A user's texts are labelled by a classifier
that has not seen the user: pseudo-queries are records, and their targets must not be in there.

Letters in shape suffixes: N records, H the encoder's width, L labels, K folds of users.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from hydra_ray import storage
from hydra_ray.adapt.context import Floats
from hydra_ray.config import Task
from hydra_ray.records import Record, User
from hydra_ray.scorer.shared import NUM_USER_FOLDS, user_fold
from hydra_ray.seeds import seed_of

Ints = NDArray[np.integer]

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Candidates for the inverse ridge of the classifier, chosen on the first fold of users."""
MAX_RECORDS = 20_000
_UNSEEN = -10.0
"""Bias of a label that no record has."""
_ARRAYS = "labeller.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeller:
    """One linear classifier for each fold of users, fitted on the records of the users of the other folds."""

    weights_KLH: Floats
    biases_KL: Floats

    def log_probabilities(self, user_id: str, vector_H: Floats) -> Floats:
        """Log probability (L) of each label for a text of a user."""
        fold = user_fold(user_id)
        return log_softmax(self.weights_KLH[fold] @ vector_H + self.biases_KL[fold])

    def write(self, folder: str) -> None:
        """Store it at `folder`."""
        from safetensors.numpy import save

        arrays = {"weights": np.ascontiguousarray(self.weights_KLH), "biases": np.ascontiguousarray(self.biases_KL)}
        storage.write_bytes(storage.join(folder, _ARRAYS), save(arrays))


def read_labeller(folder: str) -> Labeller:
    """The labeller stored at `folder`.

    Raises:
        StorageError: there is none.
    """
    from safetensors.numpy import load

    arrays = load(storage.read_bytes(storage.join(folder, _ARRAYS)))
    return Labeller(weights_KLH=arrays["weights"], biases_KL=arrays["biases"])


def sampled_records(users: Iterable[User]) -> list[tuple[str, Record]]:
    """At most MAX_RECORDS records with their users' ids, chosen by a hash; one user is looked at at a time."""
    found = ((user.user_id, record) for user in users for record in user.history)
    return heapq.nsmallest(MAX_RECORDS, found, key=lambda each: seed_of(0, "labeller", each[0], each[1].record_id))


def fit_labeller(task: Task, vectors_NH: Floats, outputs: Sequence[str], user_ids: Sequence[str]) -> Labeller:
    """The classifiers that records teach.

    Args:
        vectors_NH: of the records' inputs, of length 1.
        outputs: the records' labels.
        user_ids: whose each record is.
    """
    places = {label: place for place, label in enumerate(task.labels)}
    labels_N = np.array([places[output] for output in outputs], np.int64)
    fold_N = np.array([user_fold(user_id) for user_id in user_ids], np.int64)
    strength = min(STRENGTHS, key=lambda each: _left_out_loss(vectors_NH, labels_N, fold_N, each, len(places)))
    fitted = [_fit(vectors_NH, labels_N, fold_N != fold, strength, len(places)) for fold in range(NUM_USER_FOLDS)]
    return Labeller(
        weights_KLH=np.stack([weights for weights, _ in fitted]), biases_KL=np.stack([biases for _, biases in fitted])
    )


def _left_out_loss(vectors_NH: Floats, labels_N: Ints, fold_N: Ints, strength: float, num_labels: int) -> float:
    """Mean loss on the first fold's records of the classifier that the other folds teach."""
    is_left_out_N = fold_N == 0
    if not is_left_out_N.any():
        return 0.0
    weights_LH, biases_L = _fit(vectors_NH, labels_N, ~is_left_out_N, strength, num_labels)
    logs = log_softmax(vectors_NH[is_left_out_N] @ weights_LH.T + biases_L, axis=1)
    return float(-logs[np.arange(len(logs)), labels_N[is_left_out_N]].mean())


def _fit(
    vectors_NH: Floats, labels_N: Ints, is_kept_N: NDArray[np.bool_], strength: float, num_labels: int
) -> tuple[Floats, Floats]:
    """Weights (L, H) and biases (L); a label that no record has stays unlikely."""
    from sklearn.linear_model import LogisticRegression

    weights, biases = np.zeros((num_labels, vectors_NH.shape[1])), np.full(num_labels, _UNSEEN)
    present = np.unique(labels_N[is_kept_N])
    if len(present) < 2:
        return np.zeros_like(weights), np.zeros(num_labels)
    model = LogisticRegression(C=strength, max_iter=300).fit(vectors_NH[is_kept_N], labels_N[is_kept_N])
    coefficients, intercepts = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn keeps one row for two classes
        coefficients, intercepts = (
            np.vstack([-coefficients, coefficients]) / 2,
            np.hstack([-intercepts, intercepts]) / 2,
        )
    weights[present], biases[present] = coefficients, intercepts
    return weights, biases
