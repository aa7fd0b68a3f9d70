"""Best of N: expected quality of the draft that a head scores highest among N of a query's drafts, by N.

N of a query's C drafts are drawn without replacement, each set of N equally likely. With the drafts in the order of the
head's ranking, draft i (from 0) is chosen where it is drawn and the N - 1 others come after it: in C(C - 1 - i, N - 1)
of the C(C, N) sets. So the expectation needs no sampling. A query with fewer than N drafts takes all it has.

More drafts help as far as scores tell good drafts from bad. Zhang and He (2026, arXiv 2605.10991) name two failures:
*user-level collapse*, scores that hardly differ for some users, and *query-level reward hacking*, scores that correlate
negatively with quality on some queries. The abstract sets no thresholds; here

- a user's scores are collapsed where their standard deviation within a query, on average over the user's queries with
  two drafts at least, is below a tenth of that of the median user;
- a query is hacked at N where the expected quality of the best of N is below that of one draft at random. At N = 2, and
  without equal scores, this is exactly a negative correlation of quality with the rank of the score;
- a user is worse off at N where the same holds for the mean over the user's queries.

Shape suffixes: U users, C drafts of a query, H heads, K curves (one for each head, then the oracle's), P points, Y
curves and then the hacked queries of each head, X columns that are averaged, R resamples.
"""

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydra_ray.config import ReportConfig
from hydra_ray.evaluate.intervals import interval, resampled_means
from hydra_ray.evaluate.metrics import Floats
from hydra_ray.evaluate.systems import ORACLE

HEADS: Mapping[str, str] = {
    "personal": "hydra_personal",
    "shared": "hydra_shared",
    "routed": "hydra_routed",
}
"""Heads whose choices are followed, and the systems of which they are the choosers."""
COLLAPSED = 0.1
"""Fraction of the median user's spread of scores below which a user's scores are collapsed."""
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
"""Numbers of drafts at which curves have a point; the last point is all drafts."""
_NUM_POINTS = len(_SIZES) + 1
_NUM_CURVES = len(HEADS) + 1
_ROW_LENGTH = 2 + (_NUM_CURVES + len(HEADS)) * _NUM_POINTS + len(HEADS)
_SAME = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPool:
    """Distinct drafts of one judged query, at least one. Key: (user_id, query_id)."""

    qualities: Floats
    """Quality of each draft, from 0 to 1: (C,)."""
    rankings: Mapping[str, NDArray[np.int64]]
    """Places of the drafts in the order in which each of HEADS prefers them, best first: (C,)."""
    spreads: Mapping[str, float]
    """Standard deviation of the drafts' scores by each of HEADS."""


@dataclass(slots=True, kw_only=True)
class BestOfN:
    """Curves of best-of-N, summed user by user; without texts and ids."""

    sums: "array[float]" = field(default_factory=lambda: array("d"))
    """A row for each user: number of queries, and of those with two drafts at least; then sums over them of the curves
    (K, P), of the hacked queries (H, P) and of the standard deviations of the scores (H)."""
    num_drafts: int = 0
    """Number of drafts of all queries."""
    most_drafts: int = 0
    """Number of drafts of the query that has most."""

    def add(self, pools: Sequence[ScoredPool]) -> None:
        """Add one user's queries; a user without any is left out."""
        if not pools:
            return
        curves_KP = np.zeros((_NUM_CURVES, _NUM_POINTS))
        hacked_HP = np.zeros((len(HEADS), _NUM_POINTS))
        spread_H = np.zeros(len(HEADS))
        for pool in pools:
            query_KP = expected_qualities(pool)
            curves_KP += query_KP
            hacked_HP += _is_below_one(query_KP[:-1])
            spread_H += [pool.spreads[head] for head in HEADS]
        sizes = [len(pool.qualities) for pool in pools]
        self.num_drafts += sum(sizes)
        self.most_drafts = max(self.most_drafts, *sizes)
        num_choices = sum(size > 1 for size in sizes)
        self.sums.extend([len(pools), num_choices, *curves_KP.ravel(), *hacked_HP.ravel(), *spread_H])

    def figures(self, bootstrap: ReportConfig) -> dict[str, Any] | None:
        """Return the curves as plain JSON; None where no query has two drafts to choose between.

        Returns:
            num_users, num_queries  numbers of users and queries with a draft
            mean_drafts             drafts a query, on average; most_drafts: of the query that has most
            collapsed_users         by head: fraction of the users with a choice whose scores are collapsed
            points                  for N = 1, 2, 4, ... and most_drafts: num_drafts, which is N; oracle, the expected
                                    quality of the best draft; and by head quality, hacked_queries and worse_users
            All figures have value, low and high, of the bootstrap over users; at N = 1 all curves are that of one draft
            at random.
        """
        if self.most_drafts < 2:
            return None
        rows_UX = np.frombuffer(self.sums, dtype=np.float64).reshape(-1, _ROW_LENGTH)
        num_queries_U, num_choices_U = rows_UX[:, 0], rows_UX[:, 1]
        means_UYP = (rows_UX[:, 2 : -len(HEADS)] / num_queries_U[:, None]).reshape(len(rows_UX), -1, _NUM_POINTS)
        curves_YP = _intervals(num_queries_U, means_UYP, bootstrap)
        hacked_HP = curves_YP[_NUM_CURVES:]
        worse_HP = _intervals(np.ones(len(rows_UX)), _is_below_one(means_UYP[:, : len(HEADS)]), bootstrap)
        has_choice_U = num_choices_U > 0
        spread_UH = rows_UX[has_choice_U, -len(HEADS) :] / num_choices_U[has_choice_U, None]
        is_collapsed_UH = (spread_UH <= COLLAPSED * np.median(spread_UH, axis=0)).astype(np.float64)
        return {
            "num_users": len(rows_UX),
            "num_queries": int(num_queries_U.sum()),
            "mean_drafts": self.num_drafts / int(num_queries_U.sum()),
            "most_drafts": self.most_drafts,
            "collapsed_users": _by_head(_intervals(np.ones(len(spread_UH)), is_collapsed_UH, bootstrap)),
            "points": [
                {
                    "num_drafts": size,
                    "oracle": curves_YP[len(HEADS), point],
                    "quality": _by_head(curves_YP[: len(HEADS), point]),
                    "hacked_queries": _by_head(hacked_HP[:, point]),
                    "worse_users": _by_head(worse_HP[:, point]),
                }
                for point, size in self._points()
            ],
        }

    def _points(self) -> Iterable[tuple[int, int]]:
        """Return the points with a number of drafts that some query has, and the last one, as index and that number."""
        smaller = [(point, size) for point, size in enumerate(_SIZES) if size < self.most_drafts]
        return [*smaller, (_NUM_POINTS - 1, self.most_drafts)]


