"""Label model: log probabilities of the labels of a text, by the text alone and given its user's other records.

Two steps: a text classifier that knows no user, and a conditional logit given the user's records. They are trained on
histories alone, so no target of a query is seen in any fold. A user's texts are labelled by weights that were not
fitted to the user's records: pseudo-queries are records, and their targets must not leak. (The few weights of the
second step depend on them indirectly: its inputs come from text classifiers of other folds.) A preference task has no
labels: the first step scores candidates, and there is no second one.

Shape suffixes: N records, L labels.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hydra_ray import storage
from hydra_ray.adapt.text_classifier import TextClassifier, fit_text_classifier
from hydra_ray.adapt.text_preferences import fit_text_preferences
from hydra_ray.adapt.user_label_model import Evidence, UserLabelModel, fit_user_label_model
from hydra_ray.config import RunConfig, Task
from hydra_ray.lamp.choices import choices_told, pairs_of
from hydra_ray.retrieve.dense import Encode, Floats, Vectors, each_nearness, nearness
from hydra_ray.rows import Record, User
from hydra_ray.scorer.linear.shared import NUM_USER_FOLDS, user_fold
from hydra_ray.seeds import rng_of, seed_of
from hydra_ray.storage.arrays import read_arrays, write_arrays

MAX_RECORDS = 20_000
"""Number of records at which no more users are sampled."""
MAX_USER_RECORDS = 500
"""Number of records of one user that are trained on, each given all others: the cost is its square."""
_ARRAYS = "labeller.safetensors"
_ANEW = "Remove the stage's folder and run again: only the label model is fitted anew."
_TEXT_ARRAYS = {"rarities_W": "rarities_W", "weights_FLI": "weights_KLF", "biases_FL": "biases_KL"}
_USER_ARRAYS = {"weights_FI": "weights_KI"}
"""Names in the file of the arrays of both steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText:
    """Log probabilities of the labels of one text."""

    by_text_L: Floats
    """Log probabilities by the text alone, without its user (L)."""
    by_user_L: Floats
    """Log probabilities given records of the user (L)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledUser:
    """Label log probabilities of one user's texts."""

    task: Task
    fold: int
    logs: Mapping[str, Floats]
    """Log probabilities of each text's labels (L) by the text alone."""
    vectors: Vectors
    own: UserLabelModel

    def labelled(self, text: str, records: Sequence[Record]) -> LabelledText:
        """Return the label log probabilities of a text whose query may use these records."""
        known = evidence(self.task, text, records, self.logs, self.vectors)
        by_user_L = self.own.log_probabilities(self.fold, known, self.task)
        return LabelledText(by_text_L=known.text_logs_L, by_user_L=by_user_L)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelModel:
    """Text classifier and user label model, each cross-fitted over folds of users."""

    text: TextClassifier
    own: UserLabelModel

    def labelled(self, task: Task, user: User, queries: Iterable[str], vectors: Vectors) -> LabelledUser:
        """Return the label log probabilities of a user's records and queries.

        Args:
            queries: inputs of queries, which may be those of records.
        """
        fold = user_fold(user.user_id)
        texts = [*(record.input for record in labelled_records(task, user.history)), *queries]
        logs = self.text.by_text(fold, texts, vectors)
        return LabelledUser(task=task, fold=fold, logs=logs, vectors=vectors, own=self.own)

    def write(self, folder: str) -> None:
        """Write the model to `folder`."""
        arrays = {stored: getattr(self.text, name) for name, stored in _TEXT_ARRAYS.items()}
        arrays |= {stored: getattr(self.own, name) for name, stored in _USER_ARRAYS.items()}
        write_arrays(storage.join(folder, _ARRAYS), arrays)


def needs_label_model(task: Task, config: RunConfig) -> bool:
    """Return whether a run's adapter uses a label model."""
    return task.has_labelled_records and config.adapter.has_plain_features


def read_label_model(folder: str) -> LabelModel:
    """Read the label model stored in `folder`.

    Raises:
        StorageError: there is none, or it is damaged.
    """
    arrays = read_arrays(storage.join(folder, _ARRAYS), _ANEW)
    return LabelModel(
        text=TextClassifier(**{name: arrays[stored] for name, stored in _TEXT_ARRAYS.items()}),
        own=UserLabelModel(**{name: arrays[stored] for name, stored in _USER_ARRAYS.items()}),
    )


def labelled_records(task: Task, records: Iterable[Record]) -> list[Record]:
    """Return the records with an input and a valid label; outputs of users' own files need not be labels.

    In a preference task these are choices, of which a rated list is several, or none where all answers are rated alike.
    """
    if task.kind == "preference":
        return [choice for record in records for choice in choices_told(record)]
    return [record for record in records if record.input and record.output in task.labels]


