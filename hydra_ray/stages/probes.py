"""Probes: the generator's answers to one-record prompts, labelled by whether the record helped."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra_ray.config import RetrieveConfig, RunConfig
from hydra_ray.engine.parts import Counters, run_actor_parts
from hydra_ray.generate.engine import ENGINE
from hydra_ray.generate.engines.opening import open_tokenizer
from hydra_ray.generate.failures import ERRORS
from hydra_ray.generate.prompt_forms import FORM
from hydra_ray.lamp.quality import METRIC
from hydra_ray.plugins import source_digest
from hydra_ray.rerank.probes import label_probes, probe_requests, retrieve_records
from hydra_ray.retrieve.dense import Encode, encode_ahead
from hydra_ray.retrieve.methods import METHOD
from hydra_ray.rows import Asked, Completion, ProbedUser, User
from hydra_ray.runs.settings import settings_of
from hydra_ray.runs.stage import Stage
from hydra_ray.stages.came_back import earlier_rows
from hydra_ray.stages.definition import Asking, Duration, Preview, StageDefinition, with_scorers
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.planning import Planning, generator_settings, plugin_sources
from hydra_ray.stages.tables import read_rows, read_rows_if_there, read_users, write_answers, write_rows

if TYPE_CHECKING:
    import torch

    Retrieve = Callable[[Plan, int, "torch.device | None"], Counters]

RETRIEVED = "retrieved"
"""Name of the table of retrieved records, of each stage that prompts with some."""
KEPT = "kept"
"""Counter of probes whose answers are in an earlier run's table, and which are no requests any more."""


class RetrievedPart:
    """A bucket's retrieved records; made once in each worker, since it loads the encoder."""

    def __init__(self, plan: Plan, retrieve: "Retrieve"):
        from hydra_ray.scorer.base.encoder import device_of

        self._plan, self._retrieve = plan, retrieve
        self._device = device_of(plan.config.placement.encoder_gpus)

    def __call__(self, bucket: int) -> Counters:
        """Make and commit the part."""
        return self._retrieve(self._plan, bucket, self._device)


class ProbesPart:
    """Requests and labels of a bucket's probes."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def requests(self, bucket: int) -> list[Asked]:
        """Return one greedy request for each query and record."""
        config = self._plan.config
        retrieved = self._retrieved(bucket)
        return list(probe_requests(retrieved, self._plan.task, open_tokenizer(config.generator), config))

    def commit(self, bucket: int, completions: Mapping[str, Completion], counters: Counters) -> Counters:
        """Commit the labelled probes."""
        task, retrieved = self._plan.task, self._retrieved(bucket)
        rows = list(label_probes(retrieved, completions, task))
        kept = sum(len(query.probes) for _, row in retrieved for query in row.queries)
        counters = {**counters, KEPT: kept} if kept else counters
        answers = [probe.answer for row in rows for query in row.queries for probe in query.probes]
        return write_answers(self._plan.probes, bucket, rows, ProbedUser, answers, completions, task, counters)

    def _retrieved(self, bucket: int) -> list[tuple[User, ProbedUser]]:
        """Return users with their retrieved records, ranked once, since encoders of two machines may not agree."""
        users = read_users(self._plan, bucket)
        rows = read_rows_if_there(self._plan.probes, RETRIEVED, bucket, ProbedUser)
        if rows is None:
            _retrieve(self._plan, bucket)
            rows = read_rows(self._plan.probes, RETRIEVED, bucket, ProbedUser)
        return [(user, rows[user.user_id]) for user in users]


def retrieve_ahead(plan: Plan, stage: Stage, retrieve: "Retrieve") -> None:
    """Retrieve the records of all users where that needs an encoder, by the workers that hold one.

    Args:
        retrieve: makes and commits a bucket's part of the stage's table of retrieved records.
    """
    if retrievers(plan.config) and stage.missing_buckets(RETRIEVED):
        arguments = {"plan": plan, "retrieve": retrieve}
        run_actor_parts(stage, [RETRIEVED], RetrievedPart, arguments, plan.config.placement)


def _retrieve_ahead(plan: Plan) -> None:
    retrieve_ahead(plan, plan.probes, _retrieve)


def _retrieve(plan: Plan, bucket: int, device: "torch.device | None" = None) -> Counters:
    """Make and commit a bucket's retrieved records."""
    config, users = plan.config, read_users(plan, bucket)
    encode = open_retriever(users, config.retrieve, device)
    earlier = earlier_rows(plan, bucket, users)
    found = [retrieve_records(user, plan.task, config, encode, earlier.get(user.user_id)) for user in users]
    return write_rows(plan.probes, RETRIEVED, bucket, found, ProbedUser, {})


def open_retriever(
    users: Sequence[User], retrieve: RetrieveConfig, device: "torch.device | None" = None
) -> Encode | None:
    """Return the retriever's encoder, with the texts of all `users` encoded; None where it has none.

    Args:
        device: where it computes; None for the CPU.
    """
    if not retrieve.needs_encoder or retrieve.encoder is None:
        return None
    from hydra_ray.scorer.base.encoder import CPU, open_encoder

    return encode_ahead(users, open_encoder(retrieve.encoder, retrieve.max_text_tokens, device or CPU))


def previewed_retrieval(preview: Preview) -> list[tuple[User, ProbedUser]]:
    """Return the previewed users with what is retrieved for them, computed once."""
    if RETRIEVED not in preview.shared:
        plan = preview.plan
        encode = open_retriever(preview.users, plan.config.retrieve)
        preview.shared[RETRIEVED] = [
            (user, retrieve_records(user, plan.task, plan.config, encode)) for user in preview.users
        ]
    return preview.shared[RETRIEVED]


def _preview(preview: Preview) -> Iterable[Asked]:
    plan = preview.plan
    return probe_requests(previewed_retrieval(preview), plan.task, preview.tokenizer, plan.config)


def _settings(planning: Planning) -> dict[str, Any]:
    """Return what is retrieved and probed, with the identity of the encoder in the place of its name, and the source of
    a retriever, a prompt form and a metric of other packages.

    Raises:
        ConfigError: there is no such function.
    """
    plugins = plugin_sources(planning, ENGINE, FORM, METRIC)
    retrieve = retrieve_settings(planning)
    return {"probes": planning.config.probes, "retrieve": retrieve, **generator_settings(planning), **plugins}


def retrieve_settings(planning: Planning) -> dict[str, Any]:
    """Return what decides which records are retrieved.

    Raises:
        ConfigError: the retriever is a function of another package that is not there.
    """
    config, retriever = planning.config, planning.models.retriever
    retrieve = {**settings_of(config.retrieve), "encoder": retriever and retriever.identity}
    if config.retrieve.is_plugin:
        retrieve["source"] = source_digest(config.retrieve.method, METHOD)
    return retrieve


def retrievers(config: RunConfig) -> tuple[str, ...]:
    """Return the encoder that retrieval needs, if it needs one."""
    retrieve = config.retrieve
    return (retrieve.encoder,) if retrieve.needs_encoder and retrieve.encoder else ()


STAGES = (
    StageDefinition(
        name="probes",
        version=4,
        like_versions=(3,),  # answers that could not be parsed are, or were taken with what is around them
        inputs=("users",),
        earlier_inputs=("probes",),
        settings=_settings,
        is_made=with_scorers,
        asks=Asking(work=ProbesPart, preview=_preview, prepare=_retrieve_ahead, generations="answers"),
        tables=lambda _: ("probes", ERRORS, RETRIEVED),
        encoders=retrievers,
        duration=Duration(fixed=25, per_user=0.05),
    ),
)
