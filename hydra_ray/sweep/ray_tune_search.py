"""Trials of a sweep under Ray Tune: its searchers suggest them, its loggers record them, and it retries trials whose
worker died.

A trial runs as if it were a separate program, in a task that reserves no resources: what it starts (Ray Data, Train and
Tune again) reserves its own. Tune's actor for a trial only waits for that task, because anything started inside the
actor would be confined to the trial's placement group.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from hydra_ray import storage
from hydra_ray.config import PlacementConfig
from hydra_ray.engine.generator_pool import generators_kept, open_pool
from hydra_ray.engine.ray_connection import start_ray
from hydra_ray.errors import HydraError
from hydra_ray.runs.resources import core_bundle, encoder_bundle, generator_bundle, step_bundle
from hydra_ray.sweep.analysis import AIMS
from hydra_ray.sweep.config import Sweep
from hydra_ray.sweep.ledger import Ledger
from hydra_ray.sweep.results import Outcome
from hydra_ray.sweep.space import Settings, decoded, encoded
from hydra_ray.sweep.trial import as_reported, run_trial, worth_of

logger = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"
"""Name of the folder of event files, in the sweep's folder."""
_EVENTS = "tfevents"
"""Part of the names of TensorBoard's files."""
_MAX_LOST_WORKERS = 2
_NOTHING = 0.001
"""Tiny amount of a node's own resource, of which each node has 1: pins to the node without reserving it."""
PREFIX = "settings"
"""Key of a trial's settings in its Tune configuration."""
_FAILURE = "failure"


def run_trials(sweep: Sweep, points: Sequence[Settings] | None, folder: str, ledger: Ledger) -> list[Outcome]:
    """Run the trials of a sweep to the end, reusing complete stages under the root.

    Args:
        points: settings of the trials; None where a searcher suggests them.
        folder: folder of the sweep.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # it prints a table even with verbose=0
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    start_ray()
    import ray
    from ray import tune

    storage.remove_folder(
        storage.join(folder, TENSORBOARD)
    )  # all trials are logged again, those of earlier attempts too
    placement = PlacementConfig.model_validate(sweep.base.get("placement", {}))
    max_concurrent = sweep.config.max_concurrent or num_fitting(ray.cluster_resources(), placement)
    num_trials = len(points) if points is not None else sweep.config.num_trials or 1
    logger.info("%d trials, %d at the same time", num_trials, min(max_concurrent, num_trials))
    filesystem, path = storage.arrow_filesystem(folder)
    place = tune.PlacementGroupFactory([{f"node:{ray.util.get_node_ip_address()}": _NOTHING}])
    with generators_kept():
        open_pool()  # here, since it ends with the process that starts it: generators are to outlive trials
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
    """Return how many trials can run concurrently without waiting for each other's resources; at least 1.

    Args:
        resources: total resources of the cluster, by Ray's names.
    """
    copies = [generator_bundle(placement)] * placement.generator_actors
    held: dict[str, float] = {}
    for bundle in copies:
        for name, amount in bundle.amounts().items():
            held[name] = held.get(name, 0) + amount
    for bundle, number in ((core_bundle(placement), 1), (encoder_bundle(placement), placement.encoder_actors)):
        for name, amount in bundle.amounts().items():
            held[name] = max(held.get(name, 0), amount * number)
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
    """Run a trial's task and report its result: the function that Tune calls."""
    import ray
    from ray import tune
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    run = ray.remote(num_cpus=0, max_retries=0)(_run).options(scheduling_strategy=here)
    tune.report(ray.get(run.remote(sweep, _decoded(sweep, code[PREFIX]), ledger)))


def _run(sweep: Sweep, settings: Settings, ledger: Ledger) -> dict[str, Any]:
    """Return the trial's metrics; an error that a retry would repeat is returned as the reason of the failure."""
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
    """Remove Tune's own state and keep the event files: a restarted sweep needs none of the state."""
    for path in storage.list_tree(folder):
        if _EVENTS not in path:
            storage.remove_file(storage.join(folder, path))


def _encoded(point: Settings) -> Settings:
    return {key: encoded(value) for key, value in point.items()}


def _decoded(sweep: Sweep, code: Settings) -> Settings:
    return {key: decoded(sweep.config.space[key], value) for key, value in code.items()}
