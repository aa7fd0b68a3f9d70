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
from hydra_ray.scorer.linear.groups import Bools, Floats, GroupTable, Ints, group_losses
from hydra_ray.scorer.linear.pooled import PooledRegression
from hydra_ray.seeds import rng_of, seed_of

RIDGE_VARIANCES = (1e-4, 1e-3, 1e-2, 0.1, 1.0)
"""Candidates for the prior variance of the shared head's weights, of features that vary by 1 within a group."""
PREFITTED_VARIANCES = (*RIDGE_VARIANCES, 10.0)
"""Those of features which are fitted scores themselves: with hardly any ridge, what others add starts from them."""
PSEUDO_WEIGHTS = (1.0, 0.3, 0.1, 0.0)
"""Candidates for what a pseudo-query counts for the head of queries, on which a query counts 1."""
NUM_USER_FOLDS = 5
"""Folds of training users; each user is scored by a head that was fitted without the user's fold."""
MAX_SEARCH_USERS = 300
"""Users on whom candidate values are compared."""
_PASSES = 2
_SEARCH_TOLERANCE = 0.1
"""Newton decrement, in nats, at which a head is good enough to be compared: leaving a fold out is one more step."""


ChoiceT = TypeVar("ChoiceT", bound=Any)
"""A NamedTuple of the values that are searched for."""


class Widths(NamedTuple):
    """Kinds of features, in this order, the plain ones between them."""

    learned: int
    """How many come from the base; they have a ridge of their own."""
    prefitted: int = 0
    """How many are fitted scores themselves, with a ridge of their own too."""


class _Choice(NamedTuple):
    """What is searched for."""

    learned_variance: float
    plain_variance: float
    trusted_variance: float
    pseudo_weight: float


_START = _Choice(learned_variance=0.01, plain_variance=0.1, trusted_variance=10.0, pseudo_weight=1.0)


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
    table: GroupTable,
    is_pseudo_G: Bools,
    user_fold_U: Ints,
    widths: Widths,
    is_validation_U: Bools,
    seed: int,
) -> tuple[SharedHead, SharedHead]:
    """The shared heads of queries and of pseudo-queries; one for both where there is but one kind.

    Args:
        table: every group teaches; features vary by about 1 within a group.
        is_judge_U: the users whose losses choose the ridge: those whom the base was not trained on.

    Raises:
        TrainingError: there is no group to fit on.
    """
    if not table.num_groups:
        raise TrainingError(
            "no training user has a group of candidates of different, known quality: there is nothing to fit the "
            "shared head on. Check the share of failed answers and the qualities of the stage before."
        )
    problem = _Problem(table, is_pseudo_G, user_fold_U, widths, seed)
    may_judge_G = is_validation_U[table.user_of_group()]
    of_pseudo = problem.choose(_judges(may_judge_G, is_pseudo_G), _START, [1.0])
    pseudo_head = problem.head(of_pseudo)
    if is_pseudo_G.all() or not is_pseudo_G.any():
        return pseudo_head, pseudo_head
    of_queries = problem.choose(_judges(may_judge_G, ~is_pseudo_G), of_pseudo, PSEUDO_WEIGHTS)
    return problem.head(of_queries), pseudo_head


def _judges(may_judge_G: Bools, is_kind_G: Bools) -> Bools:
    """The groups that choose: of the kind and of users who may judge, as far as there are any."""
    is_kind_G = is_kind_G if is_kind_G.any() else np.ones(len(is_kind_G), bool)
    wanted = (may_judge_G & is_kind_G, is_kind_G)
    return next(each for each in wanted if each.any())


class _Problem:
    """The ridge regressions of one table, whose groups are sorted by fold; each is started from the last one."""

    def __init__(self, table: GroupTable, is_pseudo_G: Bools, user_fold_U: Ints, widths: Widths, seed: int):
        fold_G, user_G = user_fold_U[table.user_of_group()], table.user_of_group()
        order = np.argsort(fold_G, kind="stable")
        chosen = rng_of(seed, "search").permutation(table.num_users)[:MAX_SEARCH_USERS]
        self._table = table.handed_to(fold_G, NUM_USER_FOLDS)
        self._fold_G = fold_G[order]
        self._is_pseudo_G = is_pseudo_G[order]
        self._is_sampled_G = np.isin(user_G, chosen)[order]
        self._widths, self._num_plain = widths, table.features_ND.shape[1] - sum(widths)
        self._regression = PooledRegression(self._table, self._table.features_ND, np.zeros(len(table.features_ND)))
        self._order = order
        self._start = np.zeros(table.features_ND.shape[1])

    def choose(self, judges_G: Bools, start: _Choice, pseudo_weights: Sequence[float]) -> _Choice:
        """The choice with a low left-out loss of the judges, found by changing one value at a time."""
        judges_G = judges_G[self._order]
        judges_G = judges_G & self._is_sampled_G if (judges_G & self._is_sampled_G).any() else judges_G
        values: Mapping[str, Sequence[float]] = {
            "pseudo_weight": pseudo_weights,
            "plain_variance": RIDGE_VARIANCES if self._num_plain else [1.0],
            "trusted_variance": PREFITTED_VARIANCES if self._widths.prefitted else [1.0],
            "learned_variance": RIDGE_VARIANCES if self._widths.learned else [1.0],
        }
        return search(lambda choice: self._loss(choice, judges_G), start, values)

    def head(self, choice: _Choice) -> SharedHead:
        """The head of a choice, fitted on all groups, and on all but each fold."""
        variances_D, weights_G = self._prior_and_weights(choice)
        fits = [
            self._regression.code(variances_D, weights_G * (self._fold_G != fold), self._start)
            for fold in (*range(NUM_USER_FOLDS), -1)
        ]
        return SharedHead(weights_D=fits[-1], left_out_KD=np.stack(fits[:-1]))

    def _loss(self, choice: _Choice, judges_G: Bools) -> float:
        variances_D, weights_G = self._prior_and_weights(choice)
        weights_G = weights_G * self._is_sampled_G
        self._start = self._regression.code(variances_D, weights_G, self._start, _SEARCH_TOLERANCE)
        left_out_KD = self._regression.codes_without(variances_D, weights_G, self._start)
        scores_N = np.einsum("nd,nd->n", self._table.features_ND, left_out_KD[self._table.user_of_candidate()])
        return float(group_losses(self._table, scores_N)[judges_G].sum())

    def _prior_and_weights(self, choice: _Choice) -> tuple[Floats, Floats]:
        variances = [choice.learned_variance, choice.plain_variance, choice.trusted_variance]
        weights_G = np.where(self._is_pseudo_G, choice.pseudo_weight, 1.0)
        return np.repeat(variances, [self._widths.learned, self._num_plain, self._widths.prefitted]), weights_G


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
