"""Export of a finished run for serving: one folder that needs neither the run's root nor Ray."""

from collections.abc import Sequence
from pathlib import Path

from hydra_ray import storage
from hydra_ray.adapt.label_model import needs_label_model, read_label_model
from hydra_ray.adapt.own_labels import needs_own_heads
from hydra_ray.adapt.own_model import read_own_model
from hydra_ray.errors import InputError
from hydra_ray.evaluate.metrics_file import REPORT_ANEW
from hydra_ray.lamp.users import USERS
from hydra_ray.models import resolve_model
from hydra_ray.models.content import model_files, names_below
from hydra_ray.rows import User, arrow_schema
from hydra_ray.runs.root import bucket_key_of
from hydra_ray.runs.stage import Stage
from hydra_ray.runs.updates import Layer, layers_of, newest_rows, updates_of
from hydra_ray.scorer.base.spec import DESCRIBED, base_name_of
from hydra_ray.scorer.base.spec import DESCRIPTION as BASE
from hydra_ray.scorer.heads.store import HEADS_SCHEMA, Lineage, heads_table, prior_folder, read_lineage
from hydra_ray.scorer.linear.prior import read_prior
from hydra_ray.serving.export_folder import (
    CARD,
    DATA_CARD,
    DESCRIPTION,
    ENCODER,
    FOLD,
    GENERATOR,
    RETRIEVER,
    SCORERS,
    Exported,
    has_tokenizer,
)
from hydra_ray.serving.model_card import base_card, data_card, model_card
from hydra_ray.serving.tables import write_head_rows, write_histories
from hydra_ray.stages.gate import fitted_gates
from hydra_ray.stages.own_heads import own_lineage
from hydra_ray.stages.plan import Plan, ScorerPlan
from hydra_ray.storage.listing_updates import digests_of
from hydra_ray.storage.listings import FILES


def export_run(plan: Plan, folder: str) -> Exported:
    """Copy everything that scoring needs of a finished run to an empty folder or URI: of each user the heads and the
    history of the newest update that has the user.

    Users forgotten under the root are not in it, but users who are forgotten later stay: exports are outside the root.

    Raises:
        InputError: the run is not finished or has no report, the folder is not empty, or it is below the root.
    """
    _require_exportable(plan, folder)
    root, run = plan.users.root, plan.config.run
    layers = layers_of(root, run, updates_of(root, run))
    exported = _exported(plan, folder, layers)
    scorers = dict(zip(SCORERS, (plan.reranker, plan.adapter), strict=True)) if plan.config.has_scorers else {}
    for name, scorer in scorers.items():
        _export_scorer(scorer, exported, name, layers)
    if needs_label_model(plan.task, plan.config):
        read_label_model(plan.labeller.folder).write(exported.stage("adapter.labeller").folder)
    if needs_own_heads(plan.task, plan.config):
        _export_own_heads(plan, exported, layers)
    _export_users(plan.users, exported.stage("users"), layers)
    for name in exported.fingerprints:
        stage = exported.stage(name)
        storage.write_json(stage.manifest_location, {FILES: digests_of(stage.folder, storage.list_tree(stage.folder))})
    _copy_model(plan.config.adapter.base.encoder, exported.path(ENCODER))
    if scorers and plan.config.retrieve.needs_encoder and plan.config.retrieve.encoder is not None:
        _copy_model(plan.config.retrieve.encoder, exported.path(RETRIEVER))
    if has_tokenizer(plan.config):
        _copy_model(plan.config.generator.model, exported.path(GENERATOR), with_weights=False)
    metrics = storage.read_json(storage.join(plan.run_folder, "metrics.json"), anew=REPORT_ANEW)
    for name in scorers:
        storage.write_bytes(storage.join(exported.path(name), CARD), base_card(metrics, name).encode())
    counters = plan.users.manifest()["counters"]
    storage.write_bytes(exported.path(CARD), model_card(metrics, counters).encode())
    storage.write_bytes(exported.path(DATA_CARD), data_card(metrics, counters).encode())
    files = exported.files_to_list(storage.list_tree(folder))
    storage.write_json(exported.path(DESCRIPTION), {**exported.describe(), FILES: digests_of(folder, files)})
    return exported


