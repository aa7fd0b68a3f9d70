"""What all users' records teach about the labels of texts: what a text says, and what its writer's other records add.

It learns from histories alone, so no target of a query is seen in any fold. A user's texts are labelled by weights that
were not fitted to the user's records: pseudo-queries are records, and their targets must not be in there. (The few
weights of the second step see them from afar: its inputs come from text classifiers of other folds.)

Letters in shape suffixes: N records, L labels.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from hydra_ray import storage
from hydra_ray.adapt.text_classifier import TextClassifier, fit_text_classifier
from hydra_ray.adapt.user_label_model import Evidence, OwnLabels, fit_own_labels
from hydra_ray.config import RunConfig, Task
from hydra_ray.retrieve.dense import Encode, Floats, Vectors, nearness
from hydra_ray.rows import Record, User
from hydra_ray.scorer.linear.shared import user_fold
from hydra_ray.seeds import rng_of, seed_of

MAX_RECORDS = 20_000
"""Users are taken until they have as many."""
MAX_USER_RECORDS = 500
"""Records of one user that teach, each beside all others: a longer history would cost its square."""
_ARRAYS = "labeller.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText:
    """Log probabilities of the labels of one text."""

    by_text_L: Floats
    """By what the text says, whoever wrote it."""
    by_user_L: Floats
    """The same given records of the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledUser:
    """What a labeller makes of one user's texts."""

    task: Task
    fold: int
    logs: Mapping[str, Floats]
    """Log probabilities (L) by what each text says, whoever wrote it."""
    vectors: Vectors
    own: OwnLabels

    def labelled(self, text: str, records: Sequence[Record]) -> LabelledText:
        """What it makes of a text that may look at these records."""
        known = evidence(self.task, text, records, self.logs, self.vectors)
        by_user_L = self.own.log_probabilities(self.fold, known, self.task)
        return LabelledText(by_text_L=known.text_logs_L, by_user_L=by_user_L)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeller:
    """Both steps, each with weights for every fold of users."""

    text: TextClassifier
    own: OwnLabels

    def labelled(self, task: Task, user: User, queries: Iterable[str], vectors: Vectors) -> LabelledUser:
        """What it makes of a user's records and queries.

        Args:
            queries: inputs, which may be those of records.
        """
        fold = user_fold(user.user_id)
        texts = [*(record.input for record in labelled_records(task, user.history)), *queries]
        logs = self.text.by_text(fold, texts, vectors)
        return LabelledUser(task=task, fold=fold, logs=logs, vectors=vectors, own=self.own)

    def write(self, folder: str) -> None:
        """Store it at `folder`."""
        from safetensors.numpy import save

        arrays = {**asdict(self.text), **asdict(self.own)}
        stored = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        storage.write_bytes(storage.join(folder, _ARRAYS), save(stored))


def needs_labeller(task: Task, config: RunConfig) -> bool:
    """Whether a run's adapter looks at what records teach about labels."""
    return task.has_labelled_records and config.adapter.has_plain_features


def read_labeller(folder: str) -> Labeller:
    """The labeller stored at `folder`.

    Raises:
        StorageError: there is none.
    """
    from safetensors.numpy import load

    arrays = load(storage.read_bytes(storage.join(folder, _ARRAYS)))
    own = {each.name: arrays.pop(each.name) for each in fields(OwnLabels)}
    return Labeller(text=TextClassifier(**arrays), own=OwnLabels(**own))


def labelled_records(task: Task, records: Iterable[Record]) -> list[Record]:
    """Those that show which text has which label; what was given from outside need not be an answer."""
    return [record for record in records if record.input and record.output in task.labels]


def evidence(
    task: Task, text: str, records: Iterable[Record], logs: Mapping[str, Floats], vectors: Vectors
) -> Evidence:
    """What is known of a text of a user.

    Args:
        records: those that the text may look at.
        logs: log probabilities (L) by what each text says, whoever wrote it.
    """
    shown = labelled_records(task, records)
    return Evidence(
        text_logs_L=logs[text],
        record_logs_NL=np.array([logs[record.input] for record in shown]).reshape(-1, len(task.labels)),
        record_labels_N=np.array([task.labels.index(record.output) for record in shown], np.int64),
        near_N=nearness(text, shown, vectors),
    )


def sampled_users(task: Task, users: Iterable[User]) -> list[User]:
    """Users with the records that teach, MAX_RECORDS together or a little more, chosen by a hash; no more are held at
    once."""
    chosen: list[tuple[int, str, User]] = []  # a heap whose first is the next to go
    num_records = 0
    for user in (_taught_by(task, each) for each in users):
        if not user.history:
            continue
        heapq.heappush(chosen, (-seed_of(0, "labeller", user.user_id), user.user_id, user))
        num_records += len(user.history)
        while num_records - len(chosen[0][2].history) >= MAX_RECORDS:
            num_records -= len(heapq.heappop(chosen)[2].history)
    return [user for *_, user in sorted(chosen, key=lambda each: each[:2])]


def _taught_by(task: Task, user: User) -> User:
    """The user with no other records than those that teach."""
    shown = labelled_records(task, user.history)
    if len(shown) > MAX_USER_RECORDS:
        kept = rng_of(0, "labeller", user.user_id).choice(len(shown), MAX_USER_RECORDS, replace=False)
        shown = [shown[place] for place in sorted(kept)]
    return replace(user, history=tuple(shown))


def fit_labeller(task: Task, users: Sequence[User], encode: Encode) -> Labeller:
    """The weights that users' records teach; `sampled_users` bounds what it takes."""
    asked = [(user.user_id, record) for user in users for record in labelled_records(task, user.history)]
    texts = list(dict.fromkeys(record.input for _, record in asked))
    known = texts or [""]
    vectors = dict(zip(known, encode(known), strict=True))
    labels_N = np.array([task.labels.index(record.output) for _, record in asked], np.int64)
    fold_N = np.array([user_fold(user_id) for user_id, _ in asked], np.int64)
    text = fit_text_classifier([record.input for _, record in asked], vectors, labels_N, fold_N, len(task.labels))
    evidences = (each for user in users for each in _each_left_out(task, user, text, vectors))
    return Labeller(text=text, own=fit_own_labels(task, evidences, labels_N, fold_N))


def _each_left_out(task: Task, user: User, text: TextClassifier, vectors: Vectors) -> Iterator[Evidence]:
    """What is known of each record of a user, given the others."""
    records = labelled_records(task, user.history)
    logs = text.by_text(user_fold(user.user_id), [record.input for record in records], vectors)
    for place, record in enumerate(records):
        yield evidence(task, record.input, [*records[:place], *records[place + 1 :]], logs, vectors)
