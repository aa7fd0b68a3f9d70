"""Stage 4, drafts: the generator's answers to the prompts of every query (arXiv 2406.02888, section 3.3).

Two pure functions on typed rows: the requests that a user's drafts need, and the labelled row that their completions
make.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hydra_ray.adapt.prompting import GREEDY, Prompt, prompts_of
from hydra_ray.config import DraftsConfig, RunConfig, Task
from hydra_ray.generate.requests import ask, parse_completion
from hydra_ray.lamp.quality import quality
from hydra_ray.retrieve.ranking import RankedQuery, restore_queries
from hydra_ray.rows import (
    Asked,
    Completion,
    Draft,
    DraftedQuery,
    DraftedUser,
    ProbedUser,
    ProfiledUser,
    PromptRecords,
    Record,
    Request,
    ScoredGroup,
    ScoredUser,
    User,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """One user's rows of the users, profiles, probes and reranker scores tables. Key: user.user_id."""

    user: User
    profiled: ProfiledUser
    probed: ProbedUser
    scored: ScoredUser
    kept: Mapping[str, DraftedQuery] = field(default_factory=dict[str, DraftedQuery])
    """Drafts of pseudo-queries that were made before an update, by query_id."""


def draft_requests(
    users: Sequence[Ranked], task: Task, tokenizer: "PreTrainedTokenizerBase", config: RunConfig
) -> Iterator[Asked]:
    """Yield the requests of all queries whose drafts are to be made; equal requests share a request_id."""
    for row in users:
        for ranked, group in _drafted_queries(row, config.drafts):
            if _kept(row, ranked) is not None:
                continue
            prompts = _prompts(row, ranked, group, config.drafts)
            yield from asked_prompts(row.user, ranked, prompts, task, tokenizer, config, row.profiled.profile)


def asked_prompts(
    user: User,
    ranked: RankedQuery,
    prompts: Iterable[Prompt],
    task: Task,
    tokenizer: "PreTrainedTokenizerBase",
    config: RunConfig,
    profile: str | None = None,
) -> Iterator[Asked]:
    """Yield the requests for the drafts of one query, one for each prompt and temperature.

    Args:
        profile: summary of the user, for the prompts that have one.
    """
    for prompt in prompts:
        for temperature in prompt.temperatures:
            request = prompt_request(user.user_id, ranked, prompt, temperature, task, tokenizer, config, profile)
            yield Asked(key=_key(user, ranked, prompt, temperature), request=request)


def prompt_request(
    user_id: str,
    ranked: RankedQuery,
    prompt: Prompt,
    temperature: float,
    task: Task,
    tokenizer: "PreTrainedTokenizerBase",
    config: RunConfig,
    profile: str | None = None,
) -> Request:
    """Return the request for the answers to a prompt of a query at one of its temperatures.

    Args:
        profile: summary of the user, for the prompts that have one.
    """
    return ask(
        user_id=user_id,
        examples=[_cut_record(record, prompt) for record in ranked.records(prompt.record_ids)],
        query_input=_cut(ranked.query.input, prompt),
        task=task,
        tokenizer=tokenizer,
        config=config.generator,
        profile=profile if prompt.has_profile else None,
        num_samples=_num_samples(temperature, config.drafts),
        temperature=temperature,
    )


def label_drafts(
    users: Sequence[Ranked], completions: Mapping[str, Completion], task: Task, config: RunConfig
) -> Iterator[DraftedUser]:
    """Yield rows of the drafts table.

    Args:
        completions: completions by key, for every request of `draft_requests` on the same users.
    """
    for row in users:
        queries: list[DraftedQuery] = []
        for ranked, group in _drafted_queries(row, config.drafts):
            if (kept := _kept(row, ranked)) is not None:
                queries.append(kept)
                continue
            prompts = _prompts(row, ranked, group, config.drafts)
            target = ranked.query.target if ranked.may_learn_from(row.user) else None
            queries.append(drafted_query(row.user, ranked, prompts, completions, task, config, target))
        yield DraftedUser(user_id=row.user.user_id, is_new=row.user.is_new, queries=tuple(queries))


def drafted_query(
    user: User,
    ranked: RankedQuery,
    prompts: Sequence[Prompt],
    completions: Mapping[str, Completion],
    task: Task,
    config: RunConfig,
    target: str | None,
) -> DraftedQuery:
    """Return a query with the drafts that its prompts got, failed ones included.

    Args:
        completions: completions by key, for every request of `asked_prompts` on the same prompts.
        target: output by which drafts are judged; None where it is not known or must not be looked at.
    """
    return DraftedQuery(
        query_id=ranked.query.query_id,
        is_pseudo=ranked.is_pseudo,
        prompts=tuple(PromptRecords(prompt=p.name, record_ids=p.record_ids) for p in prompts),
        drafts=tuple(
            draft
            for prompt in prompts
            for temperature in prompt.temperatures
            for draft in _drafts(
                prompt.name,
                temperature,
                completions[_key(user, ranked, prompt, temperature)],
                _num_samples(temperature, config.drafts),
                task,
                target,
            )
        ),
    )


def _drafted_queries(row: Ranked, config: DraftsConfig) -> Iterator[tuple[RankedQuery, ScoredGroup | None]]:
    """Yield the queries that get drafts, each with the reranker's scores if any record could be retrieved for it."""
    groups = {group.query_id: group for group in row.scored.groups}
    num_pseudo = 0
    for ranked in restore_queries(row.user, row.probed):
        if ranked.is_pseudo:
            num_pseudo += 1
            if num_pseudo > config.num_pseudo_queries:
                continue
        yield ranked, groups.get(ranked.query.query_id)


def _kept(row: Ranked, ranked: RankedQuery) -> DraftedQuery | None:
    """Return the drafts of a pseudo-query that were made before; None where they are to be made."""
    return row.kept.get(ranked.query.query_id) if ranked.is_pseudo else None


def _prompts(row: Ranked, ranked: RankedQuery, group: ScoredGroup | None, config: DraftsConfig) -> list[Prompt]:
    return list(prompts_of(row.user, ranked, group, row.profiled.profile is not None, config))


def _cut_record(record: Record, prompt: Prompt) -> Record:
    return replace(record, input=_cut(record.input, prompt))


def _cut(text: str, prompt: Prompt) -> str:
    return text if prompt.max_words is None else " ".join(text.split()[: prompt.max_words])


def _num_samples(temperature: float, config: DraftsConfig) -> int:
    return 1 if temperature == GREEDY else config.num_samples


def _drafts(
    prompt: str, temperature: float, completion: Completion, num_samples: int, task: Task, target: str | None
) -> Iterator[Draft]:
    for sample, answer in enumerate(parse_completion(completion, num_samples, task)):
        yield Draft(
            prompt=prompt,
            temperature=temperature,
            sample=sample,
            answer=answer,
            quality=None if target is None or answer.value is None else quality(task, answer.value, target),
        )


def _key(user: User, ranked: RankedQuery, prompt: Prompt, temperature: float) -> str:
    return json.dumps([user.user_id, ranked.query.query_id, prompt.name, temperature])
