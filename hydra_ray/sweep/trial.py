"""One trial: a run of the pipeline up to where it can be judged, and what it is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hydra_ray.adapt.gate import GATED
from hydra_ray.config import ReportConfig
from hydra_ray.errors import ConfigError, InputError
from hydra_ray.evaluate.intervals import Interval, interval, resampled_means
from hydra_ray.evaluate.metrics_file import read_report
from hydra_ray.evaluate.systems import HYDRA
from hydra_ray.runs.stage import Stage
from hydra_ray.stages.gate import read_outcomes
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.run import personalize
from hydra_ray.sweep.config import Sweep
from hydra_ray.sweep.ledger import Ledger
from hydra_ray.sweep.stage_reuse import Trial, last_stage, make_trial, stages_until


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What a trial is judged by, and what it cost. Key: run."""

    run: str
    quality: float
    """From 0 to 1, higher is better."""
    quality_low: float | None
    quality_high: float | None
    """Bounds of the interval over users; None where there is one user only."""
    generated_tokens: int
    """What the generator writes where nothing has been asked before."""
    prompt_tokens: int
    requests: int
    seconds: float
    """Wall time of computing all of the trial's stages, those included that were shared with others."""
    num_computed: int
    """Stages that this trial computed in its last attempt; all others were there."""


def run_trial(sweep: Sweep, settings: Mapping[str, Any], ledger: Ledger) -> Worth:
    """Run the pipeline with `settings`; what is complete under the root is kept, and each new stage is recorded.

    Raises:
        HydraError: what went wrong, and what to do about it.
    """
    trial = make_trial(sweep, settings)
    computed: list[Stage] = []

    def tell(stage: Stage) -> None:
        computed.append(stage)
        ledger.record(stage, trial.run)

    require_judged(sweep, trial)
    until = last_stage(sweep)
    plan = personalize(trial.config, until=until, on_computed=tell)
    found = quality_of(plan, sweep)
    manifests = [stage.manifest() for stage in stages_until(plan, until)]

    def total(name: str) -> int:
        return round(sum(each["counters"].get(name, 0) for each in manifests))

    return Worth(
        run=trial.run,
        quality=found.value,
        quality_low=found.low,
        quality_high=found.high,
        generated_tokens=total("generated_tokens"),
        prompt_tokens=total("prompt_tokens"),
        requests=total("requests"),
        seconds=round(sum(each["seconds"] for each in manifests), 3),
        num_computed=len(computed),
    )


def require_judged(sweep: Sweep, trial: Trial) -> None:
    """Check that there will be something to judge the trial by.

    Raises:
        ConfigError: the gate, which tells how good answers to held-out history are, is not made.
    """
    if sweep.config.judged_on == "history" and not trial.config.answers.is_gated:
        raise ConfigError(
            "judged_on: history needs answers.is_gated: true, because the gate's stage tells how good the answers to "
            "held-out history are. Set it, or judged_on: queries."
        )


def quality_of(plan: Plan, sweep: Sweep) -> Interval:
    """What the trial is judged by, with its interval over users.

    Raises:
        InputError: nobody can be judged.
    """
    if sweep.config.judged_on == "queries":
        quality = read_report(plan.run_folder)["systems"][HYDRA]["quality"]
        return Interval(value=quality["value"], low=quality["low"], high=quality["high"])
    outcomes_US = [outcome.pseudo for outcome in read_outcomes(plan.gate) if outcome.is_new and outcome.num_pseudo]
    if not outcomes_US:
        raise InputError(
            "no new user has held-out history to be judged on: set drafts.num_pseudo_queries and "
            "probes.num_pseudo_queries above 0 and give users with more records, or set judged_on: queries."
        )
    return best_system_quality(outcomes_US, plan.config.report)


def best_system_quality(outcomes_US: Sequence[Sequence[float]], bootstrap: ReportConfig) -> Interval:
    """Return the mean quality over users of the system that is best on the average: what the gate would choose for a
    user of whom nothing is known.

    Args:
        outcomes_US: each user's quality by each of the systems that the gate chooses among.
    """
    values_US = np.array(outcomes_US, np.float64)
    assert values_US.shape[1] == len(GATED)
    best = int(values_US.mean(axis=0).argmax())
    observed, resampled = resampled_means(
        np.ones(len(values_US)), values_US[:, [best]], bootstrap.num_resamples, bootstrap.seed
    )
    return interval(float(observed[0]), resampled[:, 0], bootstrap.confidence, len(values_US))


def worth_of(reported: Mapping[str, Any]) -> Worth:
    """Return a trial's worth as Ray Tune hands it back."""
    return Worth(**{name: reported[name] for name in Worth.__dataclass_fields__})


def as_reported(worth: Worth) -> dict[str, Any]:
    """Return a trial's worth as Ray Tune takes it."""
    return asdict(worth)
