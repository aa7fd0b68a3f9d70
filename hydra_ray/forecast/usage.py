"""Comparison of what a finished run took with its forecast."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra_ray import storage
from hydra_ray.config import RunConfig
from hydra_ray.errors import InputError
from hydra_ray.evaluate.metrics_file import REPORT_ANEW
from hydra_ray.forecast.forecast import MAX_USERS, Forecast, Measure, StageForecast, make_forecast
from hydra_ray.runs.run_folder import run_folder_of


@dataclass(frozen=True, slots=True, kw_only=True)
class StageUse:
    """Forecast and actual use of one stage. Key: name."""

    name: str
    expected_tokens: float
    used_tokens: float
    """Prompt and generated tokens, including those of answers known before."""
    expected_seconds: float | None
    """Forecast for as many requests as the stage sent itself; None where the generator's speed is not known."""
    used_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Forecast made without looking at the run, and what the run took."""

    forecast: Forecast
    stages: tuple[StageUse, ...]


def is_finished(config: RunConfig) -> bool:
    """Return whether a run has recorded what it took."""
    return storage.exists(_metrics_location(config))


def compare_with_use(config: RunConfig, measure: Measure | None, max_users: int = MAX_USERS) -> Comparison:
    """Return what the finished run `config` was expected to take before it started, and what it took.

    Args:
        measure: as for `make_forecast`.
        max_users: number of users to sample.

    Raises:
        InputError: the run is not finished.
        HydraError: as `make_forecast`.
    """
    if not is_finished(config):
        raise InputError(f"the run {config.run} is not finished: there is no {_metrics_location(config)}")
    forecast = make_forecast(config, measure, max_users, is_blind=True)
    stages = {
        stage["name"]: stage
        for stage in storage.read_json(_metrics_location(config), {"stages": list}, REPORT_ANEW)["stages"]
    }
    uses = tuple(_use(stage, stages[stage.name]) for stage in forecast.stages if stage.name in stages)
    return Comparison(forecast=forecast, stages=uses)


def _use(expected: StageForecast, used: Mapping[str, Any]) -> StageUse:
    counters, volume = used["counters"], expected.volume
    share = counters.get("asked_now", 0) / max(volume.new.requests.value, 1) if volume else 0.0
    asking = None if expected.asking_seconds is None else expected.asking_seconds * share
    return StageUse(
        name=expected.name,
        expected_tokens=volume.all.tokens.value if volume else 0.0,
        used_tokens=counters.get("prompt_tokens", 0) + counters.get("generated_tokens", 0) if volume else 0.0,
        expected_seconds=None if asking is None else asking + expected.other_seconds,
        used_seconds=used["seconds"],
    )


def _metrics_location(config: RunConfig) -> str:
    return storage.join(run_folder_of(config.storage.root, config.run), "metrics.json")
