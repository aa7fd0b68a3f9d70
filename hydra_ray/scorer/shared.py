"""The shared head: one ridge regression on all training users' groups, its strength chosen on users left out.

Pseudo-queries and queries need not be alike: the generator may do better or worse on a user's own records than on the
queries that are evaluated. So there are two shared heads: one for queries, which learns from training users' queries
and from their pseudo-queries as much as these help there, and one for pseudo-queries, around which users' codes are
fitted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from hydra_ray.errors import TrainingError
from hydra_ray.scorer.heads import Bools, Floats, GroupTable, Ints, fit_codes, group_losses
from hydra_ray.seeds import rng_of, seed_of

RIDGE_VARIANCES = (1e-3, 1e-2, 0.1, 1.0)
"""Candidates for the prior variance of the shared head's weights, of features that vary by 1 within a group."""
PSEUDO_WEIGHTS = (1.0, 0.3, 0.1, 0.0)
"""Candidates for what a pseudo-query counts for the head of queries, on which a query counts 1."""
NUM_USER_FOLDS = 5
"""Folds of training users; each user is scored by a head that was fitted without the user's fold."""
MAX_SEARCH_USERS = 300
"""Users on whom candidate values are compared."""
_PASSES = 2


ChoiceT = TypeVar("ChoiceT", bound=Any)
"""A NamedTuple of the values that are searched for."""


class _Choice(NamedTuple):
    """What is searched for."""

    learned_variance: float
    plain_variance: float
    pseudo_weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedHead:
    """A head that users start from, and versions of it that have not seen some of the training users."""

    weights_D: Floats
    left_out_KD: Floats
    """Row k was fitted without the users of fold k."""

    def scores(self, features_ND: Floats, user_fold_N: Ints) -> Floats:
        """Each candidate's score; where a fold is given, by the head that has not seen it.

        Args:
            user_fold_N: fold of each candidate's user, -1 for users who taught nothing.
        """
        weights_KD = np.vstack([self.left_out_KD, self.weights_D])
        return np.einsum("nd,nd->n", features_ND, weights_KD[user_fold_N])


def user_fold(user_id: str) -> int:
    """The fold of a training user."""
    return seed_of(0, "fold of users", user_id) % NUM_USER_FOLDS


def fit_shared_heads(
    table: GroupTable, is_pseudo_G: Bools, user_fold_U: Ints, num_learned: int, is_judge_U: Bools, seed: int
) -> tuple[SharedHead, SharedHead]:
    """The shared heads of queries and of pseudo-queries.

    Args:
        table: every group teaches; features vary by about 1 within a group.
        num_learned: how many of the first features come from the base; they have a ridge of their own.
        is_judge_U: the users whose losses choose the ridge: those whom the base was not trained on.

    Raises:
        TrainingError: there is no group to fit on.
    """
    if not table.num_groups:
        raise TrainingError(
            "no training user has a group of candidates of different, known quality: there is nothing to fit the "
            "shared head on. Check the share of failed answers and the qualities of the stage before."
        )
    problem = _Problem(table, is_pseudo_G, user_fold_U, num_learned, seed)
    may_judge_G = is_judge_U[table.user_of_group()]
    of_pseudo = problem.choose(_judges(may_judge_G, is_pseudo_G), _Choice(0.01, 0.1, 1.0), [1.0])
    pseudo_head = problem.head(of_pseudo)
    if is_pseudo_G.all():
        return pseudo_head, pseudo_head
    of_queries = problem.choose(_judges(may_judge_G, ~is_pseudo_G), of_pseudo, PSEUDO_WEIGHTS)
    return problem.head(of_queries), pseudo_head


def _judges(may_judge_G: Bools, is_kind_G: Bools) -> Bools:
    """The groups that choose: of the kind and of users who may judge, as far as there are any."""
    wanted = (may_judge_G & is_kind_G, is_kind_G, np.ones(len(is_kind_G), bool))
    return next(each for each in wanted if each.any())


class _Problem:
    """The ridge regressions of one table; each is started from the last one of its fold."""

    def __init__(self, table: GroupTable, is_pseudo_G: Bools, user_fold_U: Ints, num_learned: int, seed: int):
        self._table, self._is_pseudo_G = table, is_pseudo_G
        self._fold_G = user_fold_U[table.user_of_group()]
        self._num_learned = num_learned
        self._seed = seed
        self._starts: dict[int, Floats] = {}

    def choose(self, judges_G: Bools, start: _Choice, pseudo_weights: Sequence[float]) -> _Choice:
        """The choice with a low left-out loss of the judges, found by changing one value at a time."""
        chosen = rng_of(self._seed, "search").permutation(self._table.num_users)[:MAX_SEARCH_USERS]
        is_kept_G = np.isin(self._table.user_of_group(), chosen)
        judges_G = judges_G & is_kept_G if (judges_G & is_kept_G).any() else judges_G
        values: Mapping[str, Sequence[float]] = {
            "pseudo_weight": pseudo_weights,
            "plain_variance": RIDGE_VARIANCES if self._table.features_ND.shape[1] > self._num_learned else [1.0],
            "learned_variance": RIDGE_VARIANCES if self._num_learned else [1.0],
        }
        return search(lambda choice: self._loss(choice, judges_G, is_kept_G), start, values)

    def head(self, choice: _Choice) -> SharedHead:
        """The head of a choice, fitted on all groups, and on all but each fold."""
        everything = np.ones(self._table.num_groups, bool)
        return SharedHead(
            weights_D=self._fit(choice, -1, everything),
            left_out_KD=np.stack([self._fit(choice, fold, everything) for fold in range(NUM_USER_FOLDS)]),
        )

    def _loss(self, choice: _Choice, judges_G: Bools, is_kept_G: Bools) -> float:
        total = 0.0
        for fold in range(NUM_USER_FOLDS):
            judged = self._table.select(judges_G & (self._fold_G == fold))
            if judged.num_groups:
                total += group_losses(judged, judged.features_ND @ self._fit(choice, fold, is_kept_G)).sum()
        return float(total)

    def _fit(self, choice: _Choice, left_out: int, is_kept_G: Bools) -> Floats:
        weights_G = np.where(self._is_pseudo_G, choice.pseudo_weight, 1.0)
        table = self._table.select(is_kept_G & (self._fold_G != left_out) & (weights_G > 0))
        num_plain = self._table.features_ND.shape[1] - self._num_learned
        variances_D = np.repeat([choice.learned_variance, choice.plain_variance], [self._num_learned, num_plain])
        if not table.num_groups:
            return np.zeros(len(variances_D))
        weights_G = weights_G[is_kept_G & (self._fold_G != left_out) & (weights_G > 0)]
        start = self._starts.get(left_out)
        zeros_N = np.zeros(len(table.features_ND))
        pooled = table.pooled()
        weights = fit_codes(pooled, table.features_ND, zeros_N, variances_D, weights_G, start).codes_UR
        self._starts[left_out] = weights
        return weights[0]


def search(cost: Callable[[ChoiceT], float], start: ChoiceT, values: Mapping[str, Sequence[float]]) -> ChoiceT:
    """The choice with a low cost, found by changing one value at a time, in the order of `values`."""
    known: dict[ChoiceT, float] = {}

    def cached(choice: ChoiceT) -> float:
        if choice not in known:
            known[choice] = cost(choice)
        return known[choice]

    best = start
    for _ in range(_PASSES):
        for name, candidates in values.items():
            if len(candidates) > 1:
                best = min((best._replace(**{name: value}) for value in candidates), key=cached)
    return best
