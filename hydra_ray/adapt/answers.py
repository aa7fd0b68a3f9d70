"""Stage 6, answers: each compared system's answer to each evaluated query."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hydra_ray.adapt.choosing import choose
from hydra_ray.adapt.context import greedy_answers, sampled_answers
from hydra_ray.adapt.gate import Gate
from hydra_ray.adapt.own_model import OwnModel
from hydra_ray.adapt.pool import first_words, usual_words
from hydra_ray.adapt.record_answers import baseline_answers
from hydra_ray.config import AnswersConfig, Task
from hydra_ray.evaluate.baselines import consensus_answer, majority_answer, near_answer, vote_answer
from hydra_ray.evaluate.systems import PROMPT_SYSTEMS, RAG
from hydra_ray.retrieve.ranking import RankedQuery, restore_queries
from hydra_ray.rows import (
    Answer,
    AnsweredQuery,
    AnsweredUser,
    DraftedQuery,
    DraftedUser,
    ProbedUser,
    ScoredGroup,
    ScoredUser,
    SystemAnswer,
    User,
    UserLabelLogs,
)

CHOOSERS = {
    "adapter_only": ("retrieved", "personal"),
    "hydra_shared": ("shared", "shared"),
    "hydra_routed": ("shared", "routed"),
    "hydra_personal": ("personal", "personal"),
    "hydra_shuffled": ("shuffled", "shuffled"),
}
"""Systems whose answer a scorer chooses: which head or retriever selects the prompt's records, which head the answer.
"""

_USUAL = AnswersConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One user's rows of the users, probes and drafts tables and of both scores tables. Key: user.user_id."""

    user: User
    probed: ProbedUser
    drafted: DraftedUser
    reranker: ScoredUser
    adapter: ScoredUser
    labels: UserLabelLogs | None = None
    """Row of the labels table; None where the run fits no own heads to all records."""


def answer_user(
    row: Scored,
    task: Task,
    gate: Gate | None,
    model: OwnModel | None = None,
    config: AnswersConfig = _USUAL,
) -> AnsweredUser:
    """Return an evaluated user's row of the answers table.

    Args:
        gate: says which system's answer is HYDRA's; None to take that of the personal heads.
        model: what all users teach of own heads fitted to all records; None where the run fits none.
    """
    labels = {} if row.labels is None else {logs.query_id: logs for logs in row.labels.queries}
    groups = {(group.query_id, group.variant): group for group in row.adapter.groups}
    ranked = {each.query.query_id: each for each in restore_queries(row.user, row.probed)}
    queries: list[AnsweredQuery] = []
    for drafted in row.drafted.queries:
        if drafted.is_pseudo:
            continue
        answers = list(_answers(row.user, ranked[drafted.query_id], drafted, groups, task, config))
        if model:
            own = baseline_answers(task, row.user, task.labels, labels[drafted.query_id], model)
            answers += [_answer(system, value, drafted, prompt=system) for system, value in own.items()]
        by_system = {answer.system: answer for answer in answers}
        queries.append(_answered_query(drafted, by_system, groups, task, gate))
    return AnsweredUser(
        user_id=row.user.user_id,
        num_history=len(row.user.history),
        reranker_head=row.reranker.head,
        adapter_head=row.adapter.head,
        queries=tuple(queries),
    )


def _answered_query(
    drafted: DraftedQuery,
    answers: Mapping[str, SystemAnswer],
    groups: Mapping[tuple[str, str], ScoredGroup],
    task: Task,
    gate: Gate | None,
) -> AnsweredQuery:
    """Return the query's row, with HYDRA's answer after those of all other systems."""
    choice, reason = (gate.choice, gate.reason) if gate else ("hydra_personal", "no gate: always the user's own heads")
    if answers[choice].value is None:
        reason = f"{choice} has no answer"
        choice = next((name for name in answers if answers[name].value is not None), choice)
    chosen = SystemAnswer(system="hydra", value=answers[choice].value, error=answers[choice].error)
    own = groups.get((drafted.query_id, "personal"))
    samples = sampled_answers(drafted, RAG)
    # In a closed task the heads may choose a label that was never generated; the pool is what was generated all the
    # same.
    pool = sampled_answers(drafted, "personal") + samples if task.is_closed else _candidates(own)
    return AnsweredQuery(
        query_id=drafted.query_id,
        answers=(*answers.values(), chosen),
        pool=tuple(dict.fromkeys(pool)),
        resampled=tuple(samples),
        choice=choice,
        reason=reason,
    )


def _answers(
    user: User,
    ranked: RankedQuery,
    drafted: DraftedQuery,
    groups: Mapping[tuple[str, str], ScoredGroup],
    task: Task,
    config: AnswersConfig,
) -> Iterator[SystemAnswer]:
    greedy = greedy_answers(drafted, "personal")
    for system in PROMPT_SYSTEMS:
        yield _answer(system, greedy[system].value if system in greedy else None, drafted, prompt=system)
    if not task.is_closed:
        yield _answer("rag_cut", _usual_length(greedy.get(RAG), ranked), drafted, prompt=RAG)
    if task.is_history_labelled:
        if task.is_closed:
            outputs = [record.output for record in user.history]
            yield _answer("majority", majority_answer(outputs) if outputs else None, drafted, prompt="majority")
        near = [record.output for record in ranked.records(each.record_id for each in ranked.retrieved)]
        weights = [each.score for each in ranked.retrieved]
        yield _answer("knn", near_answer(near, weights) if near else None, drafted, prompt="knn")
    votes = sampled_answers(drafted, RAG)
    elect = vote_answer if task.is_closed else consensus_answer
    yield _answer("vote", elect(votes) if votes else None, drafted, prompt=RAG)
    reranked = greedy.get("reranked")
    yield _answer("reranker_only", reranked.value if reranked else None, drafted, prompt="personal")
    for system, (variant, head) in CHOOSERS.items():
        group = groups.get((drafted.query_id, variant))
        chosen = choose(group, head, task, is_expected=config.has_expected_ratings) if group else None
        yield _answer(system, chosen, drafted, prompt=RAG)


def _usual_length(answer: Answer | None, ranked: RankedQuery) -> str | None:
    """Return an answer's first words, as many as the outputs that the query may use usually have."""
    if answer is None or answer.value is None:
        return None
    return first_words(answer.value, usual_words(ranked.eligible))


def _answer(system: str, value: str | None, drafted: DraftedQuery, prompt: str) -> SystemAnswer:
    """Return a system's answer, or the reason for its absence: the first error among the drafts of `prompt`.

    A prompt that needs a profile is not used for a user without one, and has no drafts.
    """
    if value is not None:
        return SystemAnswer(system=system, value=value, error=None)
    errors = (draft.answer.error for draft in drafted.drafts if draft.prompt == prompt)
    return SystemAnswer(system=system, value=None, error=next(filter(None, errors), "nothing to answer from"))


def _candidates(group: ScoredGroup | None) -> list[str]:
    return [candidate.candidate_id for candidate in group.candidates] if group else []
