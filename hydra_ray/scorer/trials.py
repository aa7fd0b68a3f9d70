"""One head configuration on one bucket: codes, out-of-fold scores, and held-out losses of all its users at once."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hydra_ray import storage
from hydra_ray.records import arrow_list
from hydra_ray.scorer.configurations import Configuration
from hydra_ray.scorer.features import FeaturePart
from hydra_ray.scorer.heads import Floats, Ints, group_losses, starts_of
from hydra_ray.scorer.population import Population
from hydra_ray.scorer.shared import user_fold
from hydra_ray.seeds import seed_of

COHORTS = ("training", "new")
"""Users alike, by is_new: what a head of one kind gains differs between those who taught it and those who did not."""
_EVALUATED = -1


_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("loss_sum", pa.float64(), nullable=False),
        pa.field("num_groups", pa.int64(), nullable=False),
        pa.field("code", arrow_list(pa.float32()), nullable=False),
        pa.field("personal", arrow_list(pa.float32()), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPart:
    """What one configuration gives the users of one bucket."""

    user_ids: list[str]
    loss_sums_U: Floats
    """Held-out losses, summed over a user's groups."""
    num_groups_U: Ints
    codes_UK: Floats
    personal_N: Floats
    """Scores by the final head for evaluated queries, out of fold for all others."""


def group_folds(part: FeaturePart, num_folds: int, seed: int) -> Ints:
    """Each group's fold among its user's queries that are learned from; -1 for evaluated queries."""
    user_G = part.table.user_of_group()
    is_learned_G = part.is_pseudo_G | part.is_known_G
    assert not (part.is_new_U[user_G] & part.is_known_G & ~part.is_pseudo_G).any(), "a new user's target is known"
    folds = np.full(part.table.num_groups, _EVALUATED, np.int64)
    for user, (start, end) in enumerate(zip(part.table.user_starts[:-1], part.table.user_starts[1:], strict=True)):
        own = [group for group in range(start, end) if is_learned_G[group]]
        queries = sorted(
            {part.query_ids[group] for group in own},
            key=lambda query_id: seed_of(seed, "fold", part.user_ids[user], query_id),
        )
        fold_of = {query_id: place % num_folds for place, query_id in enumerate(queries)}
        for group in own:
            folds[group] = fold_of[part.query_ids[group]]
    return folds


def shared_scores(part: FeaturePart, population: Population) -> Floats:
    """Every candidate's score by the shared head; a training user's by one that was fitted without the user."""
    users = zip(part.user_ids, part.is_new_U.tolist(), strict=True)
    fold_U = np.array([-1 if is_new else user_fold(user_id) for user_id, is_new in users], np.int64)
    table = part.table
    is_pseudo_N = part.is_pseudo_G[table.group_of_candidate()]
    return population.shared_scores(table.features_ND, is_pseudo_N, fold_U[table.user_of_candidate()])


def run_trial(part: FeaturePart, configuration: Configuration, population: Population) -> TrialPart:
    """Fit the configuration to every user of `part`, on all that may be learned from and with each fold left out."""
    table, user_N = part.table, part.table.user_of_candidate()
    teaches_G = table.teaches()
    taught = table.select(teaches_G)
    fold_G = group_folds(part, configuration.settings.num_folds, configuration.settings.seed)
    fold_N = fold_G[table.group_of_candidate()]
    offsets_N = shared_scores(part, population)
    taught_N = offsets_N[teaches_G[table.group_of_candidate()]]
    codes = configuration.fit(taught, taught_N, population, np.ones(taught.num_groups))
    personal = configuration.score(table.features_ND, offsets_N, user_N, codes, population)
    for fold in range(configuration.settings.num_folds) if codes.shape[1] else ():
        rows = fold_N == fold
        left_out = configuration.fit(taught, taught_N, population, (fold_G[teaches_G] != fold).astype(float))
        personal[rows] = configuration.score(
            table.features_ND[rows], offsets_N[rows], user_N[rows], left_out, population
        )
    losses = group_losses(taught, personal[teaches_G[table.group_of_candidate()]])
    return TrialPart(
        user_ids=part.user_ids,
        loss_sums_U=np.bincount(taught.user_of_group(), losses, minlength=table.num_users).astype(np.float64),
        num_groups_U=np.diff(taught.user_starts),
        codes_UK=codes,
        personal_N=personal,
    )


def write_trial(location: str, trial: TrialPart, part: FeaturePart) -> None:
    """Commit a trial's part; its counters are the cohorts' held-out losses and numbers of groups."""
    candidates = np.bincount(part.table.user_of_candidate(), minlength=part.table.num_users)
    counters: dict[str, float] = {}
    for is_new, cohort in enumerate(COHORTS):
        rows = part.is_new_U == bool(is_new)
        counters[f"{cohort}.loss"] = float(trial.loss_sums_U[rows].sum())
        counters[f"{cohort}.groups"] = float(trial.num_groups_U[rows].sum())
    lengths = np.full(len(trial.user_ids), trial.codes_UK.shape[1])
    columns = [
        pa.array(trial.user_ids, pa.string()),
        pa.array(trial.loss_sums_U, pa.float64()),
        pa.array(trial.num_groups_U, pa.int64()),
        _ragged(trial.codes_UK.ravel(), lengths),
        _ragged(trial.personal_N, candidates),
    ]
    storage.write_part(location, pa.Table.from_arrays(columns, schema=_SCHEMA), counters)


def read_trial(location: str) -> TrialPart:
    """The part of a trial at `location`.

    Raises:
        StorageError: there is none.
    """
    table = storage.read_part(location, _SCHEMA)
    codes = table["code"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    return TrialPart(
        user_ids=table["user_id"].to_pylist(),
        loss_sums_U=table["loss_sum"].to_numpy(),
        num_groups_U=table["num_groups"].to_numpy(),
        codes_UK=codes.reshape(table.num_rows, -1) if table.num_rows else np.zeros((0, 0)),
        personal_N=table["personal"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float64),
    )


def _ragged(values: Floats, lengths: Ints) -> pa.Array:
    offsets = pa.array(starts_of(lengths), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(values, pa.float32()), type=arrow_list(pa.float32()))
