"""Stage 4, drafts: the prompts that the heads' choices make, and what the generator answers (paper, section 3.3).

A query that is learned from has its own head's prompt and the retriever's. An evaluated query also has the prompts of
the baselines and of the controls, so that all systems are compared on the same users and the same generator.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hydra_ray.config import RunConfig, Task
from hydra_ray.generate.asking import ask, parse_completion
from hydra_ray.lamp.quality import quality
from hydra_ray.records import (
    VARIANTS,
    Completion,
    Draft,
    DraftedQuery,
    DraftedUser,
    ProbedUser,
    PromptRecords,
    Request,
    ScoredGroup,
    ScoredUser,
    User,
)
from hydra_ray.rerank.examples import select_records
from hydra_ray.retrieve.ranking import RankedQuery, restore_queries

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ranked = tuple[User, ProbedUser, ScoredUser]
"""One user's rows of the users, probes and reranker scores tables."""


def draft_requests(
    users: Sequence[Ranked], task: Task, tokenizer: "PreTrainedTokenizerBase", config: RunConfig
) -> Iterator[Request]:
    """The requests of all drafted queries; prompts with the same records and sampling are asked once."""
    for user, probed, scored in users:
        for ranked, group in _drafted_queries(user, probed, scored, config):
            asked: set[str] = set()
            for prompt in _prompts(user, ranked, group, task, config):
                for num_samples in _sample_counts(prompt.prompt, ranked.may_learn_from(user), config):
                    request_id = _request_id(user, ranked, prompt, num_samples)
                    if request_id in asked:
                        continue
                    asked.add(request_id)
                    yield ask(
                        request_id=request_id,
                        examples=ranked.records(prompt.record_ids),
                        query_input=ranked.query.input,
                        task=task,
                        tokenizer=tokenizer,
                        config=config.generator,
                        num_samples=max(num_samples, 1),
                        temperature=config.drafts.temperature if num_samples else 0.0,
                    )


def label_drafts(
    users: Sequence[Ranked], completions: Mapping[str, Completion], task: Task, config: RunConfig
) -> Iterator[DraftedUser]:
    """Rows of the drafts table.

    Args:
        completions: by request_id, for every request of `draft_requests` on the same users.
    """
    for user, probed, scored in users:
        queries: list[DraftedQuery] = []
        for ranked, group in _drafted_queries(user, probed, scored, config):
            prompts = _prompts(user, ranked, group, task, config)
            target = ranked.query.target if ranked.may_learn_from(user) else None
            queries.append(
                DraftedQuery(
                    query_id=ranked.query.query_id,
                    is_pseudo=ranked.is_pseudo,
                    prompts=tuple(prompts),
                    drafts=tuple(
                        draft
                        for prompt in prompts
                        for num_samples in _sample_counts(prompt.prompt, ranked.may_learn_from(user), config)
                        for draft in _drafts(
                            prompt.prompt,
                            completions[_request_id(user, ranked, prompt, num_samples)],
                            num_samples,
                            task,
                            target,
                        )
                    ),
                )
            )
        yield DraftedUser(user_id=user.user_id, is_new=user.is_new, queries=tuple(queries))


def _drafted_queries(
    user: User, probed: ProbedUser, scored: ScoredUser, config: RunConfig
) -> Iterator[tuple[RankedQuery, ScoredGroup | None]]:
    """The queries that get drafts, each with the reranker's scores if any record could be retrieved for it."""
    groups = {group.query_id: group for group in scored.groups}
    num_pseudo = 0
    for ranked in restore_queries(user, probed):
        if ranked.is_pseudo:
            num_pseudo += 1
            if num_pseudo > config.drafts.num_pseudo_queries:
                continue
        yield ranked, groups.get(ranked.query.query_id)


def _prompts(
    user: User, ranked: RankedQuery, group: ScoredGroup | None, task: Task, config: RunConfig
) -> list[PromptRecords]:
    retrieved = [each.record_id for each in ranked.retrieved]
    k = config.drafts.num_records
    chosen = {
        "rag_k": retrieved[:k],
        "personal": select_records({c.candidate_id: c.personal for c in group.candidates}, k) if group else [],
    }
    if not ranked.may_learn_from(user) or not task.is_closed:
        chosen["rag_1"] = retrieved[:1]
    if not ranked.may_learn_from(user):
        chosen["zero_shot"] = []
        chosen["shared"] = select_records({c.candidate_id: c.shared for c in group.candidates}, k) if group else []
        chosen["shuffled"] = select_records({c.candidate_id: c.shuffled for c in group.candidates}, k) if group else []
    return [PromptRecords(prompt=name, record_ids=tuple(ids)) for name, ids in chosen.items()]


def _sample_counts(prompt: str, is_learned: bool, config: RunConfig) -> tuple[int, ...]:
    """How a prompt is asked: 0 stands for once and greedy, more for so many samples.

    The retriever's prompt is sampled too where it is evaluated: its vote is a baseline.
    """
    if prompt in VARIANTS:
        return (config.drafts.num_samples,)
    return (0, config.drafts.num_samples) if prompt == "rag_k" and not is_learned else (0,)


def _drafts(prompt: str, completion: Completion, num_samples: int, task: Task, target: str | None) -> Iterator[Draft]:
    for sample, answer in enumerate(parse_completion(completion, max(num_samples, 1), task)):
        yield Draft(
            prompt=prompt,
            sample=sample,
            is_greedy=num_samples == 0,
            answer=answer,
            quality=None if target is None or answer.value is None else quality(task, answer.value, target),
        )


def _request_id(user: User, ranked: RankedQuery, prompt: PromptRecords, num_samples: int) -> str:
    return json.dumps(["draft", user.user_id, ranked.query.query_id, list(prompt.record_ids), num_samples])
