"""The workers that train a base together, as one of them sees the others.

Several workers are the ranks of torch's process group. A worker without one trains alone, as rank 0 of 1.
"""

from typing import Any

import torch
import torch.distributed as dist

from hydra_ray.config import PlacementConfig


def num_ranks() -> int:
    """Return the number of workers."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_rank() -> int:
    """Return the number of this worker."""
    return dist.get_rank() if dist.is_initialized() else 0


def gathered(value: Any) -> list[Any]:
    """Return the values of all ranks, in their order."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def averaged(gradient: torch.Tensor) -> torch.Tensor:
    """Return the mean of the gradients of all ranks; the given one may be changed."""
    if not dist.is_initialized():
        return gradient
    dist.all_reduce(gradient)
    return gradient / dist.get_world_size()


def own_device(placement: PlacementConfig) -> torch.device:
    """Return the device on which this worker trains."""
    if not placement.train_gpus_per_worker:
        return torch.device("cpu")
    if not dist.is_initialized():
        return torch.device("cuda")
    import ray.train.torch

    # Ray Train may show its workers all GPUs of a node, a task sees only those that it reserves.
    return ray.train.torch.get_device()