def evidence(
    task: Task, text: str, records: Iterable[Record], logs: Mapping[str, Floats], vectors: Vectors
) -> Evidence:
    """Return the evidence on a text's label given its user's records.

    Args:
        records: records that the text's query may use.
        logs: log probabilities of each text's labels (L) by the text alone.
    """
    shown = labelled_records(task, records)
    return Evidence(
        text_logs_L=logs[text],
        record_logs_NL=np.array([logs[record.input] for record in shown]).reshape(-1, len(task.labels)),
        record_labels_N=np.array([task.labels.index(record.output) for record in shown], np.int64),
        near_N=nearness(text, shown, vectors),
    )


def sampled_users(task: Task, users: Iterable[User], max_records: int | None = None) -> list[User]:
    """Sample users, by a hash, until they have `max_records` records (MAX_RECORDS by default) to train on or slightly
    more; no more are held at once.
    """
    most = MAX_RECORDS if max_records is None else max_records
    chosen: list[tuple[int, str, User]] = []  # a heap, the next to be removed first
    num_records = 0
    for user in (_taught_by(task, each) for each in users):
        if not user.history:
            continue
        heapq.heappush(chosen, (-seed_of(0, "labeller", user.user_id), user.user_id, user))
        num_records += len(user.history)
        while num_records - len(chosen[0][2].history) >= most:
            num_records -= len(heapq.heappop(chosen)[2].history)
    return [user for *_, user in sorted(chosen, key=lambda each: each[:2])]


def _taught_by(task: Task, user: User) -> User:
    """Return the user with only the records that are trained on."""
    shown = labelled_records(task, user.history)
    if len(shown) > MAX_USER_RECORDS:
        kept = rng_of(0, "labeller", user.user_id).choice(len(shown), MAX_USER_RECORDS, replace=False)
        shown = [shown[place] for place in sorted(kept)]
    return replace(user, history=tuple(shown))


def fit_label_model(task: Task, users: Sequence[User], encode: Encode) -> LabelModel:
    """Fit the label model to users' records; `sampled_users` bounds its cost."""
    if task.kind == "preference":
        return _fit_preferences(task, users, encode)
    asked = [(user.user_id, record) for user in users for record in labelled_records(task, user.history)]
    texts = list(dict.fromkeys(record.input for _, record in asked))
    known = texts or [""]
    vectors = dict(zip(known, encode(known), strict=True))
    labels_N = np.array([task.labels.index(record.output) for _, record in asked], np.int64)
    fold_N = np.array([user_fold(user_id) for user_id, _ in asked], np.int64)
    text = fit_text_classifier([record.input for _, record in asked], vectors, labels_N, fold_N, len(task.labels))
    logs = _logs_by_fold(task, users, text, vectors)
    evidences = (
        each
        for user in users
        for each in _each_left_out(task, labelled_records(task, user.history), logs[user_fold(user.user_id)], vectors)
    )
    return LabelModel(text=text, own=fit_user_label_model(task, evidences, labels_N, fold_N))


def _fit_preferences(task: Task, users: Sequence[User], encode: Encode) -> LabelModel:
    choices = [(user.user_id, record) for user in users for record in labelled_records(task, user.history)]
    pairs = [(user_id, pair) for user_id, record in choices for pair in pairs_of(record)]
    known = list(dict.fromkeys(text for _, pair in pairs for text in pair)) or [""]
    vectors = dict(zip(known, encode(known), strict=True))
    fold_P = np.array([user_fold(user_id) for user_id, _ in pairs], np.int64)
    text = fit_text_preferences([pair for _, pair in pairs], vectors, fold_P)
    return LabelModel(text=text, own=UserLabelModel(weights_FI=np.zeros((NUM_USER_FOLDS, 0))))


def _logs_by_fold(
    task: Task, users: Sequence[User], text: TextClassifier, vectors: Vectors
) -> dict[int, dict[str, Floats]]:
    """Return for each fold the log probabilities of the labels (L) of its users' records, by the text alone."""
    texts: dict[int, list[str]] = {}
    for user in users:
        own = texts.setdefault(user_fold(user.user_id), [])
        own += [record.input for record in labelled_records(task, user.history)]
    return {fold: text.by_text(fold, own, vectors) for fold, own in texts.items()}


def _each_left_out(
    task: Task, records: Sequence[Record], logs: Mapping[str, Floats], vectors: Vectors
) -> Iterator[Evidence]:
    """Yield the evidence on each record of a user, given the other records.

    Args:
        records: records with labels.
        logs: log probabilities of each text's labels (L) by the text alone.
    """
    logs_NL = np.array([logs[record.input] for record in records])
    labels_N = np.array([task.labels.index(record.output) for record in records], np.int64)
    for place, near_N in enumerate(each_nearness(records, vectors)):
        yield Evidence(
            text_logs_L=logs_NL[place],
            record_logs_NL=np.delete(logs_NL, place, axis=0),
            record_labels_N=np.delete(labels_N, place),
            near_N=near_N,
        )
