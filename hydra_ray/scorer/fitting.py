"""Fits everybody's heads: the population once, then Ray Tune trials of all users of a shard at once.

A trial is one shard of buckets with one head configuration. It commits a part for each bucket, so a trial that is run
again does only what is missing. Afterwards every user gets the configuration with the lowest loss on the user's own
held-out history, shrunk towards the mean of the users alike.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hydra_ray import storage
from hydra_ray.config import HeadsConfig, PlacementConfig
from hydra_ray.errors import HeadMismatchError, TrainingError
from hydra_ray.records import ScoredUser, to_table
from hydra_ray.scorer.configurations import configurations
from hydra_ray.scorer.features import FeaturePart, features_table, read_features, sample_training_users
from hydra_ray.scorer.population import DESCRIPTION, Population, fit_population, read_population
from hydra_ray.scorer.routed import fit_routed_heads, rescaled
from hydra_ray.scorer.selection import (
    choose_configurations,
    cohort_losses,
    routed_scores,
    scored_users,
    shuffled_scores,
    user_heads,
)
from hydra_ray.scorer.shared import user_fold
from hydra_ray.scorer.store import heads_table, population_folder, scores_table, write_heads
from hydra_ray.scorer.trials import COHORTS, group_folds, read_trial, run_trial, shared_scores, write_trial
from hydra_ray.stages import Stage

_LOG = logging.getLogger(__name__)
_COHORTS = "cohorts.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadJob:
    """What the workers of one `fit_heads` call are told."""

    features: Stage
    stage: Stage
    population: Stage
    """The heads that keep what training users teach: `stage`, or those of the run that taught."""
    config: HeadsConfig
    is_graded: bool
    """Whether candidates that are not the best of their group have a part in what is learned."""
    base_name: str
    fold: int
    """Of a cross-fitted run; 0 where the run's splits say who is new."""

    @property
    def population_folder(self) -> str:
        """Location of the population."""
        return population_folder(self.population.folder, self.fold)

    @property
    def scores_table(self) -> str:
        """Name of the table of scores."""
        return scores_table(self.fold)

    @property
    def heads_table(self) -> str:
        """Name of the table of heads."""
        return heads_table(self.fold)

    def features_part(self, bucket: int) -> str:
        """Location of the features of one bucket."""
        return self.features.part(features_table(self.base_name), bucket)

    def missing_buckets(self) -> list[int]:
        """Buckets whose scores or heads have not been committed."""
        return sorted({*self.stage.missing_buckets(self.scores_table), *self.stage.missing_buckets(self.heads_table)})

    def trial_part(self, name: str, bucket: int) -> str:
        """Location of what the configuration `name` gives one bucket."""
        return self.stage.part(f"trials/fold-{self.fold}/{name}", bucket)

    def trial_parts(self, name: str) -> list[str]:
        """All parts of the configuration `name`."""
        return [self.trial_part(name, bucket) for bucket in self.stage.buckets]


