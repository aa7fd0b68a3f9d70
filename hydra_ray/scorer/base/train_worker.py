"""One worker of base training: the loop around an engine that steps the optimizer.

Each epoch ends with a checkpoint. A restarted worker continues after the last one, with the training groups in the same
order.
"""

import logging
import time
from collections.abc import Sequence

import numpy as np
import torch

from hydra_ray import storage
from hydra_ray.models import resolve_model
from hydra_ray.scorer.base.batches import Survey, TrainingGroupStream
from hydra_ray.scorer.base.checkpoints import Checkpoints
from hydra_ray.scorer.base.layer_cache import HiddenStateCache
from hydra_ray.scorer.base.model import new_base, write_base
from hydra_ray.scorer.base.objective import (
    LowRankTraining,
    NetworkTraining,
    TrainingModel,
    frozen_table,
    join_tables,
    ridge_head,
    user_losses,
)
from hydra_ray.scorer.base.ranks import gathered, num_ranks, own_device, own_rank
from hydra_ray.scorer.base.spec import base_name_of
from hydra_ray.scorer.base.task import TrainingTask
from hydra_ray.scorer.base.train_engines import TrainingEngine, open_engine, prepare_process
from hydra_ray.scorer.base.training_progress import Progress
from hydra_ray.seeds import seed_of

_LOG = logging.getLogger(__name__)
MAX_START_GROUPS = 2000
"""Number of groups that the untrained base's ridge head is fitted on."""


