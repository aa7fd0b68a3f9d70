"""Tasks of the workers that fit heads, one bucket at a time, and of a bucket one row group at a time.

The head prior is given to them, and they tell what they have written, so that neither is read again for each bucket.

Shape suffixes: U users, G groups, N candidates, D features, R code width, K head kinds, H width of history vectors, V
parameters of a flat network.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from hydra_ray import storage
from hydra_ray.config import HeadsConfig
from hydra_ray.errors import HeadMismatchError
from hydra_ray.rows import ScoredUser, arrow_schema
from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.heads.features import features_table, read_features, sample_training_users
from hydra_ray.scorer.heads.kinds import HeadKind, head_kinds
from hydra_ray.scorer.heads.projection import (
    ProjectedPart,
    group_folds,
    project,
    read_names,
    read_projected,
    user_folds,
    write_projected,
)
from hydra_ray.scorer.heads.selection import (
    choose_kinds,
    cohort_losses,
    head_rows,
    out_of_fold_scores,
    scored_rows,
    stored_scores,
)
from hydra_ray.scorer.heads.store import (
    Lineage,
    heads_table,
    lineage_of,
    prior_folder,
    projected_table,
    read_heads,
    scores_table,
    write_heads,
)
from hydra_ray.scorer.heads.trials import COHORTS, fit_part, inputs_of, read_trial, write_trial
from hydra_ray.scorer.linear.prior import HeadPrior, TrainingGroups, fit_prior
from hydra_ray.scorer.linear.shared import Widths
from hydra_ray.storage.recording import recording, to_text


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadJob:
    """Inputs and settings of the workers of one `fit_heads` call."""

    features: Stage
    stage: Stage
    prior_heads: Stage
    """Stage that stores the head prior: `stage`, or that of the parent run."""
    config: HeadsConfig
    has_soft_targets: bool
    """Whether targets are soft (see `target_distribution`)."""
    num_prefitted: int
    """Number of the last features that are fitted scores themselves."""
    base_name: str
    fold: int
    """Fold of a cross-fitted run; 0 where the run's splits say who is new."""

    @property
    def prior_folder(self) -> str:
        """Return the location of the head prior."""
        return prior_folder(self.prior_heads.folder, self.fold)

    @property
    def scores_table(self) -> str:
        """Return the name of the table of scores."""
        return scores_table(self.fold)

    @property
    def heads_table(self) -> str:
        """Return the name of the table of heads."""
        return heads_table(self.fold)

    def features_part(self, bucket: int) -> str:
        """Return the location of one bucket's features."""
        return self.features.part(features_table(self.base_name), bucket)

    def projected_part(self, bucket: int) -> str:
        """Return the location of one bucket's projected features."""
        return self.stage.part(projected_table(self.fold), bucket)

    def read_projected(self, bucket: int, kinds: Sequence[HeadKind], head_prior: HeadPrior) -> Iterator[ProjectedPart]:
        """Yield the inputs that `kinds` read of one bucket, a row group at a time."""
        location, lineage = self.projected_part(bucket), lineage_of(head_prior)
        parts = read_projected(location, lineage, has_soft_targets=self.has_soft_targets)
        if not any(kind.reads_features for kind in kinds):
            yield from parts
            return
        full = read_features(self.features_part(bucket), self.fold, has_soft_targets=self.has_soft_targets)
        for part, own in zip(parts, full, strict=True):
            assert own.user_ids == part.user_ids, "features of other users"
            yield replace(part, features_ND=own.table.features_ND)

    def unprojected_buckets(self) -> list[int]:
        """Return the buckets whose projected features have not been committed."""
        return self.stage.missing_buckets(projected_table(self.fold))

    def missing_buckets(self) -> list[int]:
        """Return the buckets whose scores or heads have not been committed."""
        return self.stage.missing_buckets(self.scores_table, self.heads_table)

    def trial_part(self, name: str, bucket: int) -> str:
        """Return the location of one bucket's trial of the head kind `name`."""
        return self.stage.part(f"trials/fold-{self.fold}/{name}", bucket)


def make_prior(job: HeadJob) -> None:
    """Estimate the head prior from the training users, and store it."""
    config = job.config
    locations = [job.features_part(bucket) for bucket in job.features.buckets]
    part = sample_training_users(
        locations, config.max_prior_users, config.seed, job.fold, has_soft_targets=job.has_soft_targets
    )
    has_target_G = part.table.has_target()
    table = part.table.select(has_target_G)
    groups = TrainingGroups(
        table=table,
        is_pseudo_G=part.is_pseudo_G[has_target_G],
        fold_G=group_folds(part, config.num_folds, config.seed)[has_target_G],
        histories_GH=part.histories_GH[has_target_G],
        user_fold_U=user_folds(part),
        is_validation_U=part.is_unseen_U,
    )
    head_prior = fit_prior(
        groups,
        Widths(part.num_learned, job.num_prefitted),
        config.ranks if "lowrank" in config.kinds else (),
        config.seed,
        part.base_fingerprint,
    )
    variances = {rank: config.prior_scale * values for rank, values in head_prior.variances.items()}
    head_prior = replace(head_prior, variances=variances)
    if "paper" in config.kinds:
        from hydra_ray.scorer.heads.paper import start_network

        head_prior = replace(head_prior, network_V=start_network(table, config))
    head_prior.write(job.prior_folder, f"{job.prior_heads.fingerprint}-{job.fold}")


