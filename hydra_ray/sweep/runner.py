"""Runs a sweep: forecast, trials, results and page."""

import importlib.util
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from hydra_ray import storage
from hydra_ray.errors import ConfigError
from hydra_ray.findings import counted
from hydra_ray.stages.run import require_generator_here
from hydra_ray.sweep.config import Sweep
from hydra_ray.sweep.ledger import Ledger
from hydra_ray.sweep.results import Results, config_yaml, gather, result_lines, results_table
from hydra_ray.sweep.space import num_values, trial_settings
from hydra_ray.sweep.stage_reuse import Trial, make_trial, stage_bounds, stage_uses, use_lines
from hydra_ray.sweep.trial import require_judged

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Trials of a sweep and the stages that they need, known before anything is computed."""

    trials: tuple[Trial, ...] | None
    """Trials of the sweep; None where a searcher suggests them during the sweep."""
    lines: tuple[str, ...]
    """Forecast as text lines."""


def sweep_folder(sweep: Sweep) -> str:
    """Return the folder of a sweep's results."""
    return storage.join(sweep.base["storage"]["root"], "sweeps", sweep.config.sweep)


def forecast(sweep: Sweep) -> Forecast:
    """Return the number of trials, of stage results that they need, and of those that are complete.

    Raises:
        HydraError: a setting is wrong, or an input or a model is missing.
    """
    config = sweep.config
    _require_loggers(sweep)
    what = ", ".join(f"{key} ({num_values(values):g})" for key, values in config.space.items())
    if config.search == "optuna":
        num_trials = config.num_trials or 1
        bounds = stage_bounds(sweep, num_trials)
        lines = [
            f"sweep {config.sweep}: {counted(num_trials, 'trial')} that optuna chooses, over {what}",
            f"each needs {bounds.per_trial} stage results; all together need from {bounds.lowest} to {bounds.highest} "
            "distinct ones, each of which is computed once at most",
        ]
        return Forecast(trials=None, lines=tuple(lines))
    settings = trial_settings(sweep)
    trials = tuple(make_trial(sweep, point) for point in settings)
    for trial in trials:
        require_judged(sweep, trial)
    uses = stage_uses([trial.stages for trial in trials])
    wanted, distinct, complete = (
        sum(getattr(use, name) for use in uses) for name in ("wanted", "distinct", "complete")
    )
    lines = [
        f"sweep {config.sweep}: {counted(len(trials), 'trial')} ({config.search}) over {what}",
        *_left_out(sweep, len(trials)),
        f"they need {wanted} stage results, {distinct} of them distinct: {complete} are complete, "
        f"{distinct - complete} are to be computed, each once; {wanted - distinct} are shared between trials",
        *use_lines(uses),
    ]
    return Forecast(trials=trials, lines=tuple(lines))


def run_sweep(sweep: Sweep, known: Forecast) -> Results:
    """Run all trials of a sweep and write the results; a stopped sweep resumes where it was.

    Raises:
        ConfigError: an environment variable that the endpoint of a trial needs is not set here, where it runs.
        HydraError: no trial succeeded.
    """
    from hydra_ray.sweep.ray_tune_search import run_trials
    from hydra_ray.sweep.sweep_page import render_sweep_page

    _require_generators(sweep, known)
    folder = sweep_folder(sweep)
    config = sweep.config.model_dump(mode="json")
    storage.write_json(
        storage.join(folder, "sweep.json"), {"config": config, "base": json.loads(json.dumps(sweep.base))}
    )
    points = None if known.trials is None else [trial.settings for trial in known.trials]
    results = gather(sweep, run_trials(sweep, points, folder, ledger_of(sweep)))
    best = make_trial(sweep, results.best.settings).config
    storage.write_part(storage.join(folder, "results.parquet"), results_table(results))
    storage.write_bytes(storage.join(folder, "best.yaml"), config_yaml(best).encode())
    trials = [make_trial(sweep, result.settings).stages for result in results.results]
    page = render_sweep_page(sweep, results, config_yaml(best), stage_uses(trials), ledger_of(sweep).counts())
    storage.write_bytes(storage.join(folder, "sweep.html"), page.encode())
    return results


def ledger_of(sweep: Sweep) -> Ledger:
    """Return the ledger of the sweep."""
    return Ledger(folder=storage.join(sweep_folder(sweep), "computed"))


def summary_lines(sweep: Sweep, results: Results) -> list[str]:
    """Return a summary of a finished sweep as text lines."""
    folder = sweep_folder(sweep)
    shares = ", ".join(f"{key} {share:.0%}" for key, share in results.importances.items())
    return [
        *result_lines(results),
        f"importance: {shares}",
        *(f"failed: {failure.error}" for failure in results.failures),
        exactly_once(ledger_of(sweep)),
        f"best: {storage.join(folder, 'best.yaml')}; page: {storage.join(folder, 'sweep.html')}",
    ]


def exactly_once(ledger: Ledger) -> str:
    """Return a sentence on how many stages the sweep has computed in all attempts, and which more than once."""
    counts = ledger.counts()
    repeated = [f"{name} {fingerprint} {count} times" for (name, fingerprint), count in counts.items() if count > 1]
    was = "was" if len(counts) == 1 else "were"
    sentence = f"{counted(len(counts), 'stage')} {was} computed by this sweep, "
    return sentence + (f"not all of them once: {', '.join(repeated)}" if repeated else "each exactly once")


def _require_generators(sweep: Sweep, known: Forecast) -> None:
    """Check what the generators of trials need, of those that have still something to compute."""
    if known.trials is not None:
        trials = (trial for trial in known.trials if not all(stage.is_complete() for stage in trial.stages))
        configs = [trial.config for trial in trials]
    else:
        configs = [sweep.run_config({})] if sweep.is_possible({}) else []
    for config in configs:
        require_generator_here(config)


def _left_out(sweep: Sweep, num_trials: int) -> Sequence[str]:
    """Return a line that explains why there are fewer trials than expected, where there are."""
    config = sweep.config
    if config.num_trials is not None:
        asked, words = config.num_trials, "the space has no more distinct ones"
    else:
        asked, words = 1, "the others are not valid configurations"
        for values in config.space.values():
            asked *= int(num_values(values))
    return [] if num_trials == asked else [f"{num_trials} of {asked} trials: {words}"]


def _require_loggers(sweep: Sweep) -> None:
    if sweep.config.mlflow_uri is not None and importlib.util.find_spec("mlflow") is None:
        raise ConfigError(
            "mlflow_uri is set, but the package mlflow is not installed here. Install it with `pip install mlflow`, or "
            "leave mlflow_uri out: results are kept without it too."
        )
