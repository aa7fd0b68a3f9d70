"""What held-out records of held-out users show in a closed task or of preferences: by a constant, by the text alone, by
the user's other records, and by an own head on top of these. It is what the stage `adapter.own` fits and predicts, on
histories alone.

Each is fitted on the users of the other folds. The text alone has the inputs of the records' model, of a person without
records, so that neither recalibration nor the biases of labels are taken for personal.

Shape suffixes: U users, G records, N their candidates, L labels, F folds, I inputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hydra_ray.adapt.label_model import fit_label_model, labelled_records
from hydra_ray.adapt.own_labels import encoded_items
from hydra_ray.adapt.own_model import CONFIDENCE, NUM_RESAMPLES, fit_own_model, qualities_of
from hydra_ray.adapt.own_records import Asked, OwnRecords, own_queries, own_records, own_table
from hydra_ray.adapt.text_classifier import TextClassifier, fit_text_classifier
from hydra_ray.adapt.user_label_model import fit_choice_weights
from hydra_ray.config import Task
from hydra_ray.evaluate.intervals import Interval, mean_interval
from hydra_ray.retrieve.dense import Encode, Floats, Vectors
from hydra_ray.rows import User
from hydra_ray.scorer.linear.groups import Ints, log_softmax
from hydra_ray.scorer.linear.shared import NUM_USER_FOLDS, user_fold

CONSTANT, TEXT, RECORDS, OWN = "constant", "text", "records", "own heads"
PAIRS = ((TEXT, CONSTANT), (RECORDS, TEXT), (OWN, RECORDS), (OWN, TEXT))
"""Systems that are compared, the one that knows more first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Means over users of one system on the held-out records. Key: name."""

    name: str
    quality: Interval
    """Quality of the chosen label or candidate, 0 to 1: accuracy, or of ratings 1 - error / range."""
    loss: Interval
    """Log loss of the right label or candidate, in nats."""


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
    """Fit all systems to users' records that show labels or choices, by folds of users, and return what they show."""
    vectors = encoded_items(task, users, encode)
    text = _text_scorer(task, users, vectors)
    records = own_records(task, users, text, vectors, lambda user: user_fold(user.user_id))
    model = fit_own_model(task, records, NUM_USER_FOLDS, seed=0)
    is_asked_G = records.support.block_G >= 0
    known = records.of_records(is_asked_G)
    own_N = model.held_out_scores(task, records)[is_asked_G[records.asked.text_of_candidate]]
    logs = {
        CONSTANT: _constant_logs(task, known),
        TEXT: _text_logs(known, _of_strangers(task, users, text, vectors).of_texts(is_asked_G)),
        RECORDS: model.log_probabilities(task, known.asked, records.fold_U, None),
        OWN: model.log_probabilities(task, known.asked, records.fold_U, own_N),
    }
    return _compared(
        known.asked.user_G,
        {name: qualities_of(task, each, known.asked, known.labels_G) for name, each in logs.items()},
        {name: -each[known.right_places] for name, each in logs.items()},
    )


def _text_scorer(task: Task, users: Sequence[User], vectors: Vectors) -> TextClassifier:
    """Return what scores a text, or a candidate, for everybody alike."""
    if task.kind == "preference":
        return fit_label_model(task, users, lambda texts: np.stack([vectors[each] for each in texts])).text
    taught = [(user_fold(user.user_id), each) for user in users for each in labelled_records(task, user.history)]
    labels_N = np.array([task.labels.index(each.output) for _, each in taught], np.int64)
    fold_N = np.array([fold for fold, _ in taught], np.int64)
    return fit_text_classifier([each.input for _, each in taught], vectors, labels_N, fold_N, len(task.labels))


def _constant_logs(task: Task, known: OwnRecords) -> Floats:
    """Return the log frequencies of the labels outside each record's fold (N); of candidates all are alike."""
    if task.kind == "preference":
        sizes_G = np.diff(known.asked.group_starts)
        return -np.log(np.repeat(sizes_G, sizes_G))
    fold_G, num_labels = known.fold_U[known.asked.user_G], len(task.labels)
    counts_FL = np.stack(
        [np.bincount(known.labels_G[fold_G != fold], minlength=num_labels) + 1.0 for fold in range(NUM_USER_FOLDS)]
    )
    return np.log(counts_FL / counts_FL.sum(axis=1, keepdims=True))[fold_G].ravel()


def _of_strangers(task: Task, users: Sequence[User], text: TextClassifier, vectors: Vectors) -> Asked:
    """Return all users' records as they are asked of a person without records."""
    strangers = [replace(user, history=()) for user in users]
    inputs = [[each.input for each in labelled_records(task, user.history)] for user in users]
    return own_queries(task, strangers, inputs, text, vectors)


def _text_logs(known: OwnRecords, asked: Asked) -> Floats:
    """Return the log probabilities of the candidates of each record (N) by the text alone.

    Args:
        asked: the same records, asked of a person without records.
    """
    fold_G = known.fold_U[asked.user_G]
    table = own_table(replace(known, asked=asked), asked.inputs_NI)
    weights_FI = np.stack([fit_choice_weights(table.select(fold_G != fold)) for fold in range(NUM_USER_FOLDS)])
    fold_N = fold_G[asked.text_of_candidate]
    return log_softmax(np.einsum("ni,ni->n", asked.inputs_NI, weights_FI[fold_N]), asked.segments)


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
