"""Start the workers that train a base and the training users' heads together: one as a Ray task, several by Ray Train.

The training loop is in `hydra_ray.scorer.base.train_worker`.

A training user's score is that of the shared head plus a low-rank deviation of the user's own, so that a single user's
taste need not be explained by the base (arXiv 2406.02888, section 3.4), or that of a network of the user's own, as
published. Epoch 0 is the untrained base under a ridge head; where users are held out, training is kept only if it
lowers their loss by more than one standard error.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hydra_ray import storage
from hydra_ray.config import BaseConfig, PlacementConfig
from hydra_ray.engine.actors import threads_environment
from hydra_ray.engine.worker_errors import reason_of
from hydra_ray.errors import HydraError, TrainingError
from hydra_ray.extras import is_installed
from hydra_ray.runs.resources import train_bundle
from hydra_ray.runs.signals import call_aside
from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.base.spec import BaseShape, Interaction, base_name_of
from hydra_ray.scorer.base.task import TrainingTask

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_LOOKS = 5.0
"""Seconds until it is logged that a base is trained, at most."""


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
        pooling=config.pooling,
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
    if missing := [task for task in tasks if not task.is_done()]:
        train_missing(missing, checkpoints, stage.name)
    storage.remove_folder(checkpoints)
    counters = storage.add_counters(_counters(task.training()) for task in tasks)
    return {**counters, "seconds": round(time.monotonic() - start, 3)}


def train_missing(tasks: Sequence[TrainingTask], folder: str, stage_name: str) -> None:
    """Train one base after the other to the end, keeping checkpoints in `folder`.

    Raises:
        TrainingError: the workers failed.
    """
    placement = tasks[0].placement
    if not tasks[0].config.num_epochs:  # one worker writes what nobody trains
        placement = placement.model_copy(update={"train_workers": 1, "train_gpus_per_worker": 0})
    placement = placement.model_copy(update={"zero_stage": zero_stage_of(placement)})
    tasks = [replace(task, placement=placement) for task in tasks]
    untold = list(tasks)

    def tell() -> None:
        while untold and untold[0].is_done():
            _log_epochs(stage_name, untold.pop(0))

    (_run_alone if placement.train_workers == 1 else _run_together)(tasks, folder, tell)
    tell()


def _run_alone(tasks: Sequence[TrainingTask], folder: str, tell: Callable[[], None]) -> None:
    """Run one worker as a Ray task: a group of Ray Train's workers would start for longer than small bases train."""
    import ray
    from ray.exceptions import RayError

    placement = tasks[0].placement
    remote = ray.remote(
        **train_bundle(placement).options(),
        runtime_env=threads_environment(placement.train_threads),
        max_retries=len(tasks),
    )
    training = remote(_train).remote({"tasks": list(tasks), "folder": storage.join(folder, _name_of(placement))})
    try:
        while not ray.wait([training], timeout=_SECONDS_BETWEEN_LOOKS)[0]:
            tell()
        ray.get(training)
    except RayError as error:
        raise _failure(error, folder) from error
    except BaseException:
        ray.cancel(training, force=True)
        raise


def _run_together(tasks: Sequence[TrainingTask], folder: str, tell: Callable[[], None]) -> None:
    """Run several workers by Ray Train."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    placement = tasks[0].placement
    bundle = train_bundle(placement)
    filesystem, path = storage.arrow_filesystem(folder)
    trainer = TorchTrainer(
        _train,
        train_loop_config={"tasks": list(tasks), "folder": storage.join(folder, _name_of(placement))},
        torch_config=TorchConfig(backend="nccl" if placement.train_gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=placement.train_workers,
            use_gpu=placement.train_gpus_per_worker > 0,
            resources_per_worker=bundle.amounts(),
            label_selector=dict(bundle.labels) or None,
        ),
        run_config=RunConfig(
            name=_name_of(placement),
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=len(tasks)),
        ),
    )
    try:
        # Train would replace this program's signal handlers by its own, and leave them there.
        call_aside(trainer.fit, watch=tell, seconds=_SECONDS_BETWEEN_LOOKS)
    except TrainingFailedError as error:
        raise _failure(error, folder) from error


def _train(settings: dict[str, Any]) -> None:
    from hydra_ray.scorer.base.train_worker import train  # what it imports must not be imported by the driver

    train(settings["tasks"], settings["folder"])


def _failure(error: Exception, folder: str) -> HydraError:
    """Return what to raise where workers failed: this package's own error, if it was one."""
    return reason_of(error) or TrainingError(
        f"training the bases failed: {error}. Run again to continue from the checkpoints in {folder}."
    )


def zero_stage_of(placement: PlacementConfig) -> int:
    """Return the ZeRO stage that is of use and whose engine is installed: decided by the driver, once for all
    workers."""
    if placement.useful_zero_stage == 1 and not is_installed("deepspeed"):
        _LOG.info("DeepSpeed is not installed: training with torch alone (ZeRO stage 0)")
        return 0
    return placement.useful_zero_stage


def _name_of(placement: PlacementConfig) -> str:
    """Return the name of a training: an engine's checkpoint fits only the same number of workers and ZeRO stage."""
    return f"zero{placement.zero_stage}-workers{placement.train_workers}"


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
