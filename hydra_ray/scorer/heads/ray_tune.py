"""Grid of trials on Ray Tune: one trial for each point, each reporting one line of metrics."""

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra_ray import storage
from hydra_ray.errors import TrainingError
from hydra_ray.runs.resources import ONE_CPU, Bundle

Work = Callable[[Mapping[str, Any]], Mapping[str, float]]
"""Function of a trial: takes its point of the grid, returns the metrics to report."""
_REPORTED = "reported"
"""Name under which a trial reports its metrics, apart from those that Tune adds."""


def run_trials(
    work: Work,
    grid: Mapping[str, Sequence[Any]],
    folder: str,
    max_concurrent_trials: int | None = None,
    bundle: Bundle = ONE_CPU,
) -> list[tuple[Mapping[str, Any], Mapping[str, float]]]:
    """Call `work` once for each point of `grid`; return the points with their metrics, in the grid's order. Ray must be
    running.

    Args:
        folder: folder of Tune's own state.
        max_concurrent_trials: None to run as many as the cluster has room for.
        bundle: resources that a trial reserves.

    Raises:
        TrainingError: a trial failed twice.
    """
    # Metrics are in the parts; Tune's own CSV, JSON and TensorBoard files would add three files for every trial.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # The newer output prints a table even if verbose is 0.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    from ray import tune

    trial = tune.with_parameters(_trial, work=work)
    # Tune knows trainables by name, in all processes of a job: with one name, two fits at once would run each other's
    # function.
    trial.__name__ = f"heads_{uuid.uuid4().hex}"
    filesystem, path = storage.arrow_filesystem(storage.join(folder, "tune"))
    labels: dict[str, Any] = {"bundle_label_selector": [dict(bundle.labels)]} if bundle.labels else {}
    results = tune.Tuner(
        tune.with_resources(trial, tune.PlacementGroupFactory([bundle.amounts()], **labels)),
        param_space={name: tune.grid_search(list(values)) for name, values in grid.items()},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=max_concurrent_trials,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="heads",
            storage_path=path,
            storage_filesystem=filesystem,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=1),
        ),
    ).fit()
    if results.errors:
        raise TrainingError(
            f"{len(results.errors)} of {len(results)} trials failed, the first: {results.errors[0]}. Run again to "
            "continue: what the others committed is kept."
        )
    return [(result.config or {}, (result.metrics or {})[_REPORTED]) for result in results]


def _trial(settings: Mapping[str, Any], work: Work) -> None:
    from ray import tune

    tune.report({_REPORTED: dict(work(settings))})
