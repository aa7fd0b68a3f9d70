"""One trial of a sweep: runs the pipeline up to the stage that evaluates it, and measures quality and cost."""

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
    """Quality and cost of a trial. Key: run."""

    run: str
    quality: float
    """Quality from 0 to 1, higher is better."""
    quality_low: float | None
    quality_high: float | None
    """Bounds of the interval over users; None where there is only one user."""
    generated_tokens: int
    """Tokens that the generator writes if no request was answered before."""
    prompt_tokens: int
    requests: int
    seconds: float
    """Wall time of computing all of the trial's stages, including those shared with other trials."""
    num_computed: int
    """Number of stages that this trial computed in its last attempt; all others existed."""


def run_trial(sweep: Sweep, settings: Mapping[str, Any], ledger: Ledger) -> Worth:
    """Run the pipeline with `settings`, reusing complete stages; each newly computed stage is recorded in the ledger.

    Raises:
        HydraError: its message says what went wrong and what to do.
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
    """Check that the trial computes what it is evaluated by.

    Raises:
        ConfigError: the gate, which measures the quality of answers to held-out history, is switched off.
    """
    is_gated = trial.config.has_scorers and trial.config.answers.is_gated
    if sweep.config.judged_on == "history" and not is_gated:
        raise ConfigError(
            "judged_on: history needs answers.is_gated: true, and a generator, because the gate's stage measures the "
            "quality of answers to held-out history. Set it, or judged_on: queries."
        )


def quality_of(plan: Plan, sweep: Sweep) -> Interval:
    """Return the trial's quality with its interval over users.

    Raises:
        InputError: no user can be evaluated.
    """
    if sweep.config.judged_on == "queries":
        quality = read_report(plan.run_folder)["systems"][HYDRA]["quality"]
        return Interval(value=quality["value"], low=quality["low"], high=quality["high"])
    outcomes_US = [outcome.pseudo for outcome in read_outcomes(plan.gate) if outcome.is_new and outcome.num_pseudo]
    if not outcomes_US:
        raise InputError(
            "no new user has held-out history to evaluate on: set drafts.num_pseudo_queries and "
            "probes.num_pseudo_queries above 0 and give users with more records, or set judged_on: queries."
        )
    return best_system_quality(outcomes_US, plan.config.report)


def best_system_quality(outcomes_US: Sequence[Sequence[float]], bootstrap: ReportConfig) -> Interval:
    """Return the mean quality over users of the system that is best on average, which the gate would choose for an
    unknown user.

    Args:
        outcomes_US: quality of each user by each system that the gate chooses among.
    """
    values_US = np.array(outcomes_US, np.float64)
    assert values_US.shape[1] == len(GATED)
    best = int(values_US.mean(axis=0).argmax())
    observed, resampled = resampled_means(
        np.ones(len(values_US)), values_US[:, [best]], bootstrap.num_resamples, bootstrap.seed
    )
    return interval(float(observed[0]), resampled[:, 0], bootstrap.confidence, len(values_US))


def worth_of(reported: Mapping[str, Any]) -> Worth:
    """Return a trial's worth from the metrics that Ray Tune returns."""
    return Worth(**{name: reported[name] for name in Worth.__dataclass_fields__})


def as_reported(worth: Worth) -> dict[str, Any]:
    """Return a trial's worth as metrics for Ray Tune."""
    return asdict(worth)
