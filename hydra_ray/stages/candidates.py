"""Candidates: the generator's drafts for preference queries that bring no candidates.

Every later stage reads users by `read_users` of `hydra_ray.stages.tables`, which has the drafts in their queries.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra_ray.adapt.candidates import candidate_requests, drafted_candidates, open_users, retrieve_chosen
from hydra_ray.config import PoolConfig
from hydra_ray.engine.parts import Counters
from hydra_ray.generate.engine import ENGINE
from hydra_ray.generate.engines.opening import open_tokenizer
from hydra_ray.generate.failures import ERRORS
from hydra_ray.generate.prompt_forms import FORM
from hydra_ray.rows import Asked, Completion, DraftedUser, ProbedUser, User
from hydra_ray.runs.settings import settings_of
from hydra_ray.stages.definition import Asking, Duration, Preview, StageDefinition
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.planning import Planning, generator_settings, plugin_sources
from hydra_ray.stages.probes import RETRIEVED, open_retriever, retrieve_ahead, retrieve_settings, retrievers
from hydra_ray.stages.tables import (
    CANDIDATES,
    read_given_users,
    read_rows,
    read_rows_if_there,
    write_answers,
    write_rows,
)

if TYPE_CHECKING:
    import torch


class CandidatesPart:
    """Requests and drafts of a bucket's queries without candidates."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def requests(self, bucket: int) -> list[Asked]:
        """Return requests for greedy answers and samples, for every prompt."""
        config = self._plan.config
        tokenizer = open_tokenizer(config.generator)
        return list(candidate_requests(self._retrieved(bucket), self._plan.task, tokenizer, config))

    def commit(self, bucket: int, completions: Mapping[str, Completion], counters: Counters) -> Counters:
        """Commit the drafts."""
        plan, task = self._plan, self._plan.task
        rows = list(drafted_candidates(self._retrieved(bucket), completions, task, plan.config))
        answers = [draft.answer for row in rows for query in row.queries for draft in query.drafts]
        stage = plan.stage(CANDIDATES)
        return write_answers(stage, bucket, rows, DraftedUser, answers, completions, task, counters)

    def _retrieved(self, bucket: int) -> list[tuple[User, ProbedUser]]:
        """Return users with their retrieved records, ranked once, since encoders of two machines may not agree."""
        stage = self._plan.stage(CANDIDATES)
        rows = read_rows_if_there(stage, RETRIEVED, bucket, ProbedUser)
        if rows is None:
            _retrieve(self._plan, bucket)
            rows = read_rows(stage, RETRIEVED, bucket, ProbedUser)
        return [(user, rows[user.user_id]) for user in open_users(read_given_users(self._plan, bucket))]


def _retrieve(plan: Plan, bucket: int, device: "torch.device | None" = None) -> Counters:
    """Make and commit a bucket's retrieved records."""
    users = open_users(read_given_users(plan, bucket))
    rows = [row for _, row in _retrieved(plan, users, device)]
    return write_rows(plan.stage(CANDIDATES), RETRIEVED, bucket, rows, ProbedUser, {})


def _retrieved(
    plan: Plan, users: Sequence[User], device: "torch.device | None" = None
) -> list[tuple[User, ProbedUser]]:
    encode = open_retriever(users, plan.config.retrieve, device) if users else None
    return [(user, retrieve_chosen(user, plan.config, encode)) for user in users]


def _retrieve_ahead(plan: Plan) -> None:
    retrieve_ahead(plan, plan.stage(CANDIDATES), _retrieve)


def _preview(preview: Preview) -> Iterable[Asked]:
    plan = preview.plan
    return candidate_requests(_retrieved(plan, open_users(preview.users)), plan.task, preview.tokenizer, plan.config)


def _settings(planning: Planning) -> dict[str, Any]:
    """Return what is drafted, and from which records."""
    drafts = settings_of(planning.config.drafts, exclude={*PoolConfig.model_fields, "num_pseudo_queries"})
    retrieve = retrieve_settings(planning)
    plugins = plugin_sources(planning, ENGINE, FORM)
    return {"drafts": drafts, "retrieve": retrieve, **generator_settings(planning), **plugins}


STAGES = (
    StageDefinition(
        name=CANDIDATES,
        version=1,
        inputs=("users",),
        settings=_settings,
        is_made=lambda config: config.drafts_candidates,
        asks=Asking(work=CandidatesPart, preview=_preview, prepare=_retrieve_ahead, generations="answers"),
        tables=lambda _: (CANDIDATES, ERRORS, RETRIEVED),
        may_differ=True,  # nothing is learned from drafts
        encoders=retrievers,
        duration=Duration(fixed=25, per_user=0.05),
    ),
)