def fit_heads(
    features: Stage,
    stage: Stage,
    population: Stage,
    config: HeadsConfig,
    placement: PlacementConfig,
    base_names: Sequence[str],
    *,
    is_graded: bool,
) -> dict[str, float]:
    """Fit the heads of every fold and write its tables of heads and scores in `stage`.

    What a killed call has committed is kept. Ray must be running.

    Args:
        population: the heads that keep what training users teach: `stage`, or those of the run that taught.
        base_names: of each fold, the base whose features its heads are fitted on.
        is_graded: whether candidates that are not the best of their group have a part in what is learned.

    Returns:
        Counters: users, and how many of each cohort got which configuration.

    Raises:
        TrainingError: a trial failed, or the training users teach nothing.
    """
    jobs = [
        HeadJob(
            features=features,
            stage=stage,
            population=population,
            config=config,
            is_graded=is_graded,
            base_name=name,
            fold=fold,
        )
        for fold, name in enumerate(base_names)
    ]
    unfinished = [job for job in jobs if job.missing_buckets()]
    if unfinished:
        import ray

        make = ray.remote(num_cpus=1)(make_population)
        ray.get(
            [
                make.remote(job)
                for job in unfinished
                if not storage.exists(storage.join(job.population_folder, DESCRIPTION))
            ]
        )
        _run_trials(unfinished, placement)
        write = ray.remote(num_cpus=1)(make_bucket)
        writing = []
        for job in unfinished:
            names = [configuration.name for configuration in configurations(config)]
            cohorts = _known_losses(job, names)
            _log_losses(f"{stage.name}, fold {job.fold}" if len(jobs) > 1 else stage.name, names, cohorts)
            writing += [write.remote(job, bucket, cohorts) for bucket in job.missing_buckets()]
        ray.get(writing)
    for leftover in ("trials", "tune"):
        storage.remove_folder(storage.join(stage.folder, leftover))
    return storage.add_counters(_added_counters(stage.parts(job.heads_table)) for job in jobs)


def make_population(job: HeadJob) -> None:
    """Estimate what training users teach about all users, and store it."""
    config = job.config
    locations = [job.features_part(bucket) for bucket in job.features.buckets]
    part = sample_training_users(locations, config.max_prior_users, config.seed, job.fold, is_graded=job.is_graded)
    teaches_G = part.table.teaches()
    table = part.table.select(teaches_G)
    user_fold_U = np.array([user_fold(user_id) for user_id in part.user_ids], np.int64)
    population = fit_population(
        table,
        is_pseudo_G=part.is_pseudo_G[teaches_G],
        user_fold_U=user_fold_U,
        num_learned=part.num_learned,
        is_judge_U=part.is_unseen_U,
        fold_G=group_folds(part, config.num_folds, config.seed)[teaches_G],
        ranks=config.ranks if "lowrank" in config.kinds else (),
        seed=config.seed,
        base_fingerprint=part.base_fingerprint,
    )
    scaled = table.scaled(population.scales_D)
    if "paper" in config.kinds:
        from hydra_ray.scorer.paper import start_network

        population = replace(population, network_K=start_network(scaled, config))
    if part.histories_UH.shape[1]:
        offsets_N = shared_scores(part, population)[teaches_G[part.table.group_of_candidate()]]
        routed = fit_routed_heads(scaled, offsets_N, part.histories_UH, user_fold_U, config.seed)
        population = replace(population, routed=rescaled(routed, population.scales_D))
    population.write(job.population_folder, job.population.fingerprint)


def make_trial(job: HeadJob, name: str, buckets: Sequence[int]) -> dict[str, float]:
    """Run one trial: the configuration `name` on `buckets`; returns its cohorts' mean held-out losses."""
    configuration = next(each for each in configurations(job.config) if each.name == name)
    population = read_population(job.population_folder)
    for bucket in buckets:
        location = job.trial_part(name, bucket)
        if not storage.exists(location):
            part = _read_features(job, bucket, population)
            write_trial(location, run_trial(part, configuration, population), part)
    losses = cohort_losses([_added_counters([job.trial_part(name, bucket) for bucket in buckets])])[0]
    return {f"{cohort}_loss": float(loss) for cohort, loss in zip(COHORTS, losses, strict=True)}