def best_of_n_curve(best_of_n: Mapping[str, Any], titles: Mapping[str, str]) -> dict[str, Any]:
    """Return what `BestOfN.figures` found as a curve (see `hydra_ray.evaluate.learning_curves`).

    Routed heads are left out where they choose as the shared head does.

    Args:
        titles: displayed names of the systems.
    """
    points = best_of_n["points"]
    heads = [
        head
        for head in HEADS
        if head != "routed" or any(point["quality"]["routed"] != point["quality"]["shared"] for point in points)
    ]
    return {
        "titles": {name: titles[name] for name in (*(HEADS[head] for head in heads), ORACLE)},
        "points": [
            {
                "label": f"{point['num_drafts']:,}",
                "quality": {**{HEADS[head]: point["quality"][head] for head in heads}, ORACLE: point["oracle"]},
            }
            for point in points
        ],
    }


def expected_qualities(pool: ScoredPool) -> Floats:
    """Return the expected quality at each point by each of HEADS and by the oracle: (K, P)."""
    rankings_KC = np.stack([*(pool.rankings[head] for head in HEADS), np.argsort(-pool.qualities)])
    ranked_KC = pool.qualities[rankings_KC]
    return ranked_KC @ _chances(len(pool.qualities)).T


@lru_cache(maxsize=1024)
def _chances(num_drafts: int) -> Floats:
    """Return the chance of each draft, best first, to be chosen at each point: (P, C)."""
    sizes = [min(size, num_drafts) for size in (*_SIZES, num_drafts)]
    return np.array(
        [
            [math.comb(num_after, size - 1) / math.comb(num_drafts, size) for num_after in reversed(range(num_drafts))]
            for size in sizes
        ]
    )


def _is_below_one(curves: Floats) -> Floats:
    """Return 1 where a curve is below its first point, one draft at random, else 0: (..., P) -> (..., P)."""
    return (curves < curves[..., :1] - _SAME).astype(np.float64)


def _intervals(weights_U: Floats, values_U: Floats, bootstrap: ReportConfig) -> NDArray[np.object_]:
    """Return the weighted means over users with their intervals, as plain JSON: (U, ...) -> (...)."""
    num_users, *shape = values_U.shape
    means_X, resampled_RX = resampled_means(
        weights_U, values_U.reshape(num_users, -1), bootstrap.num_resamples, bootstrap.seed
    )
    figures = [
        asdict(interval(float(value), resampled_R, bootstrap.confidence, num_users))
        for value, resampled_R in zip(means_X, resampled_RX.T, strict=True)
    ]
    return np.array(figures, dtype=np.object_).reshape(shape)


def _by_head(figures_H: NDArray[np.object_]) -> dict[str, Any]:
    return dict(zip(HEADS, figures_H, strict=True))
