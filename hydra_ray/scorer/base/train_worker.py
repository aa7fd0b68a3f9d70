"""One worker of base training: a Ray Train worker around an engine that steps the optimizer.

Each epoch ends with a checkpoint to which every rank reports its shard. A restarted worker continues after the last
one, with the training groups in the same order.
"""

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from hydra_ray.models import resolve_model
from hydra_ray.scorer.base.batches import Survey, TrainingGroupStream
from hydra_ray.scorer.base.layer_cache import HiddenStateCache
from hydra_ray.scorer.base.model import new_base, write_base
from hydra_ray.scorer.base.objective import TrainingModel, frozen_table, join_tables, ridge_head, user_losses
from hydra_ray.scorer.base.spec import base_name_of
from hydra_ray.scorer.base.task import TrainingTask
from hydra_ray.scorer.base.train_engines import TrainingEngine, open_engine, prepare_process
from hydra_ray.seeds import seed_of
from hydra_ray.temporary import temporary_folder

_LOG = logging.getLogger(__name__)
MAX_START_GROUPS = 2000
"""Number of groups that the untrained base's ridge head is fitted on."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """Course of the training so far; stored in every checkpoint."""

    epochs_done: int = 0
    best_epoch: int = 0
    train_losses: list[float] = field(default_factory=list)
    holdout_losses: list[float] = field(default_factory=list)
    """Mean held-out loss after each epoch, the untrained base's first; empty if no users are held out."""
    improvements: list[float] = field(default_factory=list)
    """Mean improvement of each trained epoch over the untrained base, in standard errors."""
    start_losses: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Loss of each held-out user under the untrained base."""
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    """Trained parameters of the base after `best_epoch`; empty for epoch 0."""

    def save(self, folder: str) -> None:
        """Write the progress to `folder`."""
        tensors = {f"best.{name}": tensor for name, tensor in self.best_weights.items()}
        save_file(tensors | {"start_losses": torch.from_numpy(self.start_losses)}, os.path.join(folder, _TENSORS))
        with open(os.path.join(folder, _NUMBERS), "w", encoding="utf-8") as file:
            json.dump(self.numbers(), file)

    def numbers(self) -> dict[str, Any]:
        """Return all fields but the arrays."""
        return {name: getattr(self, name) for name in _NUMBER_NAMES}


_NUMBER_NAMES = ("epochs_done", "best_epoch", "train_losses", "holdout_losses", "improvements")
_TENSORS, _NUMBERS = "progress.safetensors", "progress.json"


def _load_progress(folder: str) -> Progress:
    with open(os.path.join(folder, _NUMBERS), encoding="utf-8") as file:
        numbers = json.load(file)
    tensors = load_file(os.path.join(folder, _TENSORS))
    start_losses = tensors.pop("start_losses").numpy()
    weights = {name.removeprefix("best."): tensor for name, tensor in tensors.items()}
    return Progress(**numbers, start_losses=start_losses, best_weights=weights)


def write_untrained(task: TrainingTask) -> None:
    """Write the untrained base with the standardization of its handcrafted features."""
    torch.set_num_threads(task.placement.train_threads)
    stream = TrainingGroupStream(
        task.locations,
        len(task.shape.handcrafted_names),
        task.config,
        fold=task.fold,
        has_soft_targets=task.has_soft_targets,
    )
    training_model = _new_training_model(task, stream.survey)
    _write(task, training_model, Progress(), stream.survey)


def train(tasks: Sequence[TrainingTask]) -> None:
    """Train one base after the other in each Ray Train worker, without those that an earlier attempt finished."""
    num_ranks = ray.train.get_context().get_world_size()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    prepare_process(tasks[0].placement, num_ranks)
    cache = HiddenStateCache()
    for task in tasks:
        # Rank 0 writes the base while the others continue: they must not each check for themselves.
        if not _gathered(task.is_done())[0]:
            _train_base(task, ray.train.get_context().get_world_rank(), num_ranks, cache)


def _train_base(task: TrainingTask, rank: int, num_ranks: int, cache: HiddenStateCache) -> None:
    stream = TrainingGroupStream(
        task.locations,
        len(task.shape.handcrafted_names),
        task.config,
        rank,
        num_ranks,
        task.fold,
        has_soft_targets=task.has_soft_targets,
    )
    survey = _add_surveys(stream.survey)
    training_model = _new_training_model(task, survey, cache)
    if not survey.num_training_groups:
        if rank == 0:
            _write(task, training_model, Progress(), survey)
        return
    checkpoint = _own_checkpoint(task)
    if checkpoint is None:
        _start_shared_head(training_model, stream, task)
    num_steps = -(-survey.num_training_groups // task.config.batch_groups)
    engine = _open_engine(training_model, task, num_ranks, num_steps)
    if checkpoint is None:
        progress = Progress(start_losses=_holdout_losses(training_model, stream))
        progress.holdout_losses = [_mean(progress.start_losses)] if len(progress.start_losses) else []
    else:
        progress = _resume(engine, checkpoint)
    for epoch in range(progress.epochs_done, task.config.num_epochs):
        start = time.monotonic()
        progress.train_losses.append(_train_epoch(engine, training_model, stream, epoch, task, num_ranks))
        progress.epochs_done = epoch + 1
        _update_best(progress, training_model, _holdout_losses(training_model, stream))
        _LOG.info("epoch %d: %s, %.1f s", epoch + 1, progress.numbers(), time.monotonic() - start)
        _checkpoint(engine, progress, rank, task)
    if rank == 0:
        training_model.load_state_dict(progress.best_weights, strict=False)
        if progress.best_epoch == 0:
            training_model = _new_training_model(task, survey)
        _write(task, training_model, progress, survey)


def _new_training_model(task: TrainingTask, survey: Survey, cache: HiddenStateCache | None = None) -> TrainingModel:
    torch.manual_seed(task.config.seed)
    base = new_base(resolve_model(task.config.encoder), task.shape, task.config.seed)
    base.freeze_below(task.config.trainable_layers, cache)
    if survey.num_plain:
        means = survey.plain_sums / survey.num_plain
        variances = np.maximum(survey.plain_squares / survey.num_plain - means**2, 0)
        base.plain_means.copy_(torch.from_numpy(means))
        base.plain_scales.copy_(torch.from_numpy(np.sqrt(np.where(variances > 1e-10, variances, 1.0))))
    return TrainingModel(base, max(survey.num_users, 1), task.config.loss)


def _start_shared_head(training_model: TrainingModel, stream: TrainingGroupStream, task: TrainingTask) -> None:
    """Fit the shared head to the untrained base, the same on all ranks."""
    if task.placement.train_gpus_per_worker:
        training_model.to(ray.train.torch.get_device())
    tables = _gathered(frozen_table(training_model, stream.first(MAX_START_GROUPS)))
    weights = ridge_head(join_tables(tables), task.shape.width, task.config.seed)
    with torch.no_grad():
        training_model.weights.copy_(torch.from_numpy(weights))


def _open_engine(training_model: TrainingModel, task: TrainingTask, num_ranks: int, num_steps: int) -> TrainingEngine:
    optimizer = torch.optim.AdamW(training_model.parameter_groups(task.config))
    total = task.config.num_epochs * num_steps
    return open_engine(
        training_model, optimizer, lambda step: _rate_factor(step, total), task.placement, _local_batch(task, num_ranks)
    )


def _rate_factor(step: int, num_steps: int) -> float:
    """Return the factor of the learning rate at a step: linear warm-up over the first tenth, then linear decay to 0.

    At a constant rate the base soon overfits the examples of few users.
    """
    return min(1.0, 10 * (step + 1) / num_steps) * max(0.0, 1 - step / num_steps)


def _local_batch(task: TrainingTask, num_ranks: int) -> int:
    return -(-task.config.batch_groups // num_ranks)


def _train_epoch(
    engine: TrainingEngine,
    training_model: TrainingModel,
    stream: TrainingGroupStream,
    epoch: int,
    task: TrainingTask,
    num_ranks: int,
) -> float:
    """Take the epoch's steps; return the mean loss of a group over all ranks."""
    torch.manual_seed(seed_of(task.config.seed, "dropout", str(epoch), str(dist.get_rank())))
    total, count = 0.0, 0
    training_model.train()
    for batch in stream.epoch(epoch):
        losses = engine.losses(batch)
        # Engines average over the ranks what is a sum over the batch.
        engine.step(losses.sum() / (task.config.batch_groups / num_ranks))
        total += float(losses.detach().sum())
        count += len(batch)
    sums = np.sum(_gathered((total, count)), axis=0)
    return float(sums[0] / max(sums[1], 1))


