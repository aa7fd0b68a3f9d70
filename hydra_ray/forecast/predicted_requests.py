"""Which requests a stage will make for a user: made as the stage makes them, with what is not known yet guessed.

Profiles and probes depend on the users alone, so their requests are the very ones. Drafts depend on which records the
reranker chooses: until its heads are there, some k of the retrieved ones stand for them, the same for all heads, since
most heads agree; and until profiles are written, a text of their expected length stands for each.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hydra_ray.adapt.drafts import Ranked, draft_requests
from hydra_ray.adapt.profiles import profile_requests
from hydra_ray.rerank.probes import probe_requests, retrieve_records
from hydra_ray.rows import (
    CandidateScore,
    ProbedUser,
    ProfiledUser,
    Request,
    ScoredGroup,
    ScoredUser,
    User,
)
from hydra_ray.seeds import seed_of
from hydra_ray.stages.parts import DraftsPart, open_retriever
from hydra_ray.stages.plan import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASKING = ("profiles", "probes", "drafts")
"""The stages that ask the generator, in order."""


def requests_of(
    plan: Plan,
    bucket: int,
    users: Sequence[User],
    tokenizer: "PreTrainedTokenizerBase",
    profile_tokens: float,
    *,
    is_blind: bool,
) -> dict[str, list[Request]]:
    """Return the distinct requests of some users of one bucket, by stage; a stage's own list may repeat an earlier
    stage's.

    Args:
        profile_tokens: expected length of a profile.
        is_blind: whether what the run has computed already is not to be looked at.
    """
    config, task = plan.config, plan.task
    profiles = profile_requests(users, task, tokenizer, config.generator)
    encode = open_retriever(users, config.retrieve)
    retrieved = [(user, retrieve_records(user, task, config, encode)) for user in users]
    probes = probe_requests(retrieved, task, tokenizer, config)
    drafts = draft_requests(_ranked(plan, bucket, retrieved, profile_tokens, is_blind), task, tokenizer, config)
    by_stage = dict(zip(ASKING, (profiles, probes, drafts), strict=True))
    return {
        name: list({each.request.request_id: each.request for each in asked}.values())
        for name, asked in by_stage.items()
    }


def _ranked(
    plan: Plan, bucket: int, retrieved: Sequence[tuple[User, ProbedUser]], profile_tokens: float, is_blind: bool
) -> list[Ranked]:
    """What drafts are made of: as it is where the stages before are complete, else guessed."""
    if not is_blind and plan.reranker.heads.is_complete() and plan.profiles.is_complete():
        wanted = {user.user_id for user, _ in retrieved}
        return [row for row in DraftsPart(plan).ranked(bucket) if row.user.user_id in wanted]
    return [
        Ranked(user=user, profiled=_guessed_profile(user, profile_tokens), probed=row, scored=_guessed_scores(row))
        for user, row in retrieved
    ]


def _guessed_profile(user: User, num_tokens: float) -> ProfiledUser:
    is_asked = user.is_evaluated() and user.history
    # Common words are a token each.
    text = " ".join(["like"] * round(num_tokens)) if is_asked else None
    return ProfiledUser(user_id=user.user_id, profile=text, error=None)


def _guessed_scores(row: ProbedUser) -> ScoredUser:
    groups = tuple(
        ScoredGroup(
            group_id=query.query_id,
            query_id=query.query_id,
            variant="personal",
            is_pseudo=query.is_pseudo,
            candidates=tuple(_guessed_candidates(row.user_id, query.query_id, [r.record_id for r in query.retrieved])),
        )
        for query in row.queries
        if query.retrieved
    )
    return ScoredUser(user_id=row.user_id, is_new=row.is_new, head="shared", groups=groups)


def _guessed_candidates(user_id: str, query_id: str, record_ids: Sequence[str]) -> Iterator[CandidateScore]:
    for record_id in record_ids:
        score = float(seed_of(0, "guessed choice", user_id, query_id, record_id))
        yield CandidateScore(candidate_id=record_id, personal=score, shared=score, shuffled=score, routed=score)
