"""Engines that step the optimizer of a training worker: DeepSpeed, or torch alone.

Both compute the same up to rounding: gradients are averaged over the ranks, their norm is clipped to `MAX_NORM`, and
the optimizer and its learning-rate schedule take a step. Torch keeps all state on every rank, which is ZeRO stage 0.
DeepSpeed shards the optimizer's state over the ranks, and with stage 2 the gradients too. A single rank has nothing to
shard, so it trains with torch.
"""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR

from hydra_ray.config import PlacementConfig
from hydra_ray.scorer.base.batches import TrainingGroup
from hydra_ray.scorer.base.objective import TrainingModel
from hydra_ray.scorer.base.ranks import averaged, own_rank

MAX_NORM = 1.0
"""Largest norm of all gradients together."""
_CHECKPOINT = "engine"


class TrainingEngine(Protocol):
    """Trains a model; all ranks call the same methods at the same time."""

    def losses(self, training_groups: Sequence[TrainingGroup]) -> torch.Tensor:
        """Return the model's loss of each group."""
        ...

    def step(self, loss: torch.Tensor) -> None:
        """Take one step down the gradient of `loss`, averaged over the ranks."""
        ...

    def save(self, folder: str) -> None:
        """Write this rank's share of the state that a restart needs."""
        ...

    def load(self, folder: str) -> None:
        """Restore the state that all ranks saved to `folder`."""
        ...


def prepare_process(placement: PlacementConfig, num_ranks: int) -> None:
    """Set up a worker's process; must run before an engine is made."""
    if not placement.train_gpus_per_worker:
        torch.set_num_threads(max(1, placement.train_threads // num_ranks))
    if placement.zero_stage:
        _prepare_deepspeed(placement)


def open_engine(
    training_model: TrainingModel,
    optimizer: torch.optim.Optimizer,
    rate_factor: Callable[[int], float],
    placement: PlacementConfig,
    local_batch: int,
) -> TrainingEngine:
    """Return the engine of the placement's ZeRO stage.

    Args:
        rate_factor: factor of the learning rate at a step.
        local_batch: number of groups of this rank in a step.
    """
    schedule = LambdaLR(optimizer, rate_factor)
    if placement.zero_stage:
        return DeepSpeedEngine(training_model, optimizer, schedule, placement.zero_stage, local_batch)
    return TorchEngine(training_model, optimizer, schedule)


class TorchEngine:
    """Torch with gradients averaged over the ranks: ZeRO stage 0."""

    def __init__(self, training_model: TrainingModel, optimizer: torch.optim.Optimizer, schedule: LambdaLR) -> None:
        self._training_model, self._optimizer, self._schedule = training_model, optimizer, schedule
        self._trained = [parameter for parameter in training_model.parameters() if parameter.requires_grad]

    def losses(self, training_groups: Sequence[TrainingGroup]) -> torch.Tensor:
        """See `TrainingEngine`."""
        return self._training_model(training_groups)

    def step(self, loss: torch.Tensor) -> None:
        """See `TrainingEngine`."""
        loss.backward()
        for parameter in self._trained:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = averaged(gradient)
        clip_grad_norm_(self._trained, MAX_NORM)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()

    def save(self, folder: str) -> None:
        """See `TrainingEngine`; all ranks hold the same state, so rank 0 writes it."""
        if own_rank() == 0:
            named = self._training_model.named_parameters()
            state = {
                "learner": {name: parameter.detach() for name, parameter in named if parameter.requires_grad},
                "optimizer": self._optimizer.state_dict(),
                "schedule": self._schedule.state_dict(),
            }
            torch.save(state, os.path.join(folder, f"{_CHECKPOINT}.pt"))

    def load(self, folder: str) -> None:
        """See `TrainingEngine`."""
        state = torch.load(os.path.join(folder, f"{_CHECKPOINT}.pt"), map_location="cpu", weights_only=True)
        self._training_model.load_state_dict(state["learner"], strict=False)
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])


class DeepSpeedEngine:
    """DeepSpeed with ZeRO stage 1 or 2."""

    def __init__(
        self,
        training_model: TrainingModel,
        optimizer: torch.optim.Optimizer,
        schedule: LambdaLR,
        zero_stage: int,
        local_batch: int,
    ) -> None:
        import deepspeed

        self._engine: Any = deepspeed.initialize(
            model=training_model,
            optimizer=optimizer,
            lr_scheduler=schedule,  # pyright: ignore[reportArgumentType]
            config={
                "train_micro_batch_size_per_gpu": local_batch,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": MAX_NORM,
                "zero_optimization": {"stage": zero_stage, "overlap_comm": False},
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                "steps_per_print": 1 << 30,
            },
        )[0]

    def losses(self, training_groups: Sequence[TrainingGroup]) -> torch.Tensor:
        """See `TrainingEngine`."""
        return self._engine(training_groups)

    def step(self, loss: torch.Tensor) -> None:
        """See `TrainingEngine`."""
        self._engine.backward(loss)
        self._engine.step()

    def save(self, folder: str) -> None:
        """See `TrainingEngine`."""
        os.makedirs(os.path.join(folder, _CHECKPOINT))
        self._engine.save_checkpoint(folder, tag=_CHECKPOINT, exclude_frozen_parameters=True)

    def load(self, folder: str) -> None:
        """See `TrainingEngine`."""
        self._engine.load_checkpoint(folder, tag=_CHECKPOINT, load_module_strict=False)


def _prepare_deepspeed(placement: PlacementConfig) -> None:
    """Set the variables that must be set before DeepSpeed is imported, and those that must be set before it starts."""
    if not placement.train_gpus_per_worker:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed.ops
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    # On CPU, DeepSpeed compiles an all-reduce through shared memory at first use, which takes 43 s and a C++ compiler.
    # This table lists the operations that can be built; without that one it uses Ray Train's process group.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
