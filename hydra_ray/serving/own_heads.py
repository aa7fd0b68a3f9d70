"""Own heads fitted to all records, of an export: what a user's head adds to the candidates of one query."""

import numpy as np

from hydra_ray.adapt.label_model import LabelModel
from hydra_ray.adapt.own_labels import encoded_items, label_logs, own_fold
from hydra_ray.adapt.own_model import OwnModel, read_own_model
from hydra_ray.adapt.own_records import own_queries, own_records
from hydra_ray.config import Task
from hydra_ray.retrieve.dense import Encode
from hydra_ray.rows import User, UserLabelLogs
from hydra_ray.scorer.heads.store import Lineage
from hydra_ray.scorer.linear.groups import Floats
from hydra_ray.serving.export_folder import Exported
from hydra_ray.serving.known import SHARED, KnownUser


class OwnHeadScorer:
    """Scores queries of one user at a time by the user's code."""

    def __init__(self, exported: Exported, task: Task, labels: LabelModel, encode: Encode) -> None:
        """Load what all users teach.

        Raises:
            StorageError: a part of it is missing or damaged.
        """
        self._task, self._labels, self._encode = task, labels, encode
        prints = exported.fingerprints
        self.lineage = Lineage(base=prints["adapter.labeller"], head_prior=prints["adapter.own"])
        """Fingerprints of the models that codes must belong to."""
        self.model: OwnModel = read_own_model(exported.stage("adapter.own").folder)
        """What all users teach of own heads."""

    def fit(self, user: User) -> Floats:
        """Return the code of the own head of a user, fitted to all of the user's records (R)."""
        vectors = encoded_items(self._task, [user], self._encode)
        records = own_records(self._task, [user], self._labels.text, vectors, own_fold)
        return self.model.fit_codes(self._task, records).codes_UR[0]

    def counts_for(self, known: KnownUser) -> bool:
        """Return whether own heads count in the data set, and the user has one."""
        return self.model.is_on and known.code_R is not None

    def name_of(self, known: KnownUser) -> str:
        """Return the name of the kind of the head that answers a user."""
        return f"own-{self.model.shape.rank}" if self.counts_for(known) else SHARED

    def logs_of(self, asked: User, known: KnownUser) -> UserLabelLogs:
        """Return the label log probabilities of a user's queries; by the own head those by the records, where the user
        has no code or own heads do not count in the data set.

        Args:
            asked: the user with the queries, and the records that they may use.
            known: what is known of the user, by which the user's fold and code are.
        """
        texts = [query.input for query in asked.queries]
        vectors = encoded_items(self._task, [asked], self._encode)
        queries = own_queries(self._task, [asked], [texts], self._labels.text, vectors)
        fold_U = np.array([own_fold(known.user)])
        by_records = by_own = self.model.log_probabilities(self._task, queries, fold_U, None)
        if self.counts_for(known):
            deviations_UD = self.model.deviations(fold_U, np.array([known.code_R]))
            own_N = self.model.scores(self._task, queries, deviations_UD)
            by_own = self.model.log_probabilities(self._task, queries, fold_U, own_N)
        query_ids = [query.query_id for query in asked.queries]
        found = tuple(label_logs(queries, query_ids, [by_records, by_own]))
        return UserLabelLogs(user_id=asked.user_id, is_new=known.user.is_new, queries=found)
