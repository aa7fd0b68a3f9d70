"""Training of one base as the workers are told of it; importable without torch."""

from dataclasses import dataclass
from typing import Any

from hydra_ray import storage
from hydra_ray.config import BaseConfig, PlacementConfig
from hydra_ray.scorer.base.spec import DESCRIPTION, BaseShape


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTask:
    """What a training worker is told."""

    locations: tuple[str, ...]
    """Parts of the examples table."""
    destination: str
    """Folder of the finished base."""
    config: BaseConfig
    shape: BaseShape
    placement: PlacementConfig
    fold: int | None
    """Of a cross-fitted run, whose new users teach nothing; None where all training users teach."""
    has_soft_targets: bool
    """Whether candidates that are not the best of their group have a part in what is learned."""

    @property
    def description(self) -> str:
        """Location of the base's description, which is written last."""
        return storage.join(self.destination, DESCRIPTION)

    def is_done(self) -> bool:
        """Whether the base has been stored."""
        return storage.exists(self.description)

    def training(self) -> dict[str, Any]:
        """How the training went, as the stored base describes it."""
        return storage.read_json(self.description)["training"]
