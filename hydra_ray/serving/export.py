"""Export of a finished run for serving: one folder that needs neither the run's root nor Ray."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from hydra_ray import storage
from hydra_ray.adapt.label_model import needs_label_model, read_label_model
from hydra_ray.adapt.own_labels import needs_own_heads
from hydra_ray.adapt.own_model import read_own_model
from hydra_ray.errors import InputError
from hydra_ray.evaluate.metrics_file import REPORT_ANEW
from hydra_ray.lamp.users import USERS
from hydra_ray.models import resolve_model
from hydra_ray.models.content import model_files, names_below
from hydra_ray.rows import User, arrow_schema, from_table, to_table
from hydra_ray.runs.root import bucket_key_of
from hydra_ray.runs.run_folder import FinishedRun
from hydra_ray.runs.stage import Stage
from hydra_ray.runs.updates import newest_first, newest_rows
from hydra_ray.scorer.base.spec import DESCRIBED, base_name_of
from hydra_ray.scorer.base.spec import DESCRIPTION as BASE
from hydra_ray.scorer.heads.features import row_group_slices
from hydra_ray.scorer.heads.store import HEADS_SCHEMA, Lineage, heads_table, prior_folder, read_lineage, write_heads
from hydra_ray.scorer.linear.prior import read_prior
from hydra_ray.serving.export_folder import CARD, DESCRIPTION, ENCODER, FOLD, RETRIEVER, SCORERS, Exported
from hydra_ray.serving.model_card import base_card, model_card
from hydra_ray.stages.own_heads import own_lineage
from hydra_ray.stages.plan import Plan, ScorerPlan
from hydra_ray.storage.listing_updates import digests_of
from hydra_ray.storage.listings import FILES


def export_run(plan: Plan, folder: str) -> Exported:
    """Copy everything that scoring needs of a finished run to an empty folder or URI: of each user the heads and the
    history of the newest update that has the user.

    Users forgotten under the root are not in it, but users who are forgotten later stay: exports are outside the root.

    Raises:
        InputError: the run is not finished, the folder is not empty, or it is below the root.
    """
    _require_exportable(plan, folder)
    exported, updates = _exported(plan, folder), newest_first(plan.users.root, plan.config.run)
    for name, scorer in zip(SCORERS, (plan.reranker, plan.adapter), strict=True):
        _export_scorer(scorer, exported, name, updates)
    if needs_label_model(plan.task, plan.config):
        read_label_model(plan.labeller.folder).write(exported.stage("adapter.labeller").folder)
    if needs_own_heads(plan.task, plan.config):
        _export_own_heads(plan, exported, updates)
    _export_users(plan.users, exported.stage("users"), updates)
    for name in exported.fingerprints:
        stage = exported.stage(name)
        storage.write_json(stage.manifest_location, {FILES: digests_of(stage.folder, storage.list_tree(stage.folder))})
    _copy_model(plan.config.adapter.base.encoder, exported.path(ENCODER))
    if plan.config.retrieve.needs_encoder and plan.config.retrieve.encoder is not None:
        _copy_model(plan.config.retrieve.encoder, exported.path(RETRIEVER))
    metrics = storage.read_json(storage.join(plan.run_folder, "metrics.json"), anew=REPORT_ANEW)
    for name in SCORERS:
        storage.write_bytes(storage.join(exported.path(name), CARD), base_card(metrics, name).encode())
    storage.write_bytes(exported.path(CARD), model_card(metrics, plan.users.manifest()["counters"]).encode())
    files = exported.files_to_list(storage.list_tree(folder))
    storage.write_json(exported.path(DESCRIPTION), {**exported.describe(), FILES: digests_of(folder, files)})
    return exported


def _require_exportable(plan: Plan, folder: str) -> None:
    if not plan.is_complete():
        raise InputError(f"the run {plan.config.run} is not finished: run its configuration to the end first")
    if f"{folder}/".startswith(f"{plan.users.root}/"):
        raise InputError(
            f"{folder} is below the storage root, where every file must be one that users can be forgotten from: "
            "name a folder outside it"
        )
    if not plan.config.has_generator:
        raise InputError(
            f"the run {plan.config.run} has no generator, whose drafts an export scores: add users to it with "
            "`hydra-ray update` instead"
        )
    if storage.list_tree(folder):
        raise InputError(f"{folder} is not empty: name a new folder, so that exports do not mix")


def _exported(plan: Plan, folder: str) -> Exported:
    stages = {
        "users": plan.users,
        "adapter.labeller": plan.labeller,
        **{f"{name}.heads": getattr(plan, name).heads for name in SCORERS},
    }
    if needs_own_heads(plan.task, plan.config):
        stages |= {"adapter.own": plan.own_model, "adapter.codes": plan.stage("adapter.codes")}
    return Exported(
        folder=folder,
        config=plan.config,
        bucket_key=bucket_key_of(plan.config),
        fingerprints={name: stage.fingerprint for name, stage in stages.items()},
    )


def _export_scorer(scorer: ScorerPlan, exported: Exported, name: str, updates: Sequence[FinishedRun]) -> None:
    base = storage.join(scorer.base.folder, base_name_of(scorer.base_folds[FOLD]))
    files = storage.read_json(storage.join(base, BASE), DESCRIBED)["files"]
    storage.copy_files(base, exported.path(name), [*files, BASE])
    heads, folder = exported.stage(f"{name}.heads"), prior_folder(scorer.prior_heads.folder, FOLD)
    lineage = read_lineage(folder)
    read_prior(folder).write(prior_folder(heads.folder, FOLD), lineage.head_prior)
    _copy_heads(scorer.heads, heads, heads_table(FOLD), updates, lineage)


def _copy_heads(stage: Stage, destination: Stage, table: str, updates: Sequence[FinishedRun], lineage: Lineage) -> None:
    """Copy a table of heads, each user's from the newest run that has the user."""
    for bucket in stage.buckets:
        copy, newest = destination.part(table, bucket), newest_rows(stage, updates, table, bucket, HEADS_SCHEMA)
        if newest is None:
            storage.write_bytes(copy, storage.read_bytes(stage.part(table, bucket)))
        else:
            groups = (newest.slice(each.start, each.stop - each.start) for each in row_group_slices(newest.num_rows))
            write_heads(copy, groups, lineage, {})