def train(tasks: Sequence[TrainingTask], folder: str) -> None:
    """Train one base after the other, without those that are stored already.

    Args:
        folder: location of the checkpoints.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    prepare_process(tasks[0].placement, num_ranks())
    cache = HiddenStateCache()
    for task in tasks:
        # Rank 0 writes the base while the others continue: they must not each check for themselves.
        if not gathered(task.is_done())[0]:
            _train_base(task, Checkpoints(storage.join(folder, base_name_of(task.fold))), cache)


def _train_base(task: TrainingTask, checkpoints: Checkpoints, cache: HiddenStateCache) -> None:
    stream = TrainingGroupStream(
        task.locations,
        len(task.shape.handcrafted_names),
        task.config,
        own_rank(),
        num_ranks(),
        task.fold,
        has_soft_targets=task.has_soft_targets,
    )
    survey = _add_surveys(stream.survey)
    training_model = _new_training_model(task, survey, cache)
    if not survey.num_training_groups or not task.config.num_epochs:
        if own_rank() == 0:
            _write(task, training_model, Progress(), survey)
        return
    progress = _train_epochs(task, training_model, stream, survey, checkpoints)
    if own_rank() == 0:
        training_model.load_state_dict(progress.best_weights, strict=False)
        if progress.best_epoch == 0:
            training_model = _new_training_model(task, survey)
        _write(task, training_model, progress, survey)


def _train_epochs(
    task: TrainingTask,
    training_model: TrainingModel,
    stream: TrainingGroupStream,
    survey: Survey,
    checkpoints: Checkpoints,
) -> Progress:
    training_model.to(own_device(task.placement))
    with checkpoints.last() as kept:
        if kept is None and isinstance(training_model, LowRankTraining):
            _start_shared_head(training_model, stream, task)
        engine = _open_engine(training_model, task, survey)
        if kept is None:
            progress = Progress.of_untrained(_holdout_losses(training_model, stream))
        else:
            engine.load(kept)
            progress = Progress.load(kept)
    for epoch in range(progress.epochs_done, task.config.num_epochs):
        start = time.monotonic()
        train_loss = _train_epoch(engine, training_model, stream, epoch, task)
        progress.add_epoch(training_model, train_loss, _holdout_losses(training_model, stream))
        _LOG.info("epoch %d: %s, %.1f s", epoch + 1, progress.numbers(), time.monotonic() - start)

        def save(folder: str) -> None:
            engine.save(folder)
            if own_rank() == 0:
                progress.save(folder)

        checkpoints.keep(epoch + 1, save)
    return progress


def _new_training_model(task: TrainingTask, survey: Survey, cache: HiddenStateCache | None = None) -> TrainingModel:
    torch.manual_seed(task.config.seed)
    base = new_base(resolve_model(task.config.encoder), task.shape, task.config.seed)
    base.train_layers(task.config.trainable_layers, cache)
    if survey.num_plain:
        means = survey.plain_sums / survey.num_plain
        variances = np.maximum(survey.plain_squares / survey.num_plain - means**2, 0)
        base.plain_means.copy_(torch.from_numpy(means))
        base.plain_scales.copy_(torch.from_numpy(np.sqrt(np.where(variances > 1e-10, variances, 1.0))))
    model_class = NetworkTraining if task.config.training_heads == "networks" else LowRankTraining
    return model_class(base, max(survey.num_users, 1), task.config.loss)


def _start_shared_head(training_model: LowRankTraining, stream: TrainingGroupStream, task: TrainingTask) -> None:
    """Fit the shared head to the untrained base, the same on all ranks."""
    tables = gathered(frozen_table(training_model, stream.first(MAX_START_GROUPS)))
    weights = ridge_head(join_tables(tables), task.shape.width, task.config.seed)
    with torch.no_grad():
        training_model.weights.copy_(torch.from_numpy(weights))


def _open_engine(training_model: TrainingModel, task: TrainingTask, survey: Survey) -> TrainingEngine:
    config = task.config
    num_groups = min(survey.num_training_groups, config.max_epoch_groups or survey.num_training_groups)
    num_steps = config.num_epochs * -(-num_groups // config.batch_groups)
    optimizer = torch.optim.AdamW(training_model.parameter_groups(config))
    local_batch = -(-config.batch_groups // num_ranks())
    warmup = config.warmup_fraction
    return open_engine(
        training_model, optimizer, lambda step: _rate_factor(step, num_steps, warmup), task.placement, local_batch
    )


def _rate_factor(step: int, num_steps: int, warmup: float) -> float:
    """Return the factor of the learning rate at a step: linear warm-up over a share of the steps, and over all of them
    linear decay to 0.

    At a constant rate the base soon overfits the examples of few users.
    """
    rise = min(1.0, 1 / warmup * (step + 1) / num_steps) if warmup else 1.0
    return rise * max(0.0, 1 - step / num_steps)


def _train_epoch(
    engine: TrainingEngine, training_model: TrainingModel, stream: TrainingGroupStream, epoch: int, task: TrainingTask
) -> float:
    """Take the epoch's steps; return the mean loss of a group over all ranks."""
    torch.manual_seed(seed_of(task.config.seed, "dropout", str(epoch), str(own_rank())))
    total, count = 0.0, 0
    training_model.train()
    for batch in stream.epoch(epoch):
        losses = engine.losses(batch)
        # Engines average over the ranks what is a sum over the batch.
        engine.step(losses.sum() / (task.config.batch_groups / num_ranks()))
        total += float(losses.detach().sum())
        count += len(batch)
    sums = np.sum(gathered((total, count)), axis=0)
    return float(sums[0] / max(sums[1], 1))


def _holdout_losses(training_model: TrainingModel, stream: TrainingGroupStream) -> np.ndarray:
    return np.concatenate(gathered(user_losses(training_model, stream.training_groups(is_held_out=True))))


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
    surveys = gathered(survey)
    return Survey(
        num_users=survey.num_users,
        num_training_groups=sum(each.num_training_groups for each in surveys),
        num_held_out=sum(each.num_held_out for each in surveys),
        num_plain=sum(each.num_plain for each in surveys),
        plain_sums=np.sum([each.plain_sums for each in surveys], axis=0),
        plain_squares=np.sum([each.plain_squares for each in surveys], axis=0),
    )
