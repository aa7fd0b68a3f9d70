"""What held-out records of held-out users show in a closed task: by a constant, by the text alone, by the user's other
records, and by an own head on top of these. It is what the stage `adapter.own` fits and predicts, on histories alone.

Each is fitted on the users of the other folds. The text alone has the inputs of the records' model, of a person without
records, so that neither recalibration nor the biases of labels are taken for personal.

Shape suffixes: U users, G records, L labels, F folds, I inputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import log_softmax

from hydra_ray.adapt.label_model import labelled_records
from hydra_ray.adapt.own_labels import encoded_items
from hydra_ray.adapt.own_model import CONFIDENCE, NUM_RESAMPLES, fit_own_model, qualities_of
from hydra_ray.adapt.own_records import own_queries, own_records
from hydra_ray.adapt.text_classifier import TextClassifier, fit_text_classifier
from hydra_ray.adapt.user_label_model import fit_conditional_logit
from hydra_ray.config import Task
from hydra_ray.evaluate.intervals import Interval, mean_interval
from hydra_ray.retrieve.dense import Encode, Floats, Vectors
from hydra_ray.rows import User
from hydra_ray.scorer.linear.groups import Bools, Ints
from hydra_ray.scorer.linear.shared import NUM_USER_FOLDS, user_fold

CONSTANT, TEXT, RECORDS, OWN = "constant", "text", "records", "own heads"
PAIRS = ((TEXT, CONSTANT), (RECORDS, TEXT), (OWN, RECORDS), (OWN, TEXT))
"""Systems that are compared, the one that knows more first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Means over users of one system on the held-out records. Key: name."""

    name: str
    quality: Interval
    """Quality of the chosen label, 0 to 1: accuracy, or of ratings 1 - error / range."""
    loss: Interval
    """Log loss of the right label, in nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What one system gains over another on the same records: means over users. Key: (name, over)."""

    name: str
    over: str
    quality: Interval
    loss: Interval
    """Fall of the log loss, in nats; its lower bound decides."""

    @property
    def is_above_zero(self) -> bool:
        """Return whether the lower bound of the fall of the loss is above zero."""
        return self.loss.is_above_zero


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """All systems on the same held-out records."""

    num_users: int
    num_records: int
    systems: tuple[System, ...]
    gains: tuple[Gain, ...]

    def gain(self, name: str, over: str) -> Gain:
        """Return the gain of one system over another."""
        return next(each for each in self.gains if (each.name, each.over) == (name, over))


def held_out(task: Task, users: Sequence[User], encode: Encode) -> HeldOut:
    """Fit all systems to users' labelled records, by folds of users, and return what they show."""
    vectors = encoded_items(task, users, encode)
    text = _text_classifier(task, users, vectors)
    records = own_records(task, users, text, vectors, lambda user: user_fold(user.user_id))
    model = fit_own_model(task, records, NUM_USER_FOLDS, seed=0)
    is_asked_G = records.support.block_G >= 0
    known = records.of_records(is_asked_G)
    asked, labels_G = known.asked, known.labels_G
    own_N = model.held_out_scores(task, records)[is_asked_G[records.asked.text_of_candidate]]
    fold_G = records.fold_U[asked.user_G]
    logs = {
        CONSTANT: _constant_logs(labels_G, fold_G, len(task.labels)).ravel(),
        TEXT: _text_logs(task, users, text, vectors, is_asked_G, labels_G, fold_G).ravel(),
        RECORDS: model.log_probabilities(task, asked, records.fold_U, None),
        OWN: model.log_probabilities(task, asked, records.fold_U, own_N),
    }
    return _compared(
        asked.user_G,
        {name: qualities_of(task, each, asked, labels_G) for name, each in logs.items()},
        {name: -each[known.right_places] for name, each in logs.items()},
    )


def _text_classifier(task: Task, users: Sequence[User], vectors: Vectors) -> TextClassifier:
    taught = [(user_fold(user.user_id), each) for user in users for each in labelled_records(task, user.history)]
    labels_N = np.array([task.labels.index(each.output) for _, each in taught], np.int64)
    fold_N = np.array([fold for fold, _ in taught], np.int64)
    return fit_text_classifier([each.input for _, each in taught], vectors, labels_N, fold_N, len(task.labels))


def _constant_logs(labels_G: Ints, fold_G: Ints, num_labels: int) -> Floats:
    """Return the log frequencies of the labels outside each record's fold (G, L)."""
    counts_FL = np.stack(
        [np.bincount(labels_G[fold_G != fold], minlength=num_labels) + 1.0 for fold in range(NUM_USER_FOLDS)]
    )
    return np.log(counts_FL / counts_FL.sum(axis=1, keepdims=True))[fold_G]


def _text_logs(
    task: Task,
    users: Sequence[User],
    text: TextClassifier,
    vectors: Vectors,
    is_asked_G: Bools,
    labels_G: Ints,
    fold_G: Ints,
) -> Floats:
    """Return the log probabilities of the labels of each asked record for a person without records (G, L)."""
    strangers = [replace(user, history=()) for user in users]
    inputs = [[each.input for each in labelled_records(task, user.history)] for user in users]
    inputs_NI = own_queries(task, strangers, inputs, text, vectors).of_texts(is_asked_G).inputs_NI
    inputs_GLI = inputs_NI.reshape(len(labels_G), len(task.labels), inputs_NI.shape[1])
    weights_FI = np.stack(
        [fit_conditional_logit(inputs_GLI[fold_G != fold], labels_G[fold_G != fold]) for fold in range(NUM_USER_FOLDS)]
    )
    return log_softmax(np.einsum("gli,gi->gl", inputs_GLI, weights_FI[fold_G]), axis=1)


def _compared(user_G: Ints, qualities: Mapping[str, Floats], losses: Mapping[str, Floats]) -> HeldOut:
    users, places_G = np.unique(user_G, return_inverse=True)
    num_U = np.bincount(places_G)

    def mean(values_G: Floats) -> Interval:
        return mean_interval(np.ones(len(users)), np.bincount(places_G, values_G) / num_U, NUM_RESAMPLES, CONFIDENCE)

    return HeldOut(
        num_users=len(users),
        num_records=len(user_G),
        systems=tuple(System(name=name, quality=mean(qualities[name]), loss=mean(losses[name])) for name in qualities),
        gains=tuple(
            Gain(
                name=name,
                over=over,
                quality=mean(qualities[name] - qualities[over]),
                loss=mean(losses[over] - losses[name]),
            )
            for name, over in PAIRS
        ),
    )
