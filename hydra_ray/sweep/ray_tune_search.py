"""Ray Tune runs the trials of a sweep: its searchers choose them, its loggers keep them, and it retries what a lost
worker took down.

A trial runs as if it were a program of its own, in a task that reserves nothing: what it starts (Ray Data, Train and
Tune again) reserves for itself. The actor that Tune makes for a trial only waits for that task, because whatever is
started inside of it would be confined to the trial's own reservation.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from hydra_ray import storage
from hydra_ray.config import PlacementConfig
from hydra_ray.engine.ray_data import start_ray
from hydra_ray.errors import HydraError
from hydra_ray.runs.resources import core_bundle, generator_bundle, step_bundle
from hydra_ray.sweep.analysis import AIMS
from hydra_ray.sweep.config import Sweep
from hydra_ray.sweep.ledger import Ledger
from hydra_ray.sweep.results import Outcome
from hydra_ray.sweep.space import Settings, decoded, encoded
from hydra_ray.sweep.trial import as_reported, run_trial, worth_of

logger = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"
"""Folder of the event files, in the sweep's."""
_EVENTS = "tfevents"
"""In the names of TensorBoard's files."""
_MAX_LOST_WORKERS = 2
_NOTHING = 0.001
"""Of a node's own resource, of which each node has 1: a reservation that only says where."""
PREFIX = "settings"
"""Under which a trial's settings are in its configuration."""
_FAILURE = "failure"


def run_trials(sweep: Sweep, points: Sequence[Settings] | None, folder: str, ledger: Ledger) -> list[Outcome]:
    """Run the trials of a sweep to the end; whatever of them is complete under the root costs nothing.

    Args:
        points: None where the search chooses them as it goes.
        folder: the sweep's own.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # it prints a table even where verbose is 0
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    start_ray()
    import ray
    from ray import tune

    storage.remove_folder(storage.join(folder, TENSORBOARD))  # every trial is told anew, those of earlier attempts too
    placement = PlacementConfig.model_validate(sweep.base.get("placement", {}))
    max_concurrent = sweep.config.max_concurrent or num_fitting(ray.cluster_resources(), placement)
    num_trials = len(points) if points is not None else sweep.config.num_trials or 1
    logger.info("%d trials, %d at the same time", num_trials, min(max_concurrent, num_trials))
    filesystem, path = storage.arrow_filesystem(folder)
    place = tune.PlacementGroupFactory([{f"node:{ray.util.get_node_ip_address()}": _NOTHING}])
    results = tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, sweep=sweep, ledger=ledger), place),
        param_space={} if points is None else {PREFIX: tune.grid_search([_encoded(point) for point in points])},
        tune_config=_tune_config(sweep, points, max_concurrent),
        run_config=tune.RunConfig(
            name=TENSORBOARD,
            storage_path=path,
            storage_filesystem=filesystem,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=_MAX_LOST_WORKERS),
            callbacks=_callbacks(sweep, num_trials),
        ),
    ).fit()
    _keep_events(storage.join(folder, TENSORBOARD))
    return [_outcome(sweep, result) for result in results]


def num_fitting(resources: Mapping[str, float], placement: PlacementConfig) -> int:
    """Return how many trials have room beside each other, so that none holds what another one waits for; at least 1.

    Args:
        resources: of the whole cluster, by Ray's names.
    """
    copies = [generator_bundle(placement)] * placement.generator_actors
    held: dict[str, float] = {}
    for bundle in copies:
        for name, amount in bundle.amounts().items():
            held[name] = held.get(name, 0) + amount
    for name, amount in core_bundle(placement).amounts().items():
        held[name] = max(held.get(name, 0), amount * placement.encoder_actors)
    for name, amount in step_bundle(placement).amounts().items():
        held[name] += amount
    return max(1, min(int(resources.get(name, 0) // amount) for name, amount in held.items()))


def _tune_config(sweep: Sweep, points: Sequence[Settings] | None, max_concurrent: int) -> Any:
    from ray import tune

    common = {"reuse_actors": True, "trial_dirname_creator": lambda trial: trial.trial_id}
    if points is not None:
        return tune.TuneConfig(max_concurrent_trials=max_concurrent, **common)
    from hydra_ray.sweep.searchers import optuna_searcher

    config = sweep.config
    searcher = optuna_searcher(config.space, AIMS, config.seed, max_concurrent, sweep.is_possible, PREFIX)
    return tune.TuneConfig(search_alg=searcher, num_samples=config.num_trials or 1, **common)


def _trial(code: Mapping[str, Any], sweep: Sweep, ledger: Ledger) -> None:
    """What Tune runs: it waits for the task that is the trial."""
    import ray
    from ray import tune
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    run = ray.remote(num_cpus=0, max_retries=0)(_run).options(scheduling_strategy=here)
    tune.report(ray.get(run.remote(sweep, _decoded(sweep, code[PREFIX]), ledger)))


def _run(sweep: Sweep, settings: Settings, ledger: Ledger) -> dict[str, Any]:
    """Return the trial's worth; where it cannot be known, only why: the same would happen again."""
    try:
        return as_reported(run_trial(sweep, settings, ledger))
    except HydraError as error:
        return {_FAILURE: str(error)}


def _callbacks(sweep: Sweep, num_trials: int) -> list[Any]:
    from hydra_ray.sweep.callbacks import Announcer, EventWriter

    found: list[Any] = [Announcer(num_trials), EventWriter()]
    if sweep.config.mlflow_uri is not None:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        found.append(MLflowLoggerCallback(tracking_uri=sweep.config.mlflow_uri, experiment_name=sweep.config.sweep))
    return found


def _outcome(sweep: Sweep, result: Any) -> Outcome:
    metrics = result.metrics or {}
    error = metrics.get(_FAILURE) or (str(result.error).strip().splitlines()[-1] if result.error else None)
    worth = worth_of(metrics) if error is None else None
    return Outcome(settings=_decoded(sweep, result.config[PREFIX]), worth=worth, error=error)


def _keep_events(folder: str) -> None:
    """Remove what Tune keeps of itself: a sweep that starts again needs nothing of it."""
    for path in storage.list_tree(folder):
        if _EVENTS not in path:
            storage.remove_file(storage.join(folder, path))


def _encoded(point: Settings) -> Settings:
    return {key: encoded(value) for key, value in point.items()}


def _decoded(sweep: Sweep, code: Settings) -> Settings:
    return {key: decoded(sweep.config.space[key], value) for key, value in code.items()}
