"""Own heads fitted to all records, of an export: what a user's head adds to the labels of one query."""

import numpy as np

from hydra_ray.adapt.label_model import LabelModel
from hydra_ray.adapt.own_labels import encoded_items, label_logs, own_fold
from hydra_ray.adapt.own_model import read_own_model
from hydra_ray.adapt.own_records import own_queries
from hydra_ray.config import Task
from hydra_ray.retrieve.dense import Encode
from hydra_ray.rows import User, UserLabelLogs
from hydra_ray.scorer.heads.store import HeadStore, Lineage, heads_table
from hydra_ray.serving.export_folder import Exported


class OwnHeadScorer:
    """Scores queries of one user at a time by the stored code of the user."""

    def __init__(self, exported: Exported, task: Task, labels: LabelModel, encode: Encode) -> None:
        """Load everything but the codes.

        Raises:
            StorageError: a part of it is missing or damaged.
        """
        self._exported, self._task, self._labels, self._encode = exported, task, labels, encode
        self._model = read_own_model(exported.stage("adapter.own").folder)
        prints = exported.fingerprints
        self._store = HeadStore(
            stage=exported.stage("adapter.codes"),
            fold=0,
            bucket_key=exported.bucket_key,
            lineage=Lineage(base=prints["adapter.labeller"], head_prior=prints["adapter.own"]),
        )

    def logs_of(self, asked: User, stored: User) -> UserLabelLogs | None:
        """Return the label log probabilities of a user's queries; None where own heads do not count in the data set, or
        the user has none.

        Args:
            asked: the user with the queries, and the records that they may use.
            stored: the user as in the run, by which the user's fold is known.
        """
        if not self._model.is_on:
            return None
        if self._exported.part_of(self._store.stage, heads_table(0), asked.user_id) is None:
            return None
        head = self._store.read_head(asked.user_id)
        if head is None:
            return None
        texts = [query.input for query in asked.queries]
        vectors = encoded_items(self._task, [asked], self._encode)
        queries = own_queries(self._task, [asked], [texts], self._labels.text, vectors)
        fold_U = np.array([own_fold(stored)])
        own_N = self._model.scores(self._task, queries, self._model.deviations(fold_U, np.array([head.code])))
        logs = [self._model.log_probabilities(self._task, queries, fold_U, each) for each in (None, own_N)]
        query_ids = [query.query_id for query in asked.queries]
        found = tuple(label_logs(queries, query_ids, logs))
        return UserLabelLogs(user_id=asked.user_id, is_new=stored.is_new, queries=found)
