"""Probes: the generator's answers to one-record prompts, labelled by whether the record helped."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra_ray.config import RetrieveConfig, RunConfig
from hydra_ray.engine.parts import Counters, run_actor_parts
from hydra_ray.generate.engines.opening import open_tokenizer
from hydra_ray.generate.failures import ERRORS
from hydra_ray.plugins import load_plugin, source_digest
from hydra_ray.rerank.probes import label_probes, probe_requests, retrieve_records
from hydra_ray.retrieve.dense import Encode, encode_ahead
from hydra_ray.retrieve.methods import METHOD
from hydra_ray.rows import Asked, Completion, ProbedUser, User
from hydra_ray.runs.settings import settings_of
from hydra_ray.stages.came_back import earlier_rows
from hydra_ray.stages.definition import Asking, Duration, Preview, StageDefinition, with_generator
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.planning import Planning, generator_settings
from hydra_ray.stages.tables import read_rows, read_users, write_answers, write_rows
from hydra_ray.storage import exists

if TYPE_CHECKING:
    import torch

_RETRIEVED = "retrieved"


class RetrievedPart:
    """A bucket's retrieved records; made once in each worker, since it loads the encoder."""

    def __init__(self, plan: Plan):
        from hydra_ray.scorer.base.encoder import device_of

        self._plan, self._device = plan, device_of(plan.config.placement.encoder_gpus)

    def __call__(self, bucket: int) -> Counters:
        """Make and commit the part."""
        return _retrieve(self._plan, bucket, self._device)


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
        task = self._plan.task
        rows = list(label_probes(self._retrieved(bucket), completions, task))
        answers = [probe.answer for row in rows for query in row.queries for probe in query.probes]
        return write_answers(self._plan.probes, bucket, rows, ProbedUser, answers, completions, task, counters)

    def _retrieved(self, bucket: int) -> list[tuple[User, ProbedUser]]:
        """Return users with their retrieved records, ranked once, since encoders of two machines may not agree."""
        users = read_users(self._plan, bucket)
        if not exists(self._plan.probes.part(_RETRIEVED, bucket)):
            _retrieve(self._plan, bucket)
        rows = read_rows(self._plan.probes, _RETRIEVED, bucket, ProbedUser)
        return [(user, rows[user.user_id]) for user in users]


def retrieve_ahead(plan: Plan) -> None:
    """Retrieve the records of all users where that needs an encoder, by the workers that hold one."""
    if _encoders(plan.config) and plan.probes.missing_buckets(_RETRIEVED):
        run_actor_parts(plan.probes, [_RETRIEVED], RetrievedPart, {"plan": plan}, plan.config.placement)


def _retrieve(plan: Plan, bucket: int, device: "torch.device | None" = None) -> Counters:
    """Make and commit a bucket's retrieved records."""
    config, users = plan.config, read_users(plan, bucket)
    encode = open_retriever(users, config.retrieve, device)
    earlier = earlier_rows(plan, bucket, users)
    found = [retrieve_records(user, plan.task, config, encode, earlier.get(user.user_id)) for user in users]
    return write_rows(plan.probes, _RETRIEVED, bucket, found, ProbedUser, {})


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
    if _RETRIEVED not in preview.shared:
        plan = preview.plan
        encode = open_retriever(preview.users, plan.config.retrieve)
        preview.shared[_RETRIEVED] = [
            (user, retrieve_records(user, plan.task, plan.config, encode)) for user in preview.users
        ]
    return preview.shared[_RETRIEVED]


def _preview(preview: Preview) -> Iterable[Asked]:
    plan = preview.plan
    return probe_requests(previewed_retrieval(preview), plan.task, preview.tokenizer, plan.config)


def _settings(planning: Planning) -> dict[str, Any]:
    """Return what is retrieved and probed, with the identity of the encoder in the place of its name, and the source of
    a retriever from elsewhere.

    Raises:
        ConfigError: there is no such retriever.
    """
    config, retriever = planning.config, planning.models.retriever
    retrieve = {**settings_of(config.retrieve), "encoder": retriever and retriever.identity}
    if config.retrieve.is_plugin:
        load_plugin(config.retrieve.method, METHOD)
        retrieve["source"] = source_digest(config.retrieve.method, METHOD)
    return {"probes": config.probes, "retrieve": retrieve, **generator_settings(planning)}


def _encoders(config: RunConfig) -> tuple[str, ...]:
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
        is_made=with_generator,
        asks=Asking(work=ProbesPart, preview=_preview, prepare=retrieve_ahead, generations="answers"),
        tables=lambda _: ("probes", ERRORS, _RETRIEVED),
        encoders=_encoders,
        duration=Duration(fixed=25, per_user=0.05),
    ),
)
