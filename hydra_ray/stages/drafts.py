"""Drafts: the generator's answers to prompts of retrieved records and of those that heads choose, and samples."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra_ray.adapt.drafts import Ranked, draft_requests, label_drafts
from hydra_ray.engine.parts import Counters
from hydra_ray.generate.engines.opening import open_tokenizer
from hydra_ray.generate.failures import ERRORS
from hydra_ray.rows import (
    Asked,
    CandidateScore,
    Completion,
    DraftedUser,
    ProbedUser,
    ProfiledUser,
    ScoredGroup,
    ScoredUser,
)
from hydra_ray.seeds import seed_of
from hydra_ray.stages.came_back import earlier_rows
from hydra_ray.stages.definition import Asking, Duration, Preview, StageDefinition, with_scorers
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.planning import Planning, draft_settings, generator_settings
from hydra_ray.stages.probes import previewed_retrieval
from hydra_ray.stages.profiles import guessed_profile
from hydra_ray.stages.scorer import scores_of_users
from hydra_ray.stages.tables import joined, read_rows, read_users, write_answers


class DraftsPart:
    """Requests and labels of a bucket's drafts."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def requests(self, bucket: int) -> list[Asked]:
        """Return requests for greedy answers and samples, for every prompt."""
        config = self._plan.config
        tokenizer = open_tokenizer(config.generator)
        return list(draft_requests(self.ranked(bucket), self._plan.task, tokenizer, config))

    def commit(self, bucket: int, completions: Mapping[str, Completion], counters: Counters) -> Counters:
        """Commit the labelled drafts."""
        task = self._plan.task
        rows = list(label_drafts(self.ranked(bucket), completions, task, self._plan.config))
        answers = [draft.answer for row in rows for query in row.queries for draft in query.drafts]
        return write_answers(self._plan.drafts, bucket, rows, DraftedUser, answers, completions, task, counters)

    def ranked(self, bucket: int) -> list[Ranked]:
        """Return everything that the bucket's drafts are made of."""
        plan, users = self._plan, read_users(self._plan, bucket)
        probed = read_rows(plan.probes, "probes", bucket, ProbedUser)
        earlier = earlier_rows(plan, bucket, users, has_drafts=True)
        kept = {name: each.drafts(probed[name]) for name, each in earlier.items()}
        return joined(
            Ranked,
            users,
            kept={user.user_id: kept.get(user.user_id, {}) for user in users},
            profiled=read_rows(plan.profiles, "profiles", bucket, ProfiledUser),
            probed=probed,
            scored=scores_of_users(plan, "reranker", bucket, users),
        )


def _preview(preview: Preview) -> Iterator[Asked]:
    plan = preview.plan
    return iter(draft_requests(_previewed_ranking(preview), plan.task, preview.tokenizer, plan.config))


def _previewed_ranking(preview: Preview) -> list[Ranked]:
    """Return the users' profiles and chosen records as they are where the stages before are complete, else guessed.

    Until heads are there, some k of the retrieved records stand for the chosen ones, the same for all heads, since most
    heads agree; until profiles are written, a text of their expected length stands for each.
    """
    if not _is_guessed(preview.plan, preview.is_blind):
        wanted = {user.user_id for user in preview.users}
        return [row for row in DraftsPart(preview.plan).ranked(preview.bucket) if row.user.user_id in wanted]
    return [
        Ranked(user=user, profiled=guessed_profile(user, preview), probed=row, scored=_guessed_scores(row))
        for user, row in previewed_retrieval(preview)
    ]


def _is_guessed(plan: Plan, is_blind: bool) -> bool:
    return is_blind or not (plan.stage("reranker.heads").is_complete() and plan.profiles.is_complete())


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


def _settings(planning: Planning) -> dict[str, Any]:
    return {"drafts": draft_settings(planning), **generator_settings(planning)}


STAGES = (
    StageDefinition(
        name="drafts",
        version=4,
        like_versions=(3,),  # answers that could not be parsed are, or were taken with what is around them
        inputs=("users", "profiles", "probes", "reranker.heads"),
        earlier_inputs=("drafts",),
        settings=_settings,
        is_made=with_scorers,
        asks=Asking(work=DraftsPart, preview=_preview, is_guessed=_is_guessed, generations="answers"),
        tables=lambda _: ("drafts", ERRORS),
        duration=Duration(fixed=25, per_user=0.05),
    ),
)
