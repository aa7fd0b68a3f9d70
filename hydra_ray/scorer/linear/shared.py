"""The shared head: one ridge regression on all training users' groups, its penalty chosen on left-out users.

Pseudo-queries and queries may differ: the generator may do better or worse on a user's own records than on the queries
that are evaluated. So there are two shared heads: one for queries, fitted on training users' queries and, with a weight
that is chosen, their pseudo-queries; and one for pseudo-queries, around which users' codes are fitted.

Shape suffixes: U users, G groups, N candidates, D features, F folds of training users.
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
"""Candidates for the prior variance (inverse L2 penalty) of the weights, of features with unit variance within a group.
"""
PREFITTED_VARIANCES = (*RIDGE_VARIANCES, 10.0)
"""Candidates for features that are fitted scores themselves: with hardly any penalty, other features correct them."""
PSEUDO_WEIGHTS = (1.0, 0.3, 0.1, 0.0)
"""Candidates for the weight of a pseudo-query in the head of queries, where a query has weight 1."""
NUM_USER_FOLDS = 5
"""Number of folds of training users; each user is scored by a head that was fitted without the user's fold."""
MAX_SEARCH_USERS = 300
"""Number of users on whom candidate values are compared."""
_PASSES = 2
_SEARCH_TOLERANCE = 0.1
"""Newton decrement, in nats, at which a head is good enough to be compared: leaving a fold out is one more step."""


ChoiceT = TypeVar("ChoiceT", bound=Any)
"""NamedTuple of the values that are searched for."""


class Widths(NamedTuple):
    """Numbers of features by kind. Order of the columns: learned, handcrafted, prefitted."""

    learned: int
    """Features from the base, with a penalty of their own."""
    prefitted: int = 0
    """Features that are fitted scores, with a penalty of their own."""


class _Choice(NamedTuple):
    """Prior variances by kind of feature, and the weight of a pseudo-query."""

    learned_variance: float
    plain_variance: float
    prefitted_variance: float
    pseudo_weight: float


