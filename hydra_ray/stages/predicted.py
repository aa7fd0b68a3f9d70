"""Answers of a run as a table for whoever asked: one row a query, with what was chosen and why."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hydra_ray.adapt.answers import Scored
from hydra_ray.lamp.choices import distinct_drafts
from hydra_ray.rows import AnsweredQuery, AnsweredUser, DraftedQuery, DraftedUser
from hydra_ray.stages.answers import scored_users
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.tables import CANDIDATES, read_rows

_PERSONAL = "personal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """The answer to one query. Key: (user_id, query_id)."""

    user_id: str
    query_id: str
    answer: str | None
    """Null where the generator failed; then `error` says why."""
    system: str
    """System that the gate chose, whose answer this is."""
    reason: str
    """Reason of the gate's choice: the expected qualities that it compared."""
    score: float | None
    """Score of the answer by the user's head of the adapter, higher is better within the query; null where the head did
    not choose among it."""
    record_ids: tuple[str, ...]
    """Records in the prompt, best first: those that the user's head of the reranker chose."""
    error: str | None
    prompt: str | None = None
    """Prompt whose draft the answer is, and its temperature, such as `rag_k, temperature 0.7`, where the generator
    drafted a preference's candidates; `record_ids` are those in it then. Null where candidates were given."""


def predicted(plan: Plan, bucket: int) -> Iterator[Predicted]:
    """Yield the answers to the queries of a bucket's users, whose answers stage is complete."""
    answered: dict[str, AnsweredUser] = read_rows(plan.answers, "answers", bucket, AnsweredUser)
    scored = scored_users(plan, bucket) if plan.config.has_scorers else ()
    rows = {row.user.user_id: row for row in scored}
    drafts = _candidate_drafts(plan, bucket) if plan.config.drafts_candidates else {}
    for user in answered.values():
        for query in user.queries:
            row = _predicted(user.user_id, query, rows.get(user.user_id))
            drafted = drafts.get((user.user_id, query.query_id))
            yield row if drafted is None else _drafted(row, drafted)


def _candidate_drafts(plan: Plan, bucket: int) -> dict[tuple[str, str], DraftedQuery]:
    """Return the drafts that are queries' candidates, by user_id and query_id."""
    rows: dict[str, DraftedUser] = read_rows(plan.stage(CANDIDATES), CANDIDATES, bucket, DraftedUser)
    return {(row.user_id, query.query_id): query for row in rows.values() for query in row.queries}


def _drafted(row: Predicted, query: DraftedQuery) -> Predicted:
    """Return an answer with the prompt that it was drafted by: the first of those that drafted the same text."""
    draft = None if row.answer is None else distinct_drafts(query)[row.answer]
    if draft is None:
        return row
    shown = next(each.record_ids for each in query.prompts if each.prompt == draft.prompt)
    return replace(row, record_ids=shown, prompt=f"{draft.prompt}, temperature {draft.temperature:g}")


def _predicted(user_id: str, query: AnsweredQuery, row: Scored | None) -> Predicted:
    """Return the answer to a query.

    Args:
        row: what the answer was made from; None where there is no generator, and so nothing was chosen among.
    """
    answer = next(each for each in query.answers if each.system == "hydra")
    adapter, drafted = ((), ()) if row is None else (row.adapter.groups, row.drafted.queries)
    groups = (each for each in adapter if (each.query_id, each.variant) == (query.query_id, _PERSONAL))
    scores = {each.candidate_id: each.personal for group in groups for each in group.candidates}
    prompts = (prompt for each in drafted if each.query_id == query.query_id for prompt in each.prompts)
    shown = next((prompt.record_ids for prompt in prompts if prompt.prompt == _PERSONAL), ())
    return Predicted(
        user_id=user_id,
        query_id=query.query_id,
        answer=answer.value,
        system=query.choice,
        reason=query.reason,
        score=None if answer.value is None else scores.get(answer.value),
        record_ids=shown,
        error=answer.error,
    )