def _holdout_losses(training_model: TrainingModel, stream: TrainingGroupStream) -> np.ndarray:
    return np.concatenate(_gathered(user_losses(training_model, stream.training_groups(is_held_out=True))))


def _update_best(progress: Progress, training_model: TrainingModel, losses: np.ndarray) -> None:
    """Keep the last epoch if it has the lowest held-out loss and beats the untrained base by more than one standard
    error.
    """
    epoch = progress.epochs_done
    if not len(losses):
        is_best = True  # without validation users the last epoch is kept
    else:
        gains = progress.start_losses - losses
        error = gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else np.inf
        progress.improvements.append(float(gains.mean() / error) if error > 0 else 0.0)
        is_best = gains.mean() > error and _mean(losses) < progress.holdout_losses[progress.best_epoch]
        progress.holdout_losses.append(_mean(losses))
    if is_best:
        progress.best_epoch = epoch
        progress.best_weights = {
            name: parameter.detach().cpu().clone()
            for name, parameter in training_model.named_parameters()
            if parameter.requires_grad and name.startswith("base.")
        }


def _checkpoint(engine: TrainingEngine, progress: Progress, rank: int, task: TrainingTask) -> None:
    with temporary_folder("checkpoint") as folder:
        engine.save(folder)
        if rank == 0:
            progress.save(folder)
        metrics = {"epoch": progress.epochs_done, "train_loss": progress.train_losses[-1]}
        checkpoint = ray.train.Checkpoint.from_directory(folder)
        if rank == 0:
            checkpoint.set_metadata({_BASE: base_name_of(task.fold)})
        ray.train.report(metrics, checkpoint)