_START = _Choice(learned_variance=0.01, plain_variance=0.1, prefitted_variance=10.0, pseudo_weight=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedHead:
    """Head shared by all users, cross-fitted over folds of the training users."""

    weights_D: Floats
    left_out_FD: Floats
    """Row f was fitted without the users of fold f."""

    def scores(self, features_ND: Floats, user_fold_N: Ints) -> Floats:
        """Return each candidate's score (N); by the head fitted without the user's fold, where one is given.

        Args:
            user_fold_N: fold of each candidate's user; -1 for users whom the head was not trained on.
        """
        weights_FD = np.vstack([self.left_out_FD, self.weights_D])
        return np.einsum("nd,nd->n", features_ND, weights_FD[user_fold_N])


def user_fold(user_id: str) -> int:
    """Return the fold of a training user, by a hash of the id."""
    return seed_of(0, "fold of users", user_id) % NUM_USER_FOLDS


def fit_shared_heads(
    table: GroupTable,
    is_pseudo_G: Bools,
    user_fold_U: Ints,
    widths: Widths,
    is_validation_U: Bools,
    seed: int,
) -> tuple[SharedHead, SharedHead]:
    """Fit the shared heads of queries and of pseudo-queries; they are one where only one kind exists.

    Args:
        table: every group has a target; features have standard deviation about 1 within a group.
        is_validation_U: users whose losses choose the penalty: those whom the base was not trained on.

    Raises:
        TrainingError: there is no group to fit on.
    """
    if not table.num_groups:
        raise TrainingError(
            "no training user has a group whose candidates have known and different qualities: there is nothing to fit "
            "the shared head on. Check the fraction of failed answers and the qualities in the stage before."
        )
    problem = _Problem(table, is_pseudo_G, user_fold_U, widths, seed)
    is_validation_G = is_validation_U[table.user_of_group()]
    of_pseudo = problem.choose(_validation_groups(is_validation_G, is_pseudo_G), _START, [1.0])
    pseudo_head = problem.head(of_pseudo)
    if is_pseudo_G.all() or not is_pseudo_G.any():
        return pseudo_head, pseudo_head
    of_queries = problem.choose(_validation_groups(is_validation_G, ~is_pseudo_G), of_pseudo, PSEUDO_WEIGHTS)
    return problem.head(of_queries), pseudo_head


def _validation_groups(is_validation_G: Bools, is_kind_G: Bools) -> Bools:
    """Return a mask of the validation users' groups of this kind, or the nearest there is: of this kind, or all."""
    is_kind_G = is_kind_G if is_kind_G.any() else np.ones(len(is_kind_G), bool)
    wanted = (is_validation_G & is_kind_G, is_kind_G)
    return next(each for each in wanted if each.any())


class _Problem:
    """Ridge regressions on one table, whose groups are sorted by fold; each starts from the solution of the last."""

    def __init__(self, table: GroupTable, is_pseudo_G: Bools, user_fold_U: Ints, widths: Widths, seed: int):
        fold_G, user_G = user_fold_U[table.user_of_group()], table.user_of_group()
        order = np.argsort(fold_G, kind="stable")
        chosen = rng_of(seed, "search").permutation(table.num_users)[:MAX_SEARCH_USERS]
        self._table = table.reassigned_to(fold_G, NUM_USER_FOLDS)
        self._fold_G = fold_G[order]
        self._is_pseudo_G = is_pseudo_G[order]
        self._is_sampled_G = np.isin(user_G, chosen)[order]
        self._widths, self._num_plain = widths, table.features_ND.shape[1] - sum(widths)
        self._regression = PooledRegression(self._table, self._table.features_ND, np.zeros(len(table.features_ND)))
        self._order = order
        self._start = np.zeros(table.features_ND.shape[1])

    def choose(self, validation_G: Bools, start: _Choice, pseudo_weights: Sequence[float]) -> _Choice:
        """Choose the values with a low left-out loss on the validation groups, by coordinate descent."""
        validation_G = validation_G[self._order]
        validation_G = validation_G & self._is_sampled_G if (validation_G & self._is_sampled_G).any() else validation_G
        values: Mapping[str, Sequence[float]] = {
            "pseudo_weight": pseudo_weights,
            "plain_variance": RIDGE_VARIANCES if self._num_plain else [1.0],
            "prefitted_variance": PREFITTED_VARIANCES if self._widths.prefitted else [1.0],
            "learned_variance": RIDGE_VARIANCES if self._widths.learned else [1.0],
        }
        return search(lambda choice: self._loss(choice, validation_G), start, values)

    def head(self, choice: _Choice) -> SharedHead:
        """Fit the head of a choice on all groups, and on all but each fold."""
        variances_D, weights_G = self._prior_and_weights(choice)
        fits = [
            self._regression.code(variances_D, weights_G * (self._fold_G != fold), self._start)
            for fold in (*range(NUM_USER_FOLDS), -1)
        ]
        return SharedHead(weights_D=fits[-1], left_out_FD=np.stack(fits[:-1]))

    def _loss(self, choice: _Choice, validation_G: Bools) -> float:
        variances_D, weights_G = self._prior_and_weights(choice)
        weights_G = weights_G * self._is_sampled_G
        self._start = self._regression.code(variances_D, weights_G, self._start, _SEARCH_TOLERANCE)
        left_out_FD = self._regression.codes_without(variances_D, weights_G, self._start)
        scores_N = np.einsum("nd,nd->n", self._table.features_ND, left_out_FD[self._table.user_of_candidate()])
        return float(group_losses(self._table, scores_N)[validation_G].sum())

    def _prior_and_weights(self, choice: _Choice) -> tuple[Floats, Floats]:
        variances = [choice.learned_variance, choice.plain_variance, choice.prefitted_variance]
        weights_G = np.where(self._is_pseudo_G, choice.pseudo_weight, 1.0)
        return np.repeat(variances, [self._widths.learned, self._num_plain, self._widths.prefitted]), weights_G


def search(cost: Callable[[ChoiceT], float], start: ChoiceT, values: Mapping[str, Sequence[float]]) -> ChoiceT:
    """Minimize `cost` over a grid by coordinate descent, in the order of `values`."""
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