def _require_exportable(plan: Plan, folder: str) -> None:
    if not plan.is_complete():
        raise InputError(f"the run {plan.config.run} is not finished: run its configuration to the end first")
    if not storage.exists(storage.join(plan.run_folder, "metrics.json")):
        raise InputError(
            f"the run {plan.config.run} has no report, since no query of a new user has a target, and the export tells "
            "how well heads do: run it with some queries that have one"
        )
    if f"{folder}/".startswith(f"{plan.users.root}/"):
        raise InputError(
            f"{folder} is below the storage root, where every file must be one that users can be forgotten from: "
            "name a folder outside it"
        )
    if storage.list_tree(folder):
        raise InputError(f"{folder} is not empty: name a new folder, so that exports do not mix")


def _exported(plan: Plan, folder: str, layers: Sequence[Layer]) -> Exported:
    stages = {"users": plan.users, "adapter.labeller": plan.labeller}
    if plan.config.has_scorers:
        stages |= {f"{name}.heads": getattr(plan, name).heads for name in SCORERS}
    if needs_own_heads(plan.task, plan.config):
        stages |= {"adapter.own": plan.own_model, "adapter.codes": plan.stage("adapter.codes")}
    return Exported(
        folder=folder,
        config=plan.config,
        bucket_key=bucket_key_of(plan.config),
        fingerprints={name: stage.fingerprint for name, stage in stages.items()},
        gate=fitted_gates(plan)[FOLD] if plan.config.has_scorers else None,
        run_folder=plan.run_folder,
        updates=tuple(name for each in reversed(layers) for name in each.updates),
    )


def _export_scorer(scorer: ScorerPlan, exported: Exported, name: str, layers: Sequence[Layer]) -> None:
    base = storage.join(scorer.base.folder, base_name_of(scorer.base_folds[FOLD]))
    files = storage.read_json(storage.join(base, BASE), DESCRIBED)["files"]
    storage.copy_files(base, exported.path(name), [*files, BASE])
    heads, folder = exported.stage(f"{name}.heads"), prior_folder(scorer.prior_heads.folder, FOLD)
    lineage = read_lineage(folder)
    read_prior(folder).write(prior_folder(heads.folder, FOLD), lineage.head_prior)
    _copy_heads(scorer.heads, heads, heads_table(FOLD), layers, lineage)


def _copy_heads(stage: Stage, destination: Stage, table: str, layers: Sequence[Layer], lineage: Lineage) -> None:
    """Copy a table of heads, each user's from the newest run that has the user."""
    for bucket in stage.buckets:
        copy, newest = destination.part(table, bucket), newest_rows(stage, layers, table, bucket, HEADS_SCHEMA)
        if newest is None:
            storage.write_bytes(copy, storage.read_bytes(stage.part(table, bucket)))
        else:
            write_head_rows(copy, newest, lineage)


def _export_own_heads(plan: Plan, exported: Exported, layers: Sequence[Layer]) -> None:
    """Copy own heads that are fitted to all records, and what all users teach of them."""
    read_own_model(plan.own_model.folder).write(exported.stage("adapter.own").folder)
    codes, destination = plan.stage("adapter.codes"), exported.stage("adapter.codes")
    _copy_heads(codes, destination, heads_table(0), layers, own_lineage(plan.planned))


def _export_users(users: Stage, destination: Stage, layers: Sequence[Layer]) -> None:
    """Write the histories, each user's from the newest run that has the user."""
    schema = arrow_schema(User)
    for bucket in users.buckets:
        newest = newest_rows(users, layers, USERS, bucket, schema)
        part = storage.read_part(users.part(USERS, bucket), schema) if newest is None else newest
        write_histories(destination.part(USERS, bucket), part)


def _copy_model(spec: str, destination: str, *, with_weights: bool = True) -> None:
    """Copy a model's tokenizer, and its weights, to `destination`."""
    folder = resolve_model(spec, with_weights=with_weights)
    storage.copy_files(folder, destination, model_files(names_below(Path(folder)), with_weights=with_weights))