_BASE = "base"


def _own_checkpoint(task: TrainingTask) -> ray.train.Checkpoint | None:
    """Return Ray Train's last checkpoint if it is of this base and not of one that was trained before it."""
    checkpoint = ray.train.get_checkpoint()
    is_own = checkpoint is not None and checkpoint.get_metadata().get(_BASE) == base_name_of(task.fold)
    return checkpoint if is_own else None


def _resume(engine: TrainingEngine, checkpoint: ray.train.Checkpoint) -> Progress:
    """Restore engine and progress from the checkpoint."""
    with checkpoint.as_directory() as folder:
        engine.load(folder)
        return _load_progress(folder)


def _write(task: TrainingTask, training_model: TrainingModel, progress: Progress, survey: Survey) -> None:
    description = {
        "encoder": task.config.encoder,
        "seed": task.config.seed,
        "fold": task.fold,
        "holdout_fraction": task.config.holdout_fraction,
        "training": {
            **progress.numbers(),
            "num_lessons": survey.num_training_groups,
            "num_held_out": survey.num_held_out,
        },
    }
    write_base(training_model.base, task.destination, description)


def _add_surveys(survey: Survey) -> Survey:
    """Return the sums of all ranks' surveys."""
    surveys = _gathered(survey)
    return Survey(
        num_users=survey.num_users,
        num_training_groups=sum(each.num_training_groups for each in surveys),
        num_held_out=sum(each.num_held_out for each in surveys),
        num_plain=sum(each.num_plain for each in surveys),
        plain_sums=np.sum([each.plain_sums for each in surveys], axis=0),
        plain_squares=np.sum([each.plain_squares for each in surveys], axis=0),
    )


def _gathered(value: Any) -> list[Any]:
    """Return the values of all ranks, in their order."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _mean(values: np.ndarray) -> float:
    return float(values.mean())
