"""Gate: choice of one of several systems for each user, by the quality expected from held-out history.

For user u and system s, with d_us the difference of the user's mean quality on n_u pseudo-queries (answered by heads
fitted without them) from the mean over users, less the same difference of RAG:

    expected quality_us = mean_s + slope_s * n_u / (n_u + prior_queries_s) * d_us

slope and prior_queries (shrinkage) are fitted on training users, whose queries' qualities are known too. The system
with the highest expected quality answers: zero-shot or RAG where heads do not help.

Shape suffixes: U users, S systems.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hydra_ray.adapt.choosing import choose
from hydra_ray.adapt.context import greedy_answers
from hydra_ray.config import Task
from hydra_ray.lamp.quality import quality
from hydra_ray.retrieve.dense import Floats
from hydra_ray.retrieve.ranking import queries_by_id
from hydra_ray.rows import DraftedQuery, DraftedUser, GateOutcome, ScoredGroup, ScoredUser, User

GATED = ("zero_shot", "rag_k", "hydra_shared", "hydra_personal")
"""Systems that the gate chooses from; the first of equals is chosen."""
_REFERENCE, _SHARED, _PERSONAL = (GATED.index(name) for name in ("rag_k", "hydra_shared", "hydra_personal"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Parameters of one fold's gate, fitted on its training users."""

    means_S: tuple[float, ...]
    """Mean quality of each system on the training users' queries."""
    pseudo_means_S: tuple[float, ...]
    """Mean quality of each system on all users' pseudo-queries."""
    slopes_S: tuple[float, ...]
    """Regression slopes of a user's difference on queries on the shrunk difference on pseudo-queries; both relative to
    RAG.
    """
    prior_queries_S: tuple[float, ...]
    """Pseudo-counts, in pseudo-queries, of the mean over users."""

    def choose(self, outcome: GateOutcome) -> tuple[str, str]:
        """Return the system that answers for a user, and the reason as text."""
        departures_S = _departures(np.array(outcome.pseudo), np.array(self.pseudo_means_S))
        trust_S = outcome.num_pseudo / (outcome.num_pseudo + np.array(self.prior_queries_S))
        expected_S = np.array(self.means_S) + np.array(self.slopes_S) * trust_S * departures_S
        best = int(np.argmax(expected_S))
        figures = ", ".join(f"{name} {value:.3f}" for name, value in zip(GATED, expected_S, strict=True))
        source = f"{outcome.num_pseudo} pseudo-queries of the user and the training users' queries"
        return GATED[best], f"expected quality by {source}: {figures}"


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
    training_outcomes = [outcome for outcome in outcomes if outcome.queries]
    if not training_outcomes:
        return None
    with_pseudo = [outcome for outcome in outcomes if outcome.num_pseudo]
    pseudo_means_S = np.mean([each.pseudo for each in with_pseudo], axis=0) if with_pseudo else np.zeros(len(GATED))
    means_S = np.mean([each.queries for each in training_outcomes], axis=0)
    new = [each.pseudo for each in with_pseudo if each.is_new]
    if new:
        # The basis of personal heads was estimated on the training users; only new users give an unbiased estimate of
        # the gain of personal heads.
        gains_S = np.mean(new, axis=0)
        means_S[_PERSONAL] = means_S[_SHARED] + gains_S[_PERSONAL] - gains_S[_SHARED]
    both = [each for each in training_outcomes if each.num_pseudo]
    slopes_S, prior_S = _evidence(both, means_S, pseudo_means_S)
    return Gate(
        means_S=tuple(means_S.tolist()),
        pseudo_means_S=tuple(pseudo_means_S.tolist()),
        slopes_S=tuple(slopes_S.tolist()),
        prior_queries_S=tuple(prior_S.tolist()),
    )


_PRIOR_QUERIES = (1.0, 3.0, 10.0, 30.0, 100.0)
_RIDGE_USERS = 20.0
"""Pseudo-count, in users, of a slope of 0: shrinks the slope where there are few users."""


def _evidence(both: Sequence[GateOutcome], means_S: Floats, pseudo_means_S: Floats) -> tuple[Floats, Floats]:
    """Fit slope and pseudo-count of pseudo-queries of each system (S) by ridge regression over the training users."""
    slopes_S, prior_S = np.zeros(len(GATED)), np.full(len(GATED), _PRIOR_QUERIES[-1])
    if not both:
        return slopes_S, prior_S
    numbers_U = np.array([each.num_pseudo for each in both], np.float64)
    pseudo_US = np.array([_departures(np.array(each.pseudo), pseudo_means_S) for each in both])
    shown_US = np.array([_departures(np.array(each.queries), means_S) for each in both])
    for system in (each for each in range(len(GATED)) if each != _PERSONAL):
        best = np.inf
        for prior in _PRIOR_QUERIES:
            x = pseudo_US[:, system] * numbers_U / (numbers_U + prior)
            ridge = _RIDGE_USERS * x.var()
            slope = float(np.clip(x @ shown_US[:, system] / max(x @ x + ridge, 1e-12), 0, 1))
            loss = float(((shown_US[:, system] - slope * x) ** 2).sum())
            if loss < best - 1e-12:
                best, slopes_S[system], prior_S[system] = loss, slope, prior
    slopes_S[_PERSONAL], prior_S[_PERSONAL] = slopes_S[_SHARED], prior_S[_SHARED]
    return slopes_S, prior_S


def _departures(values_S: Floats, means_S: Floats) -> Floats:
    """Return each system's difference from its mean, relative to that of RAG (S); zeros where nothing is known."""
    if not len(values_S):
        return np.zeros(len(means_S))
    departures_S = values_S - means_S
    return departures_S - departures_S[_REFERENCE]


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
