"""Answers that need no generator: by a constant, the text, the user's records, and own heads fitted to all of them."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

import numpy as np

from hydra_ray.adapt.own_labels import own_fold
from hydra_ray.adapt.own_model import OwnModel, chosen_candidates
from hydra_ray.config import Task
from hydra_ray.evaluate.baselines import majority_answer, mean_answer
from hydra_ray.lamp.choices import candidates_of
from hydra_ray.rows import AnsweredQuery, AnsweredUser, LabelLogs, Query, SystemAnswer, User, UserLabelLogs
from hydra_ray.scorer.linear.groups import Segments

NO_HEAD = "none"
"""Name of the head of a scorer that a run does not make."""
_BASELINES: Mapping[str, Callable[[LabelLogs], Sequence[float]]] = {
    "text_only": attrgetter("by_text"),
    "records_only": attrgetter("by_records"),
    "own_heads": attrgetter("by_own"),
}
"""Log probabilities of the candidates by which each baseline chooses."""
_HEADS = ("hydra_shared", "hydra_shuffled", "hydra_personal")
_OF_CANDIDATES = ("constant", *_BASELINES, *_HEADS, "hydra")
"""Systems that choose among the candidates of a preference."""


def baseline_answers(
    task: Task, user: User, candidates: Sequence[str], logs: LabelLogs, model: OwnModel
) -> dict[str, str | None]:
    """Return the answer of each baseline that asks no generator, by system; None where the user has no records.

    Args:
        candidates: possible answers to the query.
    """
    answers: dict[str, str | None] = {"constant": candidates[int(model.constants_F[own_fold(user)])]}
    if task.kind == "rating":
        outputs = _labels_of(task, user)
        answers["mean_rating"] = mean_answer(outputs, task.labels) if outputs else None
    return answers | {system: likeliest(task, candidates, of(logs)) for system, of in _BASELINES.items()}


def answer_from_records(task: Task, user: User, labels: UserLabelLogs, model: OwnModel) -> AnsweredUser:
    """Return an evaluated user's row of the answers table in a run without a generator."""
    by_query = {logs.query_id: logs for logs in labels.queries}
    return AnsweredUser(
        user_id=user.user_id,
        num_history=len(user.history),
        reranker_head=NO_HEAD,
        adapter_head=f"own-{model.shape.rank}" if model.is_on else "shared",
        queries=tuple(
            _answered(task, user, query, by_query[query.query_id], model)
            if query.query_id in by_query
            else _failed(query, model)
            for query in user.queries
        ),
    )


def _failed(query: Query, model: OwnModel) -> AnsweredQuery:
    """Return the answers to a query of a preference for which no candidate could be drafted: every system's fails."""
    error = "the generator failed at every draft, so that there is no candidate"
    return AnsweredQuery(
        query_id=query.query_id,
        answers=tuple(SystemAnswer(system=each, value=None, error=error) for each in _OF_CANDIDATES),
        pool=(),
        choice=chosen_system(model),
        reason=gain_reason(model),
    )


def _answered(task: Task, user: User, query: Query, logs: LabelLogs, model: OwnModel) -> AnsweredQuery:
    candidates = candidates_of(task, query.input)
    chosen = dict.fromkeys(_HEADS, logs.by_records)
    if model.is_on:
        chosen |= {"hydra_shuffled": logs.by_other, "hydra_personal": logs.by_own}
    outputs = _labels_of(task, user)
    answers: Mapping[str, str | None] = {
        **baseline_answers(task, user, candidates, logs, model),
        **({"majority": majority_answer(outputs) if outputs else None} if task.is_closed else {}),
        **{system: likeliest(task, candidates, each) for system, each in chosen.items()},
    }
    choice = chosen_system(model)
    systems = [*(_answer(system, value) for system, value in answers.items()), _answer("hydra", answers[choice])]
    return AnsweredQuery(
        query_id=logs.query_id, answers=tuple(systems), pool=(), choice=choice, reason=gain_reason(model)
    )


def chosen_system(model: OwnModel) -> str:
    """Return the system that answers for the whole data set."""
    return "hydra_personal" if model.is_on else "hydra_shared"


def gain_reason(model: OwnModel) -> str:
    """Return why own heads count in a data set, or why not."""
    gain = model.gain.loss
    bounds = "" if gain.low is None or gain.high is None else f" [{gain.low:+.4f}, {gain.high:+.4f}]"
    verdict = "above zero" if model.is_on else "not shown to be above zero"
    return (
        f"own heads lower the log loss of {model.gain.num_records} held-out records of {model.gain.num_users} users by "
        f"{gain.value:+.4f}{bounds}, {verdict}"
    )


def _labels_of(task: Task, user: User) -> list[str]:
    return [record.output for record in user.history if record.output in task.labels]


def likeliest(task: Task, candidates: Sequence[str], logs: Sequence[float]) -> str:
    """Return the candidate with the highest expected quality by the log probabilities; the first of equals."""
    (place,) = chosen_candidates(task, np.array(logs), Segments.even(len(logs), len(logs)))
    return candidates[int(place)]


def _answer(system: str, value: str | None) -> SystemAnswer:
    return SystemAnswer(system=system, value=value, error="nothing to answer from" if value is None else None)
