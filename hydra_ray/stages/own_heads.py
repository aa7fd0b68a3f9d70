"""Own heads fitted to all records, of the adapter: what all users teach, and each user's own head.

No generator is asked. Each fold of the training users is a trial of Ray Tune.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hydra_ray import storage
from hydra_ray.adapt.label_model import read_label_model, sampled_users
from hydra_ray.adapt.own_labels import OwnUsers, encoded_items, fit_own_users, needs_own_heads, own_fold
from hydra_ray.adapt.own_model import OwnFold, fit_own_fold, join_own_folds, own_space, read_own_model
from hydra_ray.adapt.own_records import ItemSpace, OwnRecords, own_records
from hydra_ray.config import RunConfig, Task
from hydra_ray.engine.parts import Counters, run_actor_parts
from hydra_ray.engine.tasks import Kept, keep_result, run_task
from hydra_ray.lamp.quality import METRIC
from hydra_ray.lamp.tasks import task_of
from hydra_ray.retrieve.dense import Encode
from hydra_ray.rows import User, UserLabelLogs
from hydra_ray.runs.resources import core_bundle
from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.heads.ray_tune import run_trials
from hydra_ray.scorer.heads.store import Lineage, heads_table, own_rows, write_heads
from hydra_ray.scorer.linear.own import OwnPrior
from hydra_ray.scorer.linear.shared import NUM_USER_FOLDS
from hydra_ray.stages.definition import Duration, StageDefinition
from hydra_ray.stages.item_vectors import VECTORS, write_vectors
from hydra_ray.stages.planning import Planning, encoder_settings, plugin_sources
from hydra_ray.stages.tables import CANDIDATES, read_given_users, read_users, write_rows
from hydra_ray.storage.arrays import read_arrays, write_arrays

if TYPE_CHECKING:
    from hydra_ray.stages.plan import Plan

MAX_TAUGHT_RECORDS = 60_000
"""Number of training users' records at which no more users are sampled."""
LABELS = "labels"
"""Name of the table of label log probabilities."""
_SEED = 0
_Taught = tuple[OwnRecords, ItemSpace]
"""Records that are learned from, and the space of their items."""
_ANEW = "Remove the stage's folder and run again."


class OwnHeadsPart:
    """A bucket's own heads and label log probabilities; made once in each worker, since it loads the encoder."""

    def __init__(self, plan: "Plan"):
        self._plan, self._encode = plan, open_label_encoder(plan)
        self._labels = read_label_model(plan.labeller.folder)
        self._model = read_own_model(plan.own_model.folder)

    def __call__(self, bucket: int) -> Counters:
        """Make and commit the part; the labels last, whose part says that the bucket is done."""
        plan, users = self._plan, read_users(self._plan, bucket)
        stage = plan.stage("adapter.codes")
        users = sorted(users, key=lambda user: user.user_id)
        vectors = encoded_items(plan.task, users, self._encode)
        write_vectors(stage.part(VECTORS, bucket), plan.task, users, vectors)
        found = fit_own_users(plan.task, users, self._labels, self._model, vectors)
        heads = own_rows(
            [user.user_id for user in users],
            np.array([user.is_new for user in users], bool),
            f"own-{self._model.shape.rank}",
            found.belief,
            found.num_records_U,
            found.losses_U2,
        )
        write_heads(stage.part(heads_table(0), bucket), [heads], own_lineage(plan.planned), {})
        return write_rows(stage, LABELS, bucket, found.rows, UserLabelLogs, _counters(found))


def own_lineage(stages: Mapping[str, Stage]) -> Lineage:
    """Return the fingerprints that codes are valid for, given a run's stages by name."""
    return Lineage(base=stages["adapter.labeller"].fingerprint, head_prior=stages["adapter.own"].fingerprint)


def own_heads_stages() -> tuple[StageDefinition, StageDefinition]:
    """Return the stages of what all users teach, and of each user's own head."""
    model = StageDefinition(
        name="adapter.own",
        version=1,
        inputs=("users", "adapter.labeller"),
        settings=_settings,
        make=_make_model,
        is_made=_is_made,
        is_inherited=True,
        file_kinds={r"own\.(json|safetensors)": "learned", r"(folds|tune)/.+": "unfinished"},
        learns_from="training users",
        workers="trials",
        encoders=lambda config: (config.adapter.base.encoder,),
        duration=Duration(fixed=10, per_user=0.2, most_users=1000),
    )
    codes = StageDefinition(
        name="adapter.codes",
        version=1,
        inputs=("users", "adapter.labeller", "adapter.own"),
        added_inputs=(CANDIDATES,),
        settings=lambda planning: encoder_settings(planning.config.adapter, planning.models.adapter),
        make=_make_codes,
        is_made=_is_made,
        tables=lambda _: (LABELS, heads_table(0)),
        workers="encoders",
        encoders=lambda config: (config.adapter.base.encoder,),
        duration=Duration(fixed=6, per_user=0.05),
    )
    return model, codes


