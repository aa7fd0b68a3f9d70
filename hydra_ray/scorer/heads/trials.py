"""Trial of one head kind on one bucket: codes, out-of-fold scores, and held-out losses of many users at once.

Shape suffixes: U users, G groups, N candidates, R code width, D features.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from hydra_ray import storage
from hydra_ray.rows import arrow_list
from hydra_ray.scorer.heads.columns import flat_values, lists_of, rows_of
from hydra_ray.scorer.heads.kinds import Fit, HeadKind
from hydra_ray.scorer.heads.projection import ProjectedPart
from hydra_ray.scorer.linear.groups import Bools, Floats, GroupTable, Ints, group_losses
from hydra_ray.scorer.linear.newton import require_finite
from hydra_ray.scorer.linear.prior import HeadPrior

COHORTS = ("training", "new")
"""Cohorts of users, indexed by is_new: the loss of a head kind differs between training users, on whom the head prior
was estimated, and new users.
"""


_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("is_new", pa.bool_(), nullable=False),
        pa.field("loss_sum", pa.float64(), nullable=False),
        pa.field("num_groups", pa.int64(), nullable=False),
        pa.field("code", arrow_list(pa.float32()), nullable=False),
        pa.field("precision", arrow_list(pa.float32()), nullable=False),
        pa.field("personal", arrow_list(pa.float32()), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPart:
    """Results of one head kind for some users."""

    user_ids: list[str]
    is_new_U: Bools
    loss_sums_U: Floats
    """Sum of the held-out losses of a user's groups, in nats."""
    num_groups_U: Ints
    fit: Fit
    personal_N: Floats
    """Scores by the final head for evaluated queries, out of fold for all others."""


def run_trial(part: ProjectedPart, head_kind: HeadKind, head_prior: HeadPrior) -> TrialPart:
    """Fit the head kind to every user of `part`, on all groups that may be learned from and with each fold left out.

    Raises:
        FeatureError: a score is NaN or infinite; a loss of NaN would win every comparison.
    """
    table = inputs_of(part, head_kind, head_prior)
    user_N, fold_N = table.user_of_candidate(), part.fold_G[table.group_of_candidate()]
    folds = range(head_kind.settings.num_folds)
    training, fit, left_out = fit_part(part, table, head_kind, head_prior, folds)
    personal_N = head_kind.scores(table.features_ND, part.offsets_N, user_N, fit.codes_UR)
    for fold, codes_UR in zip(folds, left_out, strict=True):
        rows = fold_N == fold
        personal_N[rows] = head_kind.scores(table.features_ND[rows], part.offsets_N[rows], user_N[rows], codes_UR)
    require_finite(personal_N)
    losses_G = group_losses(training, personal_N[table.has_target()[table.group_of_candidate()]])
    return TrialPart(
        user_ids=part.user_ids,
        is_new_U=part.is_new_U,
        loss_sums_U=np.bincount(training.user_of_group(), losses_G, minlength=table.num_users).astype(np.float64),
        num_groups_U=np.diff(training.user_starts),
        fit=fit,
        personal_N=personal_N,
    )


def inputs_of(part: ProjectedPart, head_kind: HeadKind, head_prior: HeadPrior) -> GroupTable:
    """Return the candidates of `part` with the head kind's inputs as features."""
    return replace(part.table, features_ND=head_kind.inputs(part, head_prior))


def fit_part(
    part: ProjectedPart,
    table: GroupTable,
    head_kind: HeadKind,
    head_prior: HeadPrior,
    folds: Sequence[int],
) -> tuple[GroupTable, Fit, list[Floats]]:
    """Return the groups with a target, the codes of all users, and the codes fitted without each of `folds`.

    Args:
        table: candidates with the head kind's inputs as features.
    """
    is_learned_G = head_kind.learned_groups(table)
    learned, offsets_N = table.select(is_learned_G), part.offsets_N[is_learned_G[table.group_of_candidate()]]
    found = head_kind.fit(learned, offsets_N, head_prior, part.fold_G[is_learned_G], folds)
    return table.select(table.has_target()), *found


def write_trial(
    location: str, parts: Iterable[ProjectedPart], head_kind: HeadKind, head_prior: HeadPrior
) -> dict[str, float]:
    """Run the trial row group by row group and commit it; return its counters, the cohorts' held-out losses and numbers
    of groups.
    """
    counters = {f"{cohort}.{name}": 0.0 for cohort in COHORTS for name in ("loss", "groups")}

    def tables() -> Iterator[pa.Table]:
        for part in parts:
            trial = run_trial(part, head_kind, head_prior)
            for is_new, cohort in enumerate(COHORTS):
                rows = trial.is_new_U == bool(is_new)
                counters[f"{cohort}.loss"] += float(trial.loss_sums_U[rows].sum())
                counters[f"{cohort}.groups"] += float(trial.num_groups_U[rows].sum())
            yield _rows(trial, np.bincount(part.table.user_of_candidate(), minlength=part.table.num_users))

    storage.write_row_groups(location, _SCHEMA, tables(), counters)
    return counters


def read_trial(location: str) -> Iterator[TrialPart]:
    """Yield the trial's part at `location`, a row group at a time.

    Raises:
        StorageError: there is none.
    """
    for table in storage.read_row_groups(location, _SCHEMA):
        yield TrialPart(
            user_ids=table["user_id"].to_pylist(),
            is_new_U=table["is_new"].to_numpy().astype(bool),
            loss_sums_U=table["loss_sum"].to_numpy(),
            num_groups_U=table["num_groups"].to_numpy(),
            fit=Fit(
                codes_UR=rows_of(flat_values(table, "code"), table.num_rows),
                precisions_UR=rows_of(flat_values(table, "precision"), table.num_rows),
            ),
            personal_N=flat_values(table, "personal"),
        )


def _rows(trial: TrialPart, candidates_U: Ints) -> pa.Table:
    def codes(values_UR: Floats) -> pa.Array:
        return lists_of(values_UR.ravel(), np.full(len(values_UR), values_UR.shape[1]), pa.float32())

    columns = [
        pa.array(trial.user_ids, pa.string()),
        pa.array(trial.is_new_U),
        pa.array(trial.loss_sums_U, pa.float64()),
        pa.array(trial.num_groups_U, pa.int64()),
        codes(trial.fit.codes_UR),
        codes(trial.fit.precisions_UR),
        lists_of(trial.personal_N, candidates_U, pa.float32()),
    ]
    return pa.Table.from_arrays(columns, schema=_SCHEMA)
