"""Gate: choice of the one system that answers for all users of a data set, by what training users and histories show.

The shared head answers unless another system is better: zero-shot or RAG where their mean quality on the training
users' queries is higher; own heads where their gain over the shared head on new users' held-out history is above zero
with confidence, since the basis of own heads was estimated on the training users. The choice is made for the data set,
not for each user: what a few pseudo-queries show of one user hardly correlates with the gain on the user's queries.

Shape suffixes: U users, S systems.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hydra_ray.adapt.choosing import choose
from hydra_ray.adapt.context import greedy_answers
from hydra_ray.config import Task
from hydra_ray.evaluate.intervals import Interval, mean_interval
from hydra_ray.lamp.quality import quality
from hydra_ray.retrieve.ranking import queries_by_id
from hydra_ray.rows import DraftedQuery, DraftedUser, GateOutcome, ScoredGroup, ScoredUser, User

GATED = ("zero_shot", "rag_k", "hydra_shared", "hydra_personal")
"""Systems that the gate chooses from."""
_PLAIN = tuple(GATED.index(name) for name in ("zero_shot", "rag_k"))
_SHARED, _PERSONAL = (GATED.index(name) for name in ("hydra_shared", "hydra_personal"))
_NUM_RESAMPLES, _CONFIDENCE = 2000, 0.95
"""Resamples of users, and confidence, of the interval of own heads' gain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Choice of one fold's gate, which is the same for all of its new users."""

    choice: str
    """System that answers."""
    reason: str
    """The qualities that were compared, as text; they are means over users."""


def user_outcomes(user: User, drafted: DraftedUser, adapter: Sequence[ScoredUser], task: Task) -> Iterator[GateOutcome]:
    """Yield for each fold each system's mean quality on the user's queries that may be learned from.

    Args:
        adapter: the user's scores in each fold.
    """
    queries = queries_by_id(user)
    for fold, scored in enumerate(adapter):
        groups = {group.query_id: group for group in scored.groups if group.variant == "personal"}
        rows: dict[bool, list[list[float]]] = {True: [], False: []}
        for each in drafted.queries:
            may_learn = each.is_pseudo or not scored.is_new
            target = queries[each.query_id].target
            if may_learn and target is not None and each.query_id in groups:
                rows[each.is_pseudo].append(_qualities(each, groups[each.query_id], target, task))
        yield GateOutcome(
            user_id=user.user_id,
            fold=fold,
            is_new=scored.is_new,
            pseudo=tuple(np.mean(rows[True], axis=0)) if rows[True] else (),
            num_pseudo=len(rows[True]),
            queries=tuple(np.mean(rows[False], axis=0)) if rows[False] else (),
        )


def fit_gate(outcomes: Sequence[GateOutcome]) -> Gate | None:
    """Fit the gate of one fold; return None where no training user has a query whose answers can be evaluated."""
    shown_US = np.array([outcome.queries for outcome in outcomes if outcome.queries], np.float64)
    if not len(shown_US):
        return None
    means_S = shown_US.mean(axis=0)
    gain = _own_gain([outcome for outcome in outcomes if outcome.is_new and outcome.num_pseudo])
    chosen = _SHARED
    if gain is not None:
        means_S[_PERSONAL] = means_S[_SHARED] + gain.value
        if gain.is_above_zero:
            chosen = _PERSONAL
    chosen = max((chosen, *_PLAIN), key=lambda system: means_S[system])  # of equals the heads answer
    figures = ", ".join(f"{GATED[system]} {means_S[system]:.3f}" for system in (*_PLAIN, _SHARED))
    return Gate(
        choice=GATED[chosen],
        reason=f"mean quality on the queries of {len(shown_US)} training users: {figures}; {_gain_text(gain)}",
    )


def _own_gain(new: Sequence[GateOutcome]) -> Interval | None:
    """Return the gain in quality of own heads over the shared head on new users' pseudo-queries, the mean over all;
    None without any."""
    if not new:
        return None
    gains_U = np.array([each.pseudo[_PERSONAL] - each.pseudo[_SHARED] for each in new], np.float64)
    numbers_U = np.array([each.num_pseudo for each in new], np.float64)
    return mean_interval(numbers_U, gains_U, _NUM_RESAMPLES, _CONFIDENCE)


def _gain_text(gain: Interval | None) -> str:
    if gain is None or gain.low is None or gain.high is None:
        return "of own heads nothing is known"
    return (
        f"own heads beside the shared head on held-out history: {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    )


def _qualities(drafted: DraftedQuery, group: ScoredGroup, target: str, task: Task) -> list[float]:
    """Return the quality of each system's answer, 0 without one; both heads choose in one group, as pseudo-queries have
    no other.
    """
    greedy = greedy_answers(drafted, "personal")
    values: Mapping[str, str | None] = {
        "zero_shot": greedy["zero_shot"].value if "zero_shot" in greedy else None,
        "rag_k": greedy["rag_k"].value if "rag_k" in greedy else None,
        "hydra_shared": choose(group, "shared", task),
        "hydra_personal": choose(group, "personal", task),
    }
    return [0.0 if (value := values[name]) is None else quality(task, value, target) for name in GATED]
