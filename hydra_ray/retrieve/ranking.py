"""Eligibility of a user's records for a query, and their ranking."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hydra_ray.config import ProbesConfig, RetrieveConfig, Task
from hydra_ray.lamp.field_checks import pseudo_query_id
from hydra_ray.retrieve.dense import Encode
from hydra_ray.retrieve.earlier import Earlier
from hydra_ray.retrieve.methods import Search, score_records
from hydra_ray.rows import ProbedUser, Query, Record, Retrieved, User
from hydra_ray.seeds import rng_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedQuery:
    """Query with the records that it may use and those retrieved from them. Key: (user_id, query_id)."""

    query: Query
    is_pseudo: bool
    eligible: tuple[Record, ...]
    """Records that existed before the query, without the query's own."""
    retrieved: tuple[Retrieved, ...]
    """At most N of the eligible records, best first."""

    def records(self, record_ids: Iterable[str]) -> list[Record]:
        """Return the eligible records with these ids, in this order."""
        by_id = {record.record_id: record for record in self.eligible}
        return [by_id[record_id] for record_id in record_ids]

    def may_learn_from(self, user: User) -> bool:
        """Return whether the target may be used: a pseudo-query's always, a query's own only if the user is a training
        user.
        """
        return self.query.target is not None and (self.is_pseudo or not user.is_new)


def rank_queries(
    user: User,
    task: Task,
    probes: ProbesConfig,
    retrieve: RetrieveConfig,
    encode: Encode | None = None,
    earlier: Earlier | None = None,
) -> Iterator[RankedQuery]:
    """Yield the user's own queries and up to M pseudo-queries, each with its N best records.

    A pseudo-query is a history record whose output is the target; it never retrieves itself, nor a later record where
    dates exist.

    Args:
        encode: encoder, required if `retrieve.needs_encoder`; called once.
        earlier: what was asked before an update; its pseudo-queries keep what was retrieved for them.
    """
    history = user.history
    kept = {} if earlier is None else earlier.probes()
    own = [Search(query=query, is_pseudo=False, eligible=range(len(history))) for query in user.queries]
    pseudo = [
        Search(query=_pseudo_query(history[position]), is_pseudo=True, eligible=eligible_positions(history, position))
        for position in choose_pseudo_queries(user, task, probes, earlier)
    ]
    searches = [*own, *pseudo]
    new = [search for search in searches if not (search.is_pseudo and search.query.query_id in kept)]
    scored = iter(score_records(user, new, retrieve, encode)) if new else iter(())
    for search in searches:
        if search.is_pseudo and search.query.query_id in kept:
            retrieved = kept[search.query.query_id].retrieved
        else:
            retrieved = best_records(history, next(scored), search.eligible, probes.num_records)
        yield RankedQuery(
            query=search.query,
            is_pseudo=search.is_pseudo,
            eligible=tuple(history[p] for p in search.eligible),
            retrieved=retrieved,
        )


def best_records(
    history: Sequence[Record], scores: np.ndarray, eligible: Sequence[int], num: int
) -> tuple[Retrieved, ...]:
    """Return the `num` best of the records at the eligible positions, best first."""
    best = rank(scores, eligible, num)
    return tuple(Retrieved(record_id=history[p].record_id, score=float(scores[p])) for p in best)


def restore_queries(user: User, probed: ProbedUser) -> Iterator[RankedQuery]:
    """Yield the queries that `rank_queries` yielded when `probed` was made, without ranking again."""
    queries = {query.query_id: query for query in user.queries}
    positions = {pseudo_query_id(record.record_id): position for position, record in enumerate(user.history)}
    for each in probed.queries:
        eligible = range(len(user.history))
        if each.is_pseudo:
            position = positions[each.query_id]
            query = _pseudo_query(user.history[position])
            eligible = eligible_positions(user.history, position)
        else:
            query = queries[each.query_id]
        yield RankedQuery(
            query=query,
            is_pseudo=each.is_pseudo,
            eligible=tuple(user.history[p] for p in eligible),
            retrieved=each.retrieved,
        )


def queries_by_id(user: User) -> dict[str, Query]:
    """Return the user's queries and all possible pseudo-queries, by query_id."""
    pseudo = (_pseudo_query(record) for record in user.history)
    return {query.query_id: query for query in (*user.queries, *pseudo)}


def choose_pseudo_queries(user: User, task: Task, config: ProbesConfig, earlier: Earlier | None = None) -> list[int]:
    """Return the positions of the records that serve as pseudo-queries: a seeded sample of those with eligible records.

    There are none where a record's output is no answer, or where a record has no input to ask.

    Args:
        earlier: what was asked before an update, from which the sample goes on.
    """
    if not task.has_pseudo_queries:
        return []
    history = user.history
    has_eligible = _have_eligible(history)
    possible = [p for p in range(len(history)) if history[p].input and has_eligible[p]]
    if earlier is not None:
        places = {history[p].record_id: p for p in possible}
        return [places[each] for each in earlier.sampled(list(places), config.num_pseudo_queries, config.seed)]
    rng = rng_of(config.seed, "pseudo-queries", user.user_id)
    chosen = rng.permutation(len(possible))[: config.num_pseudo_queries]
    return [possible[index] for index in chosen]


def eligible_positions(history: Sequence[Record], position: int) -> list[int]:
    """Return the positions of the records that a pseudo-query made of the record at `position` may use."""
    own = history[position].date
    return [
        other
        for other, record in enumerate(history)
        if other != position and (own is None or record.date is None or record.date <= own)
    ]


def _have_eligible(history: Sequence[Record]) -> list[bool]:
    """Return for each position whether `eligible_positions` would find any, in one pass over sorted dates."""
    dates = sorted(record.date for record in history if record.date is not None)
    num_undated = len(history) - len(dates)
    # A dated record's own date is among those that are not later.
    return [
        len(history) > 1 if record.date is None else num_undated + bisect_right(dates, record.date) > 1
        for record in history
    ]


def rank(scores: np.ndarray, positions: Sequence[int], num: int) -> list[int]:
    """Return the `num` best of `positions`; the later one of equals, as rank_bm25 does for short lists."""
    order = np.argsort(scores[list(positions)], kind="stable")[::-1][:num]
    return [positions[index] for index in order]


def _pseudo_query(record: Record) -> Query:
    return Query(query_id=pseudo_query_id(record.record_id), input=record.input, target=record.output)