def _export_own_heads(plan: Plan, exported: Exported, updates: Sequence[FinishedRun]) -> None:
    """Copy own heads that are fitted to all records, and what all users teach of them."""
    read_own_model(plan.own_model.folder).write(exported.stage("adapter.own").folder)
    codes, destination = plan.stage("adapter.codes"), exported.stage("adapter.codes")
    _copy_heads(codes, destination, heads_table(0), updates, own_lineage(plan))


def _export_users(users: Stage, destination: Stage, updates: Sequence[FinishedRun]) -> None:
    """Write the histories without queries, in row groups, so that one user is found without reading a bucket."""
    schema = arrow_schema(User)
    for bucket in users.buckets:
        newest = newest_rows(users, updates, USERS, bucket, schema)
        part = storage.read_part(users.part(USERS, bucket), schema) if newest is None else newest
        storage.write_row_groups(destination.part(USERS, bucket), schema, _histories(part), {})


def _histories(part: pa.Table) -> Iterator[pa.Table]:
    for rows in row_group_slices(part.num_rows):
        own = part.slice(rows.start, rows.stop - rows.start)
        yield to_table((replace(user, queries=()) for user in from_table(own, User)), User)


def _copy_model(spec: str, destination: str) -> None:
    """Copy a model's weights and tokenizer to `destination`."""
    folder = resolve_model(spec)
    storage.copy_files(folder, destination, model_files(names_below(Path(folder)), with_weights=True))
