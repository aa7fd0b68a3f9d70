"""Drafts as the candidates of preference queries that bring none.

The generator is shown what a person was asked and chose, and asked what this person would choose next. Pure functions
on typed rows: the queries, the records retrieved for them, the requests, and the rows that their completions make.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hydra_ray.adapt.drafts import asked_prompts, drafted_query
from hydra_ray.adapt.prompting import Prompt, prompts_behind
from hydra_ray.config import RunConfig, Task
from hydra_ray.lamp.choices import Choice, lacks_candidates
from hydra_ray.retrieve.dense import Encode
from hydra_ray.retrieve.methods import Search, score_records
from hydra_ray.retrieve.ranking import RankedQuery, best_records, restore_queries
from hydra_ray.rows import Asked, Completion, DraftedUser, ProbedQuery, ProbedUser, User

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def open_users(users: Sequence[User]) -> list[User]:
    """Return the users who have queries without candidates, with these queries alone.

    An input is the bare text that was asked, and a record shows what was chosen then: of a rated list the best answer.
    """
    found = [replace(user, queries=tuple(filter(lacks_candidates, user.queries))) for user in users]
    return [
        replace(
            user,
            history=tuple(replace(each, input=Choice.of_text(each.input).asked) for each in user.history),
            queries=tuple(replace(each, input=Choice.of_text(each.input).asked) for each in user.queries),
        )
        for user in found
        if user.queries
    ]


def retrieve_chosen(user: User, config: RunConfig, encode: Encode | None) -> ProbedUser:
    """Return the queries of one of `open_users` with the records that are most like what is asked, without probes.

    Args:
        encode: encoder, required if `retrieve.needs_encoder`.
    """
    eligible = range(len(user.history))
    searches = [Search(query=query, is_pseudo=False, eligible=eligible) for query in user.queries]
    queries = tuple(
        ProbedQuery(
            query_id=search.query.query_id,
            is_pseudo=False,
            retrieved=best_records(user.history, scores, eligible, config.drafts.num_records),
            probes=(),
        )
        for search, scores in zip(searches, score_records(user, searches, config.retrieve, encode), strict=True)
    )
    return ProbedUser(user_id=user.user_id, is_new=user.is_new, queries=queries)


def candidate_requests(
    retrieved: Sequence[tuple[User, ProbedUser]], task: Task, tokenizer: "PreTrainedTokenizerBase", config: RunConfig
) -> Iterator[Asked]:
    """Yield the requests for the drafts of all queries; equal requests share a request_id.

    Args:
        retrieved: `open_users` with the rows of `retrieve_chosen`.
    """
    for user, row in retrieved:
        for ranked in restore_queries(user, row):
            prompts = _prompts(user, ranked, task, config)
            yield from asked_prompts(user, ranked, prompts, task, tokenizer, config)


def drafted_candidates(
    retrieved: Sequence[tuple[User, ProbedUser]], completions: Mapping[str, Completion], task: Task, config: RunConfig
) -> Iterator[DraftedUser]:
    """Yield rows of the candidates table: every draft, failed ones included.

    Args:
        retrieved: as in `candidate_requests`.
        completions: completions by key, for every request of `candidate_requests` on the same users.
    """
    for user, row in retrieved:
        queries = tuple(
            drafted_query(user, ranked, _prompts(user, ranked, task, config), completions, task, config, None)
            for ranked in restore_queries(user, row)
        )
        yield DraftedUser(user_id=user.user_id, is_new=user.is_new, queries=queries)


def _prompts(user: User, ranked: RankedQuery, task: Task, config: RunConfig) -> list[Prompt]:
    """Return the prompts that the configuration names: there are no baselines to ask for."""
    return list(prompts_behind("personal", user, ranked, None, task, config.drafts))
