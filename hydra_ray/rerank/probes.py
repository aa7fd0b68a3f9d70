"""Stage 2, probes: effect of a single record, as the prompt's example, on the generator's answer (arXiv 2406.02888,
section 3.2).

Pure functions on typed rows: the records retrieved for a user, the requests that their probes need, and the labelled
row that their completions make.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from hydra_ray.config import RunConfig, Task
from hydra_ray.generate.requests import ask, parse_completion
from hydra_ray.lamp.quality import quality
from hydra_ray.retrieve.dense import Encode
from hydra_ray.retrieve.earlier import Earlier
from hydra_ray.retrieve.ranking import RankedQuery, rank_queries, restore_queries
from hydra_ray.rows import Asked, Completion, Probe, ProbedQuery, ProbedUser, User

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def retrieve_records(
    user: User, task: Task, config: RunConfig, encode: Encode | None, earlier: Earlier | None = None
) -> ProbedUser:
    """Return the user's row of the probes table before probing: its queries with their retrieved records.

    Args:
        encode: encoder, required if `retrieve.needs_encoder`.
        earlier: what was asked before an update; its pseudo-queries have their probes already.
    """
    kept = {} if earlier is None else earlier.probes()
    queries = tuple(
        ProbedQuery(
            query_id=ranked.query.query_id,
            is_pseudo=ranked.is_pseudo,
            retrieved=ranked.retrieved,
            probes=kept[ranked.query.query_id].probes if ranked.is_pseudo and ranked.query.query_id in kept else (),
        )
        for ranked in rank_queries(user, task, config.probes, config.retrieve, encode, earlier)
    )
    return ProbedUser(user_id=user.user_id, is_new=user.is_new, queries=queries)


def probe_requests(
    retrieved: Iterable[tuple[User, ProbedUser]], task: Task, tokenizer: "PreTrainedTokenizerBase", config: RunConfig
) -> Iterator[Asked]:
    """Yield one greedy request for each (query, retrieved record) of the queries without probes.

    Args:
        retrieved: users with the rows of `retrieve_records`.
    """
    for user, row in retrieved:
        for ranked, query in zip(restore_queries(user, row), row.queries, strict=True):
            for each in () if query.probes else ranked.retrieved:
                request = ask(
                    user_id=user.user_id,
                    examples=ranked.records([each.record_id]),
                    query_input=ranked.query.input,
                    task=task,
                    tokenizer=tokenizer,
                    config=config.generator,
                )
                yield Asked(key=_key(user, ranked, each.record_id), request=request)


def label_probes(
    retrieved: Iterable[tuple[User, ProbedUser]], completions: Mapping[str, Completion], task: Task
) -> Iterator[ProbedUser]:
    """Yield rows of the probes table.

    Args:
        retrieved: users with the rows of `retrieve_records`.
        completions: completions by key, for every request of `probe_requests` on the same users.
    """
    for user, row in retrieved:
        restored = zip(restore_queries(user, row), row.queries, strict=True)
        queries = (
            query if query.probes else replace(query, probes=tuple(_probes(user, ranked, completions, task)))
            for ranked, query in restored
        )
        yield replace(row, queries=tuple(queries))


def _probes(user: User, ranked: RankedQuery, completions: Mapping[str, Completion], task: Task) -> Iterator[Probe]:
    target = ranked.query.target if ranked.may_learn_from(user) else None
    for retrieved in ranked.retrieved:
        (answer,) = parse_completion(completions[_key(user, ranked, retrieved.record_id)], 1, task)
        yield Probe(
            record_id=retrieved.record_id,
            answer=answer,
            quality=None if target is None or answer.value is None else quality(task, answer.value, target),
        )


def _key(user: User, ranked: RankedQuery, record_id: str) -> str:
    return json.dumps([user.user_id, ranked.query.query_id, record_id])
