"""Course of a base's training, and which of its epochs is kept."""

import json
import os
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from hydra_ray.scorer.base.objective import TrainingModel

_NUMBER_NAMES = ("epochs_done", "best_epoch", "train_losses", "holdout_losses", "improvements")
_TENSORS, _NUMBERS = "progress.safetensors", "progress.json"


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

    @classmethod
    def of_untrained(cls, holdout_losses: np.ndarray) -> Self:
        """Return the progress before the first epoch.

        Args:
            holdout_losses: loss of each held-out user.
        """
        means = [_mean(holdout_losses)] if len(holdout_losses) else []
        return cls(start_losses=holdout_losses, holdout_losses=means)

    def add_epoch(self, training_model: TrainingModel, train_loss: float, holdout_losses: np.ndarray) -> None:
        """Add an epoch; keep its weights if it has the lowest held-out loss and beats the untrained base by more than
        one standard error.

        Args:
            train_loss: mean loss of a group.
            holdout_losses: loss of each held-out user.
        """
        self.train_losses.append(train_loss)
        self.epochs_done += 1
        if not len(holdout_losses):
            is_best = True  # without validation users the last epoch is kept
        else:
            gains = self.start_losses - holdout_losses
            error = gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else np.inf
            self.improvements.append(float(gains.mean() / error) if error > 0 else 0.0)
            is_best = gains.mean() > error and _mean(holdout_losses) < self.holdout_losses[self.best_epoch]
            self.holdout_losses.append(_mean(holdout_losses))
        if is_best:
            self.best_epoch = self.epochs_done
            self.best_weights = {
                name: parameter.detach().cpu().clone()
                for name, parameter in training_model.named_parameters()
                if parameter.requires_grad and name.startswith("base.")
            }

    def numbers(self) -> dict[str, Any]:
        """Return all fields but the arrays."""
        return {name: getattr(self, name) for name in _NUMBER_NAMES}

    def save(self, folder: str) -> None:
        """Write the progress to `folder`."""
        tensors = {f"best.{name}": tensor for name, tensor in self.best_weights.items()}
        save_file(tensors | {"start_losses": torch.from_numpy(self.start_losses)}, os.path.join(folder, _TENSORS))
        with open(os.path.join(folder, _NUMBERS), "w", encoding="utf-8") as file:
            json.dump(self.numbers(), file)

    @classmethod
    def load(cls, folder: str) -> Self:
        """Return the progress that was written to `folder`."""
        with open(os.path.join(folder, _NUMBERS), encoding="utf-8") as file:
            numbers = json.load(file)
        tensors = load_file(os.path.join(folder, _TENSORS))
        start_losses = tensors.pop("start_losses").numpy()
        weights = {name.removeprefix("best."): tensor for name, tensor in tensors.items()}
        return cls(**numbers, start_losses=start_losses, best_weights=weights)


def _mean(values: np.ndarray) -> float:
    return float(values.mean())
