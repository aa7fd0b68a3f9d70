"""Stage 2, probes: what does one record as the example do to the generator's answer? (paper, section 3.2)

Two pure functions on typed rows: which requests a user's probes need, and the labelled row their completions make.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hydra_ray.config import RunConfig, Task
from hydra_ray.generate.asking import ask, parse_completion
from hydra_ray.lamp.quality import quality
from hydra_ray.records import Completion, Probe, ProbedQuery, ProbedUser, Request, User
from hydra_ray.retrieve.ranking import RankedQuery, rank_queries

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def probe_requests(
    users: Sequence[User], task: Task, tokenizer: "PreTrainedTokenizerBase", config: RunConfig
) -> Iterator[Request]:
    """One greedy request for each (query that may be learned from, retrieved record)."""
    for user in users:
        for ranked in rank_queries(user, config.probes, config.retrieve):
            if not ranked.may_learn_from(user):
                continue
            for retrieved in ranked.retrieved:
                yield ask(
                    request_id=_request_id(user, ranked, retrieved.record_id),
                    examples=ranked.records([retrieved.record_id]),
                    query_input=ranked.query.input,
                    task=task,
                    tokenizer=tokenizer,
                    config=config.generator,
                )


def label_probes(
    users: Sequence[User], completions: Mapping[str, Completion], task: Task, config: RunConfig
) -> Iterator[ProbedUser]:
    """Rows of the probes table.

    Args:
        completions: by request_id, for every request of `probe_requests` on the same users.
    """
    for user in users:
        queries: list[ProbedQuery] = []
        for ranked in rank_queries(user, config.probes, config.retrieve):
            target = ranked.query.target
            probes: list[Probe] = []
            if target is not None and ranked.may_learn_from(user):
                for retrieved in ranked.retrieved:
                    completion = completions[_request_id(user, ranked, retrieved.record_id)]
                    (answer,) = parse_completion(completion, 1, task)
                    probes.append(
                        Probe(
                            record_id=retrieved.record_id,
                            answer=answer,
                            quality=None if answer.value is None else quality(task, answer.value, target),
                        )
                    )
            queries.append(
                ProbedQuery(
                    query_id=ranked.query.query_id,
                    is_pseudo=ranked.is_pseudo,
                    retrieved=ranked.retrieved,
                    probes=tuple(probes),
                )
            )
        yield ProbedUser(user_id=user.user_id, is_new=user.is_new, queries=tuple(queries))


def _request_id(user: User, ranked: RankedQuery, record_id: str) -> str:
    return json.dumps(["probe", user.user_id, ranked.query.query_id, record_id])
