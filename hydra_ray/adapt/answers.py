"""Stage 6, answers: what each of the compared systems answers to each evaluated query."""

from collections.abc import Iterator

from hydra_ray.adapt.examples import greedy_answer, sampled_answers
from hydra_ray.config import Task
from hydra_ray.evaluate.baselines import consensus_answer, majority_answer, vote_answer
from hydra_ray.evaluate.judged import PROMPT_SYSTEMS
from hydra_ray.records import (
    AnsweredQuery,
    AnsweredUser,
    DraftedQuery,
    DraftedUser,
    ScoredGroup,
    ScoredUser,
    SystemAnswer,
    User,
)

HYDRA_SYSTEMS = {"hydra": "personal", "hydra_shared": "shared", "hydra_shuffled": "shuffled"}
"""The systems whose records and answers heads choose, and whose heads these are."""


def answer_user(
    user: User, drafted: DraftedUser, reranker: ScoredUser, adapter: ScoredUser, task: Task
) -> AnsweredUser:
    """The row of a new user in the answers table."""
    groups = {(group.query_id, group.variant): group for group in adapter.groups}
    return AnsweredUser(
        user_id=user.user_id,
        num_history=len(user.history),
        reranker_head=reranker.head,
        adapter_head=adapter.head,
        queries=tuple(
            AnsweredQuery(
                query_id=query.query_id,
                answers=tuple(_answers(user, query, groups, task)),
                pool=_pool(query, task),
            )
            for query in drafted.queries
            if not query.is_pseudo
        ),
    )


def choose(group: ScoredGroup, variant: str) -> str:
    """The answer that the variant's head scores highest; among equals the first candidate."""
    return max(group.candidates, key=lambda candidate: getattr(candidate, variant)).candidate_id


def _answers(
    user: User, drafted: DraftedQuery, groups: dict[tuple[str, str], ScoredGroup], task: Task
) -> Iterator[SystemAnswer]:
    for system in PROMPT_SYSTEMS:
        yield _answer(system, greedy_answer(drafted, system), drafted, prompt=system)
    if task.is_closed:
        outputs = [record.output for record in user.history]
        yield _answer("majority", majority_answer(outputs) if outputs else None, drafted, prompt="majority")
    votes = sampled_answers(drafted, "rag_k")
    elect = vote_answer if task.is_closed else consensus_answer
    yield _answer("vote", elect(votes) if votes else None, drafted, prompt="rag_k")
    for system, variant in HYDRA_SYSTEMS.items():
        group = groups.get((drafted.query_id, variant))
        yield _answer(system, choose(group, variant) if group else None, drafted, prompt=variant)


def _answer(system: str, value: str | None, drafted: DraftedQuery, prompt: str) -> SystemAnswer:
    """A system's answer, or why there is none: the first error among the drafts of the prompt it depends on."""
    if value is not None:
        return SystemAnswer(system=system, value=value, error=None)
    errors = (draft.answer.error for draft in drafted.drafts if draft.prompt == prompt)
    return SystemAnswer(system=system, value=None, error=next(filter(None, errors), "nothing to answer from"))


def _pool(drafted: DraftedQuery, task: Task) -> tuple[str, ...]:
    """The distinct drafts: the samples, and for text the greedy answers that compete with them."""
    greedy = () if task.is_closed else (greedy_answer(drafted, "rag_k"), greedy_answer(drafted, "rag_1"))
    return tuple(dict.fromkeys(filter(None, (*greedy, *sampled_answers(drafted, "personal")))))
