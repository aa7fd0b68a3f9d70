"""Configuration of a sweep: one YAML file that names a run's configuration and the settings to vary."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from hydra_ray.config import (
    Name,
    RunConfig,
    Section,
    apply_override,
    apply_setting,
    check_config,
    check_settings,
    read_settings,
)
from hydra_ray.errors import ConfigError
from hydra_ray.shipped import find_configuration

Key = Annotated[str, StringConstraints(pattern=r"^[a-z_0-9]+(\.[a-z_0-9]+)+$")]
"""Dotted name of a setting of a run."""
_MAX_TRIALS = 20_000
UNVARIED_SECTIONS = ("storage", "placement", "report")
"""Sections that a sweep cannot vary: no answer depends on them."""


class Range(Section):
    """Interval from `low` to `high`, both included; of integers if both are integers."""

    low: int | float
    """Smallest value, included; below `high`, and above 0 where `log` is set."""
    high: int | float
    """Largest value, included."""
    log: bool = False
    """Whether to sample on a log scale, as for learning rates and variances."""

    @property
    def is_whole(self) -> bool:
        """Whether the range consists of integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 where log is set, got {self.low}")
        return self


class SweepConfig(Section):
    """Settings of a sweep over one run's settings."""

    sweep: Name
    """Name of the sweep: the folder of its results below storage.root/sweeps, and the prefix of its trials' runs."""
    base: str
    """Path of the run's configuration, relative to this file's folder."""
    overrides: dict[Key, Any] = Field(default={})
    """Settings of all trials that replace the base's, by dotted name."""
    space: dict[
        Key,
        Annotated[
            Annotated[tuple[Any, ...], Field(min_length=1), Tag("<values>")] | Annotated[Range, Tag("<range>")],
            Discriminator(lambda given: "<range>" if isinstance(given, Mapping | Range) else "<values>"),
        ],
    ] = Field(min_length=1)
    """Varied settings, by dotted name: a list of values, or a range."""
    search: Literal["grid", "random", "optuna"] = "grid"
    """grid: every combination of the lists. random: distinct combinations, drawn uniformly. optuna: tree-structured
    Parzen estimator with two objectives, more quality and fewer generated tokens; it suggests trials in batches of
    `max_concurrent`, so that a sweep restarted after a kill repeats the same suggestions."""
    num_trials: int | None = Field(default=None, gt=0)
    """Number of trials of random and optuna; a grid has one per combination. A sweep has at most
    20000."""
    max_concurrent: int | None = Field(default=None, gt=0)
    """Number of concurrent trials. Null: as many as the cluster has CPUs and GPUs for when the sweep starts. A larger
    number can make trials wait for each other forever, unless the cluster grows."""
    judged_on: Literal["history", "queries"] = "history"
    """history: held-out records of the new users' own histories, so that no target of an evaluated query selects a
    setting, and trials end before anything is evaluated. queries: the evaluated queries, as in reports; settings
    selected on them cannot be evaluated on them again."""
    seed: int = 0
    """Seed of the searches random and optuna."""
    mlflow_uri: str | None = None
    """URI of an MLflow server that also records the trials; needs the package mlflow."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.search == "grid") != (self.num_trials is None):
            raise ValueError("num_trials is needed for the searches random and optuna, and only there")
        ranges = sorted(key for key, values in self.space.items() if isinstance(values, Range))
        if self.search == "grid" and ranges:
            raise ValueError(f"a grid needs lists: give the values of {', '.join(ranges)}, or search: random or optuna")
        useless = sorted(key for key in self.space if key.split(".")[0] in UNVARIED_SECTIONS)
        if useless:
            raise ValueError(f"{', '.join(useless)} cannot be varied: it changes no quality")
        lengths = (len(values) for values in self.space.values() if not isinstance(values, Range))
        if max(math.prod(lengths) if self.search == "grid" else 0, self.num_trials or 0) > _MAX_TRIALS:
            raise ValueError(f"a sweep has at most {_MAX_TRIALS} trials: give fewer values, or search: random")
        both = sorted({*self.space} & {*self.overrides})
        if both:
            raise ValueError(f"{', '.join(both)} cannot be in space and in overrides")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep with the settings that its trials start from."""

    config: SweepConfig
    base: Mapping[str, Any]
    """Settings of the base with all overrides, not validated yet: trials' settings are."""

    def run_config(self, settings: Mapping[str, Any]) -> RunConfig:
        """Return the base's configuration with `settings`, by dotted name.

        Raises:
            ConfigError: the combination is invalid.
        """
        merged = dict(self.base)
        for key, value in settings.items():
            merged = apply_setting(merged, key, value)
        return check_config(merged, source=f"the sweep {self.config.sweep} with {describe(settings)}")

    def is_possible(self, settings: Mapping[str, Any]) -> bool:
        """Return whether the base with `settings` is a valid configuration."""
        try:
            self.run_config(settings)
        except ConfigError:
            return False
        return True


def describe(settings: Mapping[str, Any]) -> str:
    """Return settings as short text."""
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def load_sweep(path: str | Path, overrides: Iterable[str] = ()) -> Sweep:
    """Return the sweep in the YAML file at `path`.

    Args:
        path: a file, or the name of a shipped sweep.
        overrides: settings of all trials, each `section.key=value`, the value in YAML; they take precedence over the
            file's.

    Raises:
        ConfigError: a file cannot be read, or a setting is wrong.
    """
    file = find_configuration(path)
    config = check_settings(SweepConfig, read_settings(file), source=str(path))
    base = {**read_settings(file.parent / config.base), "run": config.sweep}
    for key, value in config.overrides.items():
        base = apply_setting(base, key, value)
    for override in overrides:
        base = apply_override(base, override)
    return Sweep(config=config, base=base)


def require_root(sweep: Sweep) -> str:
    """Return the storage root that the base names.

    Raises:
        ConfigError: it names none.
    """
    section = sweep.base.get("storage")
    root = section.get("root") if isinstance(section, Mapping) else None
    if not isinstance(root, str):
        raise ConfigError("the sweep's base has no storage.root; add storage.root=FOLDER")
    return root
