"""Answers: one per query and system, those of HYDRA in LaMP's official prediction format too."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import pyarrow as pa

from hydra_ray import storage
from hydra_ray.adapt.answers import Scored, answer_user
from hydra_ray.adapt.gate import Gate
from hydra_ray.adapt.own_labels import needs_own_heads
from hydra_ray.adapt.own_model import OwnModel, read_own_model
from hydra_ray.adapt.record_answers import answer_from_records
from hydra_ray.engine.parts import Counters, run_parts
from hydra_ray.lamp.predictions import official_predictions, own_prediction_id
from hydra_ray.rows import (
    AnsweredUser,
    DraftedUser,
    Prediction,
    ProbedUser,
    User,
    UserLabelLogs,
    arrow_schema,
    from_table,
    to_table,
)
from hydra_ray.runs.user_answers import all_answers
from hydra_ray.stages.definition import Duration, StageDefinition
from hydra_ray.stages.gate import fitted_gates
from hydra_ray.stages.own_heads import LABELS
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.scorer import scores_of_users
from hydra_ray.stages.tables import CANDIDATES, joined, read_rows, read_users, write_rows

PREDICTIONS = "predictions.json"
"""Name of the file of official predictions."""
PREDICTIONS_TABLE = "predictions.parquet"
"""Name of the table of the same predictions, each with its user and query. It is written first: where it is, it tells
whose the official ones are."""
_ROWS_PER_GROUP = 10_000
_TABLE = "answers"


class AnswersPart:
    """Answers of all systems to the queries of a bucket's evaluated users."""

    def __init__(self, plan: Plan, gates: Sequence[Gate | None], model: OwnModel | None):
        """Take the gates, one for each fold, and what all users teach of own heads."""
        self._plan, self._gates, self._model = plan, gates, model

    def __call__(self, bucket: int) -> Counters:
        """Make and commit the part."""
        plan, model = self._plan, self._model
        rows = scored_users(plan, bucket)
        gates, config = self._gates, plan.config.answers
        answered = [answer_user(row, plan.task, gates[row.user.fold or 0], model, config) for row in rows]
        return write_rows(plan.answers, _TABLE, bucket, answered, AnsweredUser, {})


class RecordAnswersPart:
    """Answers from records alone to the queries of a bucket's evaluated users."""

    def __init__(self, plan: Plan, model: OwnModel):
        """Take what all users teach of own heads."""
        self._plan, self._model = plan, model

    def __call__(self, bucket: int) -> Counters:
        """Make and commit the part."""
        plan = self._plan
        labels = read_rows(plan.stage("adapter.codes"), LABELS, bucket, UserLabelLogs)
        users = [user for user in read_users(plan, bucket) if user.is_evaluated()]
        answered = [answer_from_records(plan.task, user, labels[user.user_id], self._model) for user in users]
        return write_rows(plan.answers, _TABLE, bucket, answered, AnsweredUser, {})


def scored_users(plan: Plan, bucket: int) -> list[Scored]:
    """Return everything that the answers to a bucket's evaluated users are made from."""
    users = [user for user in read_users(plan, bucket) if user.is_evaluated()]
    return joined(
        Scored,
        users,
        probed=read_rows(plan.probes, "probes", bucket, ProbedUser),
        drafted=read_rows(plan.drafts, "drafts", bucket, DraftedUser),
        reranker=scores_of_users(plan, "reranker", bucket, users),
        adapter=scores_of_users(plan, "adapter", bucket, users),
        labels=_labels_of_users(plan, bucket, users),
    )


def _labels_of_users(plan: Plan, bucket: int, users: Sequence[User]) -> Mapping[str, UserLabelLogs | None]:
    if not needs_own_heads(plan.task, plan.config):
        return {user.user_id: None for user in users}
    return read_rows(plan.stage("adapter.codes"), LABELS, bucket, UserLabelLogs)


def _make(plan: Plan) -> Counters:
    model = read_own_model(plan.own_model.folder) if needs_own_heads(plan.task, plan.config) else None
    if plan.config.has_scorers:
        work = AnswersPart(plan, fitted_gates(plan), model)
    else:
        assert model is not None, "no generator and no own heads"
        work = RecordAnswersPart(plan, model)
    counters = run_parts(plan.answers, _TABLE, work, plan.config.placement)
    folder = plan.answers.folder
    schema, location = arrow_schema(Prediction), storage.join(folder, PREDICTIONS_TABLE)
    storage.write_row_groups(location, schema, _batched_tables(_predictions(plan)), {})
    tables = storage.read_row_groups(location, schema)
    answers = ((each.prediction_id, each.answer) for table in tables for each in from_table(table, Prediction))
    official_predictions(plan.task.prediction_name, answers, storage.join(folder, PREDICTIONS))
    return counters


def _batched_tables(predictions: Iterable[Prediction]) -> Iterator[pa.Table]:
    """Yield tables of some thousand predictions; an empty one where there is none."""
    left = iter(predictions)
    yield to_table(islice(left, _ROWS_PER_GROUP), Prediction)
    while rows := list(islice(left, _ROWS_PER_GROUP)):
        yield to_table(rows, Prediction)


def _predictions(plan: Plan) -> Iterator[Prediction]:
    """Yield the answers of the personalized system; failed queries are left out, never empty.

    An official LaMP id is unique; in your own data a query's id is so only within its user.
    """
    is_own = bool(plan.config.lamp.users_files)
    for answered in all_answers(plan.answers):
        for query in answered.queries:
            for answer in query.answers:
                if answer.system == "hydra" and answer.value is not None:
                    user_id, query_id = answered.user_id, query.query_id
                    yield Prediction(
                        user_id=user_id,
                        query_id=query_id,
                        prediction_id=own_prediction_id(user_id, query_id) if is_own else query_id,
                        answer=answer.value,
                        choice=query.choice,
                    )


STAGES = (
    StageDefinition(
        name="answers",
        version=5,
        inputs=("users", "drafts", "reranker.heads", "adapter.heads", "gate"),
        added_inputs=("adapter.own", "adapter.codes", CANDIDATES),
        parent_inputs=("gate",),
        settings=lambda planning: {"answers": planning.config.answers},
        make=_make,
        tables=lambda _: (_TABLE,),
        file_kinds={r"predictions\.json": "predictions", r"predictions\.parquet": "table"},
        duration=Duration(fixed=0.5, per_user=0.005),
    ),
)
