"""Training of one base, as the driver describes it to the workers; importable without torch."""

from dataclasses import dataclass
from typing import Any

from hydra_ray import storage
from hydra_ray.config import BaseConfig, PlacementConfig
from hydra_ray.scorer.base.spec import DESCRIPTION, BaseShape


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTask:
    """Inputs, settings and destination of one training."""

    locations: tuple[str, ...]
    """Locations of the parts of the examples table."""
    destination: str
    """Folder of the finished base."""
    config: BaseConfig
    shape: BaseShape
    placement: PlacementConfig
    fold: int | None
    """Fold of a cross-fitted run, whose new users are left out; None to train on all training users."""
    has_soft_targets: bool
    """Whether targets are soft, so that all candidates of a group have a share (see `target_distribution`)."""

    @property
    def description(self) -> str:
        """Return the location of the base's description, which is written last."""
        return storage.join(self.destination, DESCRIPTION)

    def is_done(self) -> bool:
        """Return whether the base has been stored."""
        return storage.exists(self.description)

    def training(self) -> dict[str, Any]:
        """Return the course of the training from the stored base's description."""
        return storage.read_json(self.description, {"training": dict})["training"]