def make_bucket(job: HeadJob, bucket: int, cohorts: np.ndarray) -> None:
    """Choose each user's configuration and commit the bucket's scores and heads."""
    population = read_population(job.population_folder)
    part = _read_features(job, bucket, population)
    kinds = configurations(job.config)
    trials = [read_trial(job.trial_part(kind.name, bucket)) for kind in kinds]
    assert all(trial.user_ids == part.user_ids for trial in trials)
    chosen = choose_configurations(
        np.stack([trial.loss_sums_U for trial in trials]),
        trials[0].num_groups_U,
        part.is_new_U,
        cohorts,
        job.config.num_folds,
    )
    personal = np.stack([trial.personal_N for trial in trials])
    rows = scored_users(
        part,
        [kinds[place].name for place in chosen],
        {
            "personal": personal[chosen[part.table.user_of_candidate()], np.arange(personal.shape[1])],
            "shared": shared_scores(part, population),
            "shuffled": shuffled_scores(part, chosen, trials, kinds, population),
            "routed": routed_scores(part, population),
        },
    )
    counters: dict[str, float] = {"rows": len(rows)}
    for row in rows:
        key = f"{COHORTS[row.is_new]}.{row.head}"
        counters[key] = counters.get(key, 0) + 1
    storage.write_part(job.stage.part(job.scores_table, bucket), to_table(rows, ScoredUser), {"rows": len(rows)})
    write_heads(
        job.stage.part(job.heads_table, bucket),
        user_heads(part, chosen, trials, kinds),
        population.base_fingerprint,
        job.population.fingerprint,
        counters,
    )


def _run_trials(jobs: Sequence[HeadJob], placement: PlacementConfig) -> None:
    """One Tune trial for each fold, shard and configuration."""
    config, stage = jobs[0].config, jobs[0].stage
    # Metrics are in the parts; Tune's own CSV, JSON and TensorBoard files would be three more for every trial.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # The newer output prints a table even where verbose is 0.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    from ray import tune

    num_shards = min(config.num_shards, len(stage.buckets))
    results = tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, jobs={job.fold: job for job in jobs}), {"cpu": 1}),
        param_space={
            "fold": tune.grid_search([job.fold for job in jobs]),
            "configuration": tune.grid_search([each.name for each in configurations(config)]),
            "buckets": tune.grid_search([list(stage.buckets)[shard::num_shards] for shard in range(num_shards)]),
        },
        tune_config=tune.TuneConfig(
            max_concurrent_trials=placement.max_concurrent_trials,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="heads",
            storage_path=storage.join(stage.folder, "tune"),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=1),
        ),
    ).fit()
    if results.errors:
        raise TrainingError(f"{len(results.errors)} of {len(results)} trials failed, the first: {results.errors[0]}")


def _trial(settings: Mapping[str, Any], jobs: Mapping[int, HeadJob]) -> None:
    from ray import tune

    tune.report(make_trial(jobs[settings["fold"]], settings["configuration"], settings["buckets"]))


def _read_features(job: HeadJob, bucket: int, population: Population) -> FeaturePart:
    location = job.features_part(bucket)
    part = read_features(location, job.fold, is_graded=job.is_graded)
    if part.base_fingerprint != population.base_fingerprint:
        raise HeadMismatchError(
            f"{location} holds features of the base {part.base_fingerprint}, but the shared head in "
            f"{job.population_folder} was fitted on those of {population.base_fingerprint}. Remove {job.stage.folder}."
        )
    return part


def _known_losses(job: HeadJob, names: Sequence[str]) -> np.ndarray:
    """Mean held-out losses (configurations, cohorts) of the run that taught: who comes later is judged by them too."""
    location = storage.join(job.population_folder, _COHORTS)
    if not storage.exists(location):
        losses = cohort_losses([_added_counters(job.trial_parts(name)) for name in names])
        storage.write_json(location, dict(zip(names, losses.tolist(), strict=True)))
    found = storage.read_json(location)
    return np.array([found[name] for name in names])


def _added_counters(locations: Sequence[str]) -> dict[str, float]:
    return storage.add_counters(storage.read_counters(location) for location in locations)


def _log_losses(stage_name: str, names: Sequence[str], cohorts: np.ndarray) -> None:
    for name, losses in zip(names, cohorts, strict=True):
        means = ", ".join(f"{cohort} users {loss:.4f}" for cohort, loss in zip(COHORTS, losses, strict=True))
        _LOG.info("%s: head %s, mean held-out loss: %s", stage_name, name, means)
