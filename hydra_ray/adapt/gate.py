"""The gate: which of several systems answers for a user, by the quality that held-out history lets expect.

For each system the training users' queries tell the mean quality. A user's own pseudo-queries, answered by heads that
were fitted without them, tell how far the user departs from it; that departure counts as much as it did for training
users, whose queries are known too, and the less the fewer pseudo-queries there are. The system with the best expected
quality answers: zero-shot and RAG where the heads do not help, so that personalization is not forced on anyone.

Letters in shape suffixes: U users, S systems.
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
"""What the gate chooses among; of systems that are expected to be equally good, the first."""
_REFERENCE, _SHARED, _PERSONAL = (GATED.index(name) for name in ("rag_k", "hydra_shared", "hydra_personal"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What a fold's training users teach about the systems."""

    means_S: tuple[float, ...]
    """Mean quality of the training users' queries."""
    pseudo_means_S: tuple[float, ...]
    """Mean quality of all users' pseudo-queries."""
    slopes_S: tuple[float, ...]
    """How much of a user's departure on pseudo-queries shows again on queries; against that of RAG."""
    prior_queries_S: tuple[float, ...]
    """As many pseudo-queries of the user's own weigh as much as what is known of all users."""

    def choose(self, outcome: GateOutcome) -> tuple[str, str]:
        """The system that answers for a user, and why."""
        departures_S = _departures(np.array(outcome.pseudo), np.array(self.pseudo_means_S))
        trust_S = outcome.num_pseudo / (outcome.num_pseudo + np.array(self.prior_queries_S))
        expected_S = np.array(self.means_S) + np.array(self.slopes_S) * trust_S * departures_S
        best = int(np.argmax(expected_S))
        figures = ", ".join(f"{name} {value:.3f}" for name, value in zip(GATED, expected_S, strict=True))
        source = f"{outcome.num_pseudo} pseudo-queries of the user and the training users' queries"
        return GATED[best], f"expected quality by {source}: {figures}"


def user_outcomes(user: User, drafted: DraftedUser, adapter: Sequence[ScoredUser], task: Task) -> Iterator[GateOutcome]:
    """How good each system's answers are to the user's queries that may be learned from, in each fold.

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
    """The gate of one fold; None where no training user has a query whose answers could be judged."""
    teachers = [outcome for outcome in outcomes if outcome.queries]
    if not teachers:
        return None
    with_pseudo = [outcome for outcome in outcomes if outcome.num_pseudo]
    pseudo_means_S = np.mean([each.pseudo for each in with_pseudo], axis=0) if with_pseudo else np.zeros(len(GATED))
    means_S = np.mean([each.queries for each in teachers], axis=0)
    new = [each.pseudo for each in with_pseudo if each.is_new]
    if new:
        # The basis of the own heads has seen the training users; what own heads add, only new users tell honestly.
        gains_S = np.mean(new, axis=0)
        means_S[_PERSONAL] = means_S[_SHARED] + gains_S[_PERSONAL] - gains_S[_SHARED]
    both = [each for each in teachers if each.num_pseudo]
    slopes_S, prior_S = _evidence(both, means_S, pseudo_means_S)
    return Gate(
        means_S=tuple(means_S.tolist()),
        pseudo_means_S=tuple(pseudo_means_S.tolist()),
        slopes_S=tuple(slopes_S.tolist()),
        prior_queries_S=tuple(prior_S.tolist()),
    )


_PRIOR_QUERIES = (1.0, 3.0, 10.0, 30.0, 100.0)
_RIDGE_USERS = 20.0
"""As many imagined users for whom pseudo-queries say nothing: few users cannot make the gate believe in them."""


def _evidence(both: Sequence[GateOutcome], means_S: Floats, pseudo_means_S: Floats) -> tuple[Floats, Floats]:
    """Slope and prior number of pseudo-queries of each system, by least squares over the training users."""
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
    """How much better than usual each system is, beyond how much better RAG is; zeros where nothing is known."""
    if not len(values_S):
        return np.zeros(len(means_S))
    departures_S = values_S - means_S
    return departures_S - departures_S[_REFERENCE]


def _qualities(drafted: DraftedQuery, group: ScoredGroup, target: str, task: Task) -> list[float]:
    """Of each system's answer, 0 without one; both heads choose in one group, as pseudo-queries have no other."""
    greedy = greedy_answers(drafted, "personal")
    values: Mapping[str, str | None] = {
        "zero_shot": greedy["zero_shot"].value if "zero_shot" in greedy else None,
        "rag_k": greedy["rag_k"].value if "rag_k" in greedy else None,
        "hydra_shared": choose(group, "shared", task),
        "hydra_personal": choose(group, "personal", task),
    }
    return [0.0 if (value := values[name]) is None else quality(task, value, target) for name in GATED]
