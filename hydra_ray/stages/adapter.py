"""The adapter, the scorer that chooses answers: label model, examples, base, features, heads."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra_ray import storage
from hydra_ray.adapt.adapter_examples import Drafted, adapter_examples
from hydra_ray.adapt.label_model import fit_label_model, needs_label_model, read_label_model, sampled_users
from hydra_ray.adapt.own_labels import needs_own_heads
from hydra_ray.adapt.own_model import read_own_model
from hydra_ray.engine.parts import Counters, run_actor_parts
from hydra_ray.engine.tasks import run_task
from hydra_ray.lamp.judgements import JUDGEMENTS
from hydra_ray.retrieve.dense import Vectors, encode_besides
from hydra_ray.rows import (
    DraftedUser,
    Judgement,
    JudgingUser,
    ProbedUser,
    User,
    UserExamples,
    UserLabelLogs,
    arrow_schema,
    from_table,
)
from hydra_ray.stages.definition import Duration, StageDefinition, with_scorers
from hydra_ray.stages.item_vectors import VECTORS, read_vectors
from hydra_ray.stages.own_heads import LABELS, open_label_encoder, own_heads_stages
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.planning import Planning, encoder_settings
from hydra_ray.stages.scorer import EXAMPLES, examples_settings, scorer_stages, scores_of_users
from hydra_ray.stages.tables import joined, read_given_users, read_rows, read_users, write_rows


class AdapterExamplesPart:
    """A bucket's groups of possible answers; made once in each worker, since it loads the encoder."""

    def __init__(self, plan: Plan):
        self._plan, self._encode = plan, open_label_encoder(plan)
        self._labeller = read_label_model(plan.labeller.folder) if needs_label_model(plan.task, plan.config) else None
        has_own_heads = needs_own_heads(plan.task, plan.config)
        self._has_vectors = has_own_heads
        self._has_own_heads = has_own_heads and read_own_model(plan.own_model.folder).is_on

    def __call__(self, bucket: int) -> Counters:
        """Make and commit the part."""
        plan, users = self._plan, read_users(self._plan, bucket)
        rows = joined(
            Drafted,
            users,
            probed=read_rows(plan.probes, "probes", bucket, ProbedUser),
            scored=scores_of_users(plan, "reranker", bucket, users),
            drafted=read_rows(plan.drafts, "drafts", bucket, DraftedUser),
            labels=self._labels_of(bucket, users),
            judgements=self._judgements_of(bucket, users),
        )
        encode = encode_besides(self._vectors_of(bucket, users), self._encode)
        examples = list(adapter_examples(rows, plan.task, plan.config, encode, self._labeller))
        return write_rows(plan.stage("adapter.examples"), EXAMPLES, bucket, examples, UserExamples, {})

    def _vectors_of(self, bucket: int, users: Sequence[User]) -> Vectors:
        """Return the vectors that were kept when the users' own heads were fitted, if they were."""
        if not self._has_vectors:
            return {}
        return read_vectors(self._plan.stage("adapter.codes").part(VECTORS, bucket), self._plan.task, users)

    def _labels_of(self, bucket: int, users: Sequence[User]) -> Mapping[str, UserLabelLogs | None]:
        """Return the users' label log probabilities, where own heads fitted to all records count."""
        if not self._has_own_heads:
            return {user.user_id: None for user in users}
        return read_rows(self._plan.stage("adapter.codes"), LABELS, bucket, UserLabelLogs)

    def _judgements_of(self, bucket: int, users: Sequence[User]) -> Mapping[str, tuple[Judgement, ...]]:
        """Return what the users said of drafts, which only an update or a refreshed run knows."""
        found: dict[str, tuple[Judgement, ...]] = {user.user_id: () for user in users}
        if self._plan.line is None or self._plan.task.kind != "text":
            return found
        location = self._plan.users.part(JUDGEMENTS, bucket)
        table = storage.read_part_if_there(location, arrow_schema(JudgingUser))
        judging = () if table is None else from_table(table, JudgingUser)
        return found | {row.user_id: row.judgements for row in judging}


def make_labeller(plan: Plan) -> Counters:
    """Fit the label model to the records of a sample of all users, and store it."""
    if not needs_label_model(plan.task, plan.config):
        return {}
    encode = open_label_encoder(plan)
    users = sampled_users(plan.task, (user for bucket in plan.users.buckets for user in read_given_users(plan, bucket)))
    fit_label_model(plan.task, users, encode).write(plan.labeller.folder)
    return {"records": sum(len(user.history) for user in users)}


def _labeller_settings(planning: Planning) -> dict[str, Any]:
    adapter, task = planning.config.adapter, planning.task
    steps = {"steps": ["text", "records"]} if needs_label_model(task, planning.config) else {}
    return {**encoder_settings(adapter, planning.models.adapter), **steps, "task": task}


def _examples_settings(planning: Planning) -> dict[str, Any]:
    # Handcrafted features compare texts by the encoder.
    compared = encoder_settings(planning.config.adapter, planning.models.adapter)
    return {**examples_settings(planning, "adapter"), **compared, "drafts": planning.config.drafts}


def _make_examples(plan: Plan) -> Counters:
    stage, placement = plan.stage("adapter.examples"), plan.config.placement
    return run_actor_parts(stage, [EXAMPLES], AdapterExamplesPart, {"plan": plan}, placement)


STAGES = (
    StageDefinition(
        name="adapter.labeller",
        version=1,
        inputs=("users",),
        settings=_labeller_settings,
        make=lambda plan: run_task(make_labeller, plan, placement=plan.config.placement),
        is_inherited=True,
        file_kinds={r"labeller\.safetensors": "learned"},
        learns_from="all users",
        workers="encoder",
        encoders=lambda config: (config.adapter.base.encoder,),
        duration=Duration(fixed=20, per_user=0.15, most_users=1000),
    ),
    *own_heads_stages(),
    StageDefinition(
        name="adapter.examples",
        version=4,  # the reranker's have no histories
        inputs=("users", "probes", "reranker.heads", "drafts", "adapter.labeller"),
        added_inputs=("adapter.own", "adapter.codes"),
        settings=_examples_settings,
        make=_make_examples,
        is_made=with_scorers,
        tables=lambda _: (EXAMPLES,),
        workers="encoders",
        encoders=lambda config: (config.adapter.base.encoder,),
        duration=Duration(fixed=6, per_user=0.15),
    ),
    *scorer_stages("adapter", Duration(fixed=5, per_user=0.05), Duration(fixed=8, per_user=0.05)),
)
