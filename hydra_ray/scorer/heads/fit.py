"""Fit all users' heads: estimate the head prior, project each bucket once, then run trials of whole shards of users.

A trial is one shard of buckets with one head kind. It commits a part for each bucket, so a repeated trial computes only
what is missing. Afterwards every user gets the head kind with the lowest loss on the user's own held-out history,
shrunk towards the mean of the user's cohort (see `choose_kinds`).
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from hydra_ray import storage
from hydra_ray.config import HeadsConfig, PlacementConfig
from hydra_ray.runs.resources import core_bundle
from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.heads.kinds import head_kinds
from hydra_ray.scorer.heads.ray_tune import run_trials
from hydra_ray.scorer.heads.selection import cohort_losses
from hydra_ray.scorer.heads.tasks import HeadJob, make_bucket, make_prior, make_projected, make_trial
from hydra_ray.scorer.heads.trials import COHORTS
from hydra_ray.scorer.linear.prior import DESCRIPTION, HeadPrior, read_prior
from hydra_ray.storage.recording import record_text

_LOG = logging.getLogger(__name__)
_COHORTS = "cohorts.json"


def fit_heads(
    features: Stage,
    stage: Stage,
    prior_heads: Stage,
    config: HeadsConfig,
    placement: PlacementConfig,
    base_names: Sequence[str],
    *,
    has_soft_targets: bool,
    num_prefitted: int = 0,
) -> dict[str, float]:
    """Fit the heads of every fold and write its tables of heads and scores in `stage`.

    Parts that a killed call committed are kept. Ray must be running.

    Args:
        prior_heads: stage that stores the head prior: `stage`, or that of the parent run.
        base_names: for each fold, the base on whose features its heads are fitted.
        has_soft_targets: see `target_distribution`.
        num_prefitted: number of the last features that are fitted scores themselves.

    Returns:
        Counters: users, and the number of users of each cohort with each head kind.

    Raises:
        TrainingError: a trial failed, or no training user has a group with a target.
    """
    jobs = [
        HeadJob(
            features=features,
            stage=stage,
            prior_heads=prior_heads,
            config=config,
            has_soft_targets=has_soft_targets,
            num_prefitted=num_prefitted,
            base_name=name,
            fold=fold,
        )
        for fold, name in enumerate(base_names)
    ]
    unfinished = [job for job in jobs if job.missing_buckets()]
    if unfinished:
        import ray

        options = core_bundle(placement).options()
        make = ray.remote(**options)(make_prior)
        ray.get(
            [make.remote(job) for job in unfinished if not storage.exists(storage.join(job.prior_folder, DESCRIPTION))]
        )
        priors = {job.fold: read_prior(job.prior_folder) for job in unfinished}
        given = {fold: ray.put(head_prior) for fold, head_prior in priors.items()}
        run = ray.remote(**options)(make_projected)
        projecting = [
            run.remote(job, given[job.fold], bucket) for job in unfinished for bucket in job.unprojected_buckets()
        ]
        _record(stage, ray.get(projecting))
        by_trial = _run_trials(unfinished, priors, placement)
        write = ray.remote(**options)(make_bucket)
        writing = []
        for job in unfinished:
            names = [head_kind.name for head_kind in head_kinds(config)]
            cohorts = _known_losses(job, {name: by_trial[job.fold, name] for name in names})
            _log_losses(f"{stage.name}, fold {job.fold}" if len(jobs) > 1 else stage.name, names, cohorts)
            writing += [write.remote(job, given[job.fold], bucket, cohorts) for bucket in job.missing_buckets()]
        _record(stage, ray.get(writing))
    for leftover in ("trials", "tune"):
        storage.remove_folder(storage.join(stage.folder, leftover))
    return storage.add_counters(
        storage.read_counters(location) for job in jobs for location in stage.parts(job.heads_table)
    )


def _record(stage: Stage, written: Sequence[str]) -> None:
    """Record what workers have written."""
    for each in written:
        record_text(stage.folder, each)


def _run_trials(
    jobs: Sequence[HeadJob], priors: Mapping[int, HeadPrior], placement: PlacementConfig
) -> dict[tuple[int, str], dict[str, float]]:
    """Run one trial for each fold, shard and head kind; return the counters of each fold and head kind."""
    config, stage = jobs[0].config, jobs[0].stage
    num_shards = min(config.num_shards, len(stage.buckets))
    grid = {
        "fold": [job.fold for job in jobs],
        "configuration": [each.name for each in head_kinds(config)],
        "buckets": [list(stage.buckets)[shard::num_shards] for shard in range(num_shards)],
    }
    work = partial(_run_trial, {job.fold: job for job in jobs}, priors)
    found = run_trials(work, grid, stage.folder, placement.max_concurrent_trials, core_bundle(placement))
    by_trial: dict[tuple[int, str], list[Mapping[str, float]]] = {}
    for settings, metrics in found:
        by_trial.setdefault((settings["fold"], settings["configuration"]), []).append(metrics)
    return {trial: storage.add_counters(shards) for trial, shards in by_trial.items()}


def _run_trial(
    jobs: Mapping[int, HeadJob], priors: Mapping[int, HeadPrior], settings: Mapping[str, Any]
) -> dict[str, float]:
    fold = settings["fold"]
    return make_trial(jobs[fold], priors[fold], settings["configuration"], settings["buckets"])


def _known_losses(job: HeadJob, by_name: Mapping[str, Mapping[str, float]]) -> np.ndarray:
    """Return the mean held-out losses (head kinds, cohorts), the parent run's if there is one: users who come later are
    assigned kinds by the same losses.

    Args:
        by_name: counters of the trials of each head kind.
    """
    location = storage.join(job.prior_folder, _COHORTS)
    if not storage.exists(location):
        losses = cohort_losses(list(by_name.values()))
        storage.write_json(location, dict(zip(by_name, losses.tolist(), strict=True)))
    found = storage.read_json(location, dict.fromkeys(by_name, list))
    return np.array([found[name] for name in by_name])


def _log_losses(stage_name: str, names: Sequence[str], cohorts: np.ndarray) -> None:
    for name, losses in zip(names, cohorts, strict=True):
        means = ", ".join(f"{cohort} users {loss:.4f}" for cohort, loss in zip(COHORTS, losses, strict=True))
        _LOG.info("%s: head %s, mean held-out loss: %s", stage_name, name, means)
