"""Start the workers that train a base and the training users' heads together, by Ray Train.

The training loop is in `hydra_ray.scorer.base.train_worker`.

A training user's score is that of the shared head plus a low-rank deviation of the user's own, so that a single user's
taste need not be explained by the base (arXiv 2406.02888, section 3.4). Epoch 0 is the untrained base under a
ridge head; training is kept only if it lowers the loss of held-out users by more than one standard error.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hydra_ray import storage
from hydra_ray.config import BaseConfig, PlacementConfig
from hydra_ray.engine.worker_errors import reason_of
from hydra_ray.errors import TrainingError
from hydra_ray.extras import is_installed
from hydra_ray.runs.resources import train_bundle
from hydra_ray.runs.signals import call_aside
from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.base.spec import BaseShape, Interaction, base_name_of
from hydra_ray.scorer.base.task import TrainingTask

_LOG = logging.getLogger(__name__)


def train_bases(
    examples: Stage,
    stage: Stage,
    config: BaseConfig,
    interaction: Interaction,
    handcrafted_names: Sequence[str],
    placement: PlacementConfig,
    folds: Sequence[int | None],
    *,
    has_soft_targets: bool,
) -> dict[str, float]:
    """Train a base for each fold on the training users of `examples`, one after the other, and store them in `stage`.

    A call that was killed continues, when repeated, after the last finished epoch. Ray must be running.

    Args:
        folds: folds of a cross-fitted run, whose new users are left out; None to train on all training users.
        has_soft_targets: see `target_distribution`.

    Returns:
        Counters, summed over the bases: training groups (`lessons`), epochs, best epochs (0: untrained), losses.

    Raises:
        TrainingError: the workers failed.
    """
    start = time.monotonic()
    shape = BaseShape(
        interaction=interaction,
        handcrafted_names=tuple(handcrafted_names),
        width=config.width,
        max_text_tokens=config.max_text_tokens,
    )
    tasks = [
        TrainingTask(
            locations=tuple(examples.parts("examples")),
            destination=storage.join(stage.folder, base_name_of(fold)),
            config=config,
            shape=shape,
            placement=placement,
            fold=fold,
            has_soft_targets=has_soft_targets,
        )
        for fold in folds
    ]
    checkpoints = storage.join(stage.folder, "train")
    missing = [task for task in tasks if not task.is_done()]
    if missing and config.num_epochs:
        _run_workers(missing, checkpoints, stage.name)
    else:
        for task in missing:
            _run_untrained(task)
            _log_epochs(stage.name, task)
    storage.remove_folder(checkpoints)
    counters = storage.add_counters(_counters(task.training()) for task in tasks)
    return {**counters, "seconds": round(time.monotonic() - start, 3)}


def _run_untrained(task: TrainingTask) -> None:
    import ray

    options = replace(train_bundle(task.placement), gpus=0).options()
    ray.get(ray.remote(**options)(_write_untrained).remote(task))


def _write_untrained(task: TrainingTask) -> None:
    from hydra_ray.scorer.base.train_worker import write_untrained

    write_untrained(task)


def _train(settings: dict[str, list[TrainingTask]]) -> None:
    from hydra_ray.scorer.base.train_worker import train  # what it imports must not be imported by the driver

    train(settings["tasks"])


def _run_workers(tasks: Sequence[TrainingTask], folder: str, stage_name: str) -> None:
    """Run the workers, which do one task after the other, to the end; their checkpoints are kept in `folder`."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    placement = _with_engine(tasks[0].placement)
    tasks = [replace(task, placement=placement) for task in tasks]
    bundle = train_bundle(placement)
    # An engine's checkpoint fits only the same number of workers and ZeRO stage, so those are part of the run's name.
    name = f"zero{placement.zero_stage}-workers{placement.train_workers}"
    filesystem, path = storage.arrow_filesystem(folder)
    trainer = TorchTrainer(
        _train,
        train_loop_config={"tasks": list(tasks)},
        torch_config=TorchConfig(backend="nccl" if placement.train_gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=placement.train_workers,
            use_gpu=placement.train_gpus_per_worker > 0,
            resources_per_worker=bundle.amounts(),
            label_selector=dict(bundle.labels) or None,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(max_failures=len(tasks)),
        ),
    )
    untold = list(tasks)

    def tell() -> None:
        while untold and untold[0].is_done():
            _log_epochs(stage_name, untold.pop(0))

    try:
        # Train would replace this program's signal handlers by its own, and leave them there.
        call_aside(trainer.fit, watch=tell)
    except TrainingFailedError as error:
        if reason := reason_of(error):
            raise reason from None
        raise TrainingError(
            f"training the bases failed: {error}. Run again to continue from the checkpoints in {folder}."
        ) from error
    tell()


def _with_engine(placement: PlacementConfig) -> PlacementConfig:
    """Return the placement with a ZeRO stage whose engine is installed: decided by the driver, once for all workers."""
    if placement.zero_stage != 1 or is_installed("deepspeed"):
        return placement
    _LOG.info("DeepSpeed is not installed: training with torch alone (ZeRO stage 0)")
    return placement.model_copy(update={"zero_stage": 0})


def _log_epochs(stage_name: str, task: TrainingTask) -> None:
    name, training = f"{stage_name} {base_name_of(task.fold)}", task.training()
    losses = training["holdout_losses"]
    for epoch, loss in enumerate(training["train_losses"], start=1):
        held_out = f", held-out loss {losses[epoch]:.4f} (untrained {losses[0]:.4f})" if losses else ""
        chosen = " <- kept" if epoch == training["best_epoch"] else ""
        _LOG.info("%s: epoch %d, training loss %.4f%s%s", name, epoch, loss, held_out, chosen)
    if training["best_epoch"] == 0:
        reason = "no epochs are configured"
        if losses:
            reason = "training did not lower the held-out loss by more than one standard error"
        _LOG.info("%s: the untrained encoder is kept: %s", name, reason)


def _counters(training: dict[str, Any]) -> dict[str, float]:
    counters: dict[str, float] = {
        "lessons": training["num_lessons"],
        "held_out": training["num_held_out"],
        "epochs": training["epochs_done"],
        "best_epoch": training["best_epoch"],
    }
    if training["holdout_losses"]:
        counters["holdout_loss_untrained"] = training["holdout_losses"][0]
        counters["holdout_loss"] = training["holdout_losses"][training["best_epoch"]]
    return counters
