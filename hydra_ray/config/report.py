"""The section `report`."""

from typing import Literal

from pydantic import Field

from hydra_ray.config.section import Section


class ReportConfig(Section):
    """Stage `report`: metrics, baselines and confidence intervals."""

    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Level of the confidence intervals."""
    num_resamples: int = Field(default=2000, gt=0)
    """Number of bootstrap resamples; users are resampled, with all their queries."""
    seed: int = Field(default=0, ge=0)
    """Seed of the bootstrap."""
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    """Experiment trackers that are told of the finished run, each with its own package and settings (see
    docs/trackers.md). Changes no result."""