def open_label_encoder(plan: "Plan") -> Encode:
    """Return the encoder by which the adapter compares texts, on the device that its worker reserves."""
    from hydra_ray.scorer.base.encoder import device_of, open_encoder

    base = plan.config.adapter.base
    return open_encoder(base.encoder, base.max_text_tokens, device_of(plan.config.placement.encoder_gpus))


def _is_made(config: RunConfig) -> bool:
    return needs_own_heads(task_of(config.lamp), config)


def _settings(planning: Planning) -> dict[str, Any]:
    users = planning.config.users if planning.parent is None else planning.parent.config.users
    encoder = encoder_settings(planning.config.adapter, planning.models.adapter)
    judged = plugin_sources(planning, METRIC)  # the gain that it predicts is in the quality of answers too
    return {**encoder, **judged, "task": planning.task, "num_folds": users.num_folds}


def _make_model(plan: "Plan") -> Counters:
    """Estimate every fold's prior: Ray Tune; then fit the stacks and predict the gain."""
    placement, stage = plan.config.placement, plan.own_model
    num_folds = plan.config.users.num_folds if plan.config.users.num_folds > 1 else NUM_USER_FOLDS
    taught = keep_result(_taught, plan, placement=placement)  # this process holds nobody's records
    folds = [*range(num_folds), -1]
    missing = [fold for fold in folds if not storage.exists(_fold_location(stage.folder, fold))]
    if missing:
        work = partial(_run_trial, plan.task, taught, stage.folder)
        run_trials(work, {"fold": missing}, stage.folder, placement.max_concurrent_trials, core_bundle(placement))
    counters = run_task(_join, plan.task, taught, stage.folder, folds, placement=placement)
    for leftover in ("folds", "tune"):
        storage.remove_folder(storage.join(stage.folder, leftover))
    return counters


def _taught(plan: "Plan") -> _Taught:
    """Return the records of a sample of the training users and their space."""
    users = (user for bucket in plan.users.buckets for user in _training_users(read_given_users(plan, bucket)))
    chosen = sampled_users(plan.task, users, MAX_TAUGHT_RECORDS)
    vectors = encoded_items(plan.task, chosen, open_label_encoder(plan))
    records = own_records(plan.task, chosen, read_label_model(plan.labeller.folder).text, vectors, own_fold)
    return records, own_space(records)


def _training_users(users: Iterable[User]) -> Iterable[User]:
    return (user for user in users if not user.is_new)


def _run_trial(task: Task, taught: Kept[_Taught], folder: str, settings: Mapping[str, Any]) -> dict[str, float]:
    """Evaluate a fold."""
    records, space = taught.value()
    found = fit_own_fold(task, records, space, settings["fold"], _SEED)
    arrays = {
        "directions": found.prior.directions_DR,
        "variances": found.prior.variances_R,
        "losses": found.losses_UM,
    }
    write_arrays(_fold_location(folder, settings["fold"]), arrays)
    losses = found.losses_UM.mean(axis=0) if len(found.losses_UM) else np.zeros(1)
    return {"loss": float(losses.min())}


def _join(task: Task, taught: Kept[_Taught], folder: str, folds: Sequence[int]) -> Counters:
    model = join_own_folds(task, *taught.value(), [_read_fold(folder, fold) for fold in folds])
    model.write(folder)
    gain = model.gain
    return {"users": gain.num_users, "records": gain.num_records, "is_on": float(model.is_on)}


def _read_fold(folder: str, fold: int) -> OwnFold:
    arrays = read_arrays(_fold_location(folder, fold), _ANEW)
    prior = OwnPrior(directions_DR=arrays["directions"], variances_R=arrays["variances"])
    return OwnFold(prior=prior, losses_UM=arrays["losses"])


def _fold_location(folder: str, fold: int) -> str:
    return storage.join(folder, "folds", f"{'all' if fold < 0 else fold}.safetensors")


def _make_codes(plan: "Plan") -> Counters:
    stage, placement = plan.stage("adapter.codes"), plan.config.placement
    return run_actor_parts(stage, [LABELS, heads_table(0)], OwnHeadsPart, {"plan": plan}, placement)


def _counters(found: OwnUsers) -> dict[str, float]:
    return {"records": float(found.num_records_U.sum())}