def make_projected(job: HeadJob, head_prior: HeadPrior, bucket: int) -> str:
    """Project the bucket's features, so that all later steps read a few numbers for each candidate.

    Returns:
        What was written (see `record_text`).

    Raises:
        HeadMismatchError: the features are of another base than the head prior.
    """
    location = job.features_part(bucket)

    def tables() -> Iterator[pa.Table]:
        for part in read_features(location, job.fold, has_soft_targets=job.has_soft_targets):
            if part.base_fingerprint != head_prior.base_fingerprint:
                raise HeadMismatchError(
                    f"{location} holds features of the base {part.base_fingerprint}, but the shared head in "
                    f"{job.prior_folder} was fitted on those of {head_prior.base_fingerprint}. Remove "
                    f"{job.stage.folder} and run again."
                )
            yield project(part, head_prior, job.config.num_folds, job.config.seed)

    with recording(job.stage.folder) as files:
        rank = head_prior.basis_DR.shape[1]
        write_projected(job.projected_part(bucket), tables(), lineage_of(head_prior), rank)
    return to_text(files)


def make_trial(job: HeadJob, head_prior: HeadPrior, name: str, buckets: Sequence[int]) -> dict[str, float]:
    """Run one trial, the head kind `name` on `buckets`.

    Returns:
        The sums of its parts' counters (see `write_trial`), and its cohorts' mean held-out losses.
    """
    head_kind = next(each for each in head_kinds(job.config) if each.name == name)
    locations = {bucket: job.trial_part(name, bucket) for bucket in buckets}
    are_there = dict(zip(buckets, storage.present(list(locations.values())), strict=True))
    by_bucket: list[Mapping[str, float]] = []
    with recording(job.stage.folder):
        for bucket, location in locations.items():
            if are_there[bucket]:
                by_bucket.append(storage.read_counters(location))
            else:
                parts = job.read_projected(bucket, [head_kind], head_prior)
                by_bucket.append(write_trial(location, parts, head_kind, head_prior))
    counters = storage.add_counters(by_bucket)
    losses = cohort_losses([counters])[0]
    return counters | {f"{cohort}_loss": float(loss) for cohort, loss in zip(COHORTS, losses, strict=True)}


def make_bucket(job: HeadJob, head_prior: HeadPrior, bucket: int, cohorts: np.ndarray) -> str:
    """Choose each user's head kind, commit the bucket's heads, and then the scores by these.

    Args:
        cohorts: mean held-out losses (head kinds, cohorts).

    Returns:
        What was written (see `record_text`).
    """
    counters: dict[str, float] = {"rows": 0}
    with recording(job.stage.folder) as files, storage.reading_once():
        heads = _chosen_heads(job, bucket, cohorts, counters)
        write_heads(job.stage.part(job.heads_table, bucket), heads, lineage_of(head_prior), counters)
        location, scores = job.stage.part(job.scores_table, bucket), _scores(job, head_prior, bucket)
        storage.write_row_groups(location, arrow_schema(ScoredUser), scores, {"rows": counters["rows"]})
    return to_text(files)


def fit_projected(
    location: str,
    heads_location: str,
    lineage: Lineage,
    head_kind: HeadKind,
    head_prior: HeadPrior,
    *,
    has_soft_targets: bool,
) -> None:
    """Fit the heads of all users of one projected part with one head kind, nothing held out, and store them."""

    def tables() -> Iterator[pa.Table]:
        for part in read_projected(location, lineage, has_soft_targets=has_soft_targets):
            table = inputs_of(part, head_kind, head_prior)
            training, fit, _ = fit_part(part, table, head_kind, head_prior, folds=())
            everybody_U, losses_UK = np.zeros(training.num_users, np.int64), np.zeros((training.num_users, 0))
            yield head_rows(part, np.diff(training.user_starts), everybody_U, [head_kind], [fit], losses_UK)

    write_heads(heads_location, tables(), lineage, {})


def _chosen_heads(job: HeadJob, bucket: int, cohorts: np.ndarray, counters: dict[str, float]) -> Iterator[pa.Table]:
    """Yield the heads of the kinds that held-out history selects; count them."""
    kinds = head_kinds(job.config)
    for trials in zip(*(read_trial(job.trial_part(kind.name, bucket)) for kind in kinds), strict=True):
        users, num_groups_U = trials[0], trials[0].num_groups_U
        assert all(trial.user_ids == users.user_ids for trial in trials), "trials of other users"
        sums_KU = np.stack([trial.loss_sums_U for trial in trials])
        chosen_U = choose_kinds(sums_KU, num_groups_U, users.is_new_U, cohorts, job.config.num_folds)
        counters["rows"] += len(chosen_U)
        for (is_new, place), count in Counter(zip(users.is_new_U.tolist(), chosen_U.tolist(), strict=True)).items():
            key = f"{COHORTS[is_new]}.{kinds[place].name}"
            counters[key] = counters.get(key, 0) + count
        losses_UK = (sums_KU / np.maximum(num_groups_U, 1)).T
        yield head_rows(users, num_groups_U, chosen_U, kinds, [trial.fit for trial in trials], losses_UK)


def _scores(job: HeadJob, head_prior: HeadPrior, bucket: int) -> Iterator[pa.Table]:
    """Yield rows of the scores table: by the stored heads, and out of fold where a group was learned from."""
    kinds = head_kinds(job.config)
    heads = read_heads(job.stage.part(job.heads_table, bucket), lineage_of(head_prior))
    scored = stored_scores(job.read_projected(bucket, kinds, head_prior), heads, kinds, head_prior)
    names = read_names(job.projected_part(bucket))
    by_kind = (read_trial(job.trial_part(kind.name, bucket)) for kind in kinds)
    for each, own_names, *trials in zip(scored, names, *by_kind, strict=True):
        personal_N = out_of_fold_scores(each, [trial.personal_N for trial in trials])
        yield scored_rows(each, own_names, {**each.scores, "personal": personal_N}, kinds)
