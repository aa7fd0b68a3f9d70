"""Retrieval methods: scores of a user's records for each query, by `retrieve.method`.

A method, one of these or a plug-in, scores all records of the history; higher is better. Which of them a query may use
is decided before (`ranking.py`): the scores of other records are meaningless.

Shape suffixes: N records.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydra_ray.config import RetrieveConfig
from hydra_ray.errors import ConfigError
from hydra_ray.plugins import call_plugin
from hydra_ray.retrieve.bm25 import BM25
from hydra_ray.retrieve.dense import Encode, Floats, cosines, indexed_text
from hydra_ray.rows import Query, User
from hydra_ray.seeds import rng_of

METHOD = "retrieve.method"
"""Name of the setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Query with the positions in the history of the records that it may use."""

    query: Query
    is_pseudo: bool
    eligible: Sequence[int]


def score_records(
    user: User, searches: Sequence[Search], retrieve: RetrieveConfig, encode: Encode | None
) -> Sequence[Floats]:
    """Return for each search the scores of the user's records by `retrieve.method` (N).

    Args:
        encode: encoder, required by the methods that compare vectors.

    Raises:
        ConfigError: the method is a plug-in that is not there, or does not return such scores.
    """
    if retrieve.is_plugin:
        found = call_plugin(retrieve.method, METHOD, user, searches, retrieve, encode)
        return _checked(retrieve.method, found, len(searches), len(user.history))
    return _METHODS[retrieve.method](user, searches, retrieve, encode)


def _checked(name: str, found: Sequence[Any], num_searches: int, num_records: int) -> Sequence[Floats]:
    """Return what a plug-in scored, as arrays."""
    try:
        scores = [np.asarray(each, np.float64) for each in found]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{METHOD} is {name}, which returned no sequence of arrays of numbers: {error}") from error
    shapes = {each.shape for each in scores}
    if len(scores) != num_searches or shapes - {(num_records,)} or any(np.isnan(each).any() for each in scores):
        raise ConfigError(
            f"{METHOD} is {name}, which returned {len(scores)} arrays of the shapes {sorted(shapes)[:3]}; expected "
            f"{num_searches} of the shape ({num_records},), a score of every record for each query, none of them nan"
        )
    return scores


def _bm25(user: User, searches: Sequence[Search], retrieve: RetrieveConfig, _: Encode | None) -> Sequence[Floats]:
    index = BM25([indexed_text(record) for record in user.history], retrieve)
    return list(index.scores([search.query.input for search in searches]))


def _dense(user: User, searches: Sequence[Search], _: RetrieveConfig, encode: Encode | None) -> Sequence[Floats]:
    assert encode is not None, "the configuration names an encoder for every method that needs one"
    queries = [search.query.input for search in searches]
    return list(cosines(queries, [indexed_text(record) for record in user.history], encode))


def _recency(user: User, searches: Sequence[Search], *_: object) -> Sequence[Floats]:
    """Return the fraction of the history that is not newer; undated records are older than dated ones, earlier
    positions older.
    """
    dates = [-np.inf if record.date is None else record.date for record in user.history]
    scores = np.empty(len(dates))
    scores[np.argsort(dates, kind="stable")] = np.arange(1, len(dates) + 1) / max(len(dates), 1)
    return [scores] * len(searches)


def _random(user: User, searches: Sequence[Search], retrieve: RetrieveConfig, _: Encode | None) -> Sequence[Floats]:
    names = [("retrieve", user.user_id, search.query.query_id) for search in searches]
    return [rng_of(retrieve.seed, *each).random(len(user.history)) for each in names]


def _hybrid(
    user: User, searches: Sequence[Search], retrieve: RetrieveConfig, encode: Encode | None
) -> Sequence[Floats]:
    """Return the reciprocal rank fusion (Cormack, Clarke and Buettcher 2009) of bm25 and dense: sum_m 1 / (c + rank_m).

    Tied records share the mean of their ranks, so that a method that sees no difference has no effect.
    """
    from scipy.stats import rankdata  # a second of imports, which other methods do without

    fused = [np.zeros(len(user.history)) for _ in searches]
    for method in (_bm25, _dense):
        for total, search, scores in zip(fused, searches, method(user, searches, retrieve, encode), strict=True):
            eligible = list(search.eligible)
            total[eligible] += 1 / (retrieve.rrf_constant + rankdata(-scores[eligible]))
    return fused


_METHODS: dict[str, Callable[[User, Sequence[Search], RetrieveConfig, Encode | None], Sequence[Floats]]] = {
    "bm25": _bm25,
    "dense": _dense,
    "recency": _recency,
    "random": _random,
    "hybrid": _hybrid,
}
