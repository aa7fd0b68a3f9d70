"""Selection of each user's head kind, and the scores by the selected heads: the tables "heads" and "scores".

Shape suffixes: U users, G groups, N candidates, K head kinds, R code width.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hydra_ray.errors import HeadMismatchError
from hydra_ray.rows import HEADS, ScoredUser, arrow_schema
from hydra_ray.scorer.heads.columns import flat_values, list_lengths, lists_of
from hydra_ray.scorer.heads.kinds import Fit, HeadKind
from hydra_ray.scorer.heads.projection import EVALUATED, ProjectedPart
from hydra_ray.scorer.heads.store import HEADS_SCHEMA
from hydra_ray.scorer.heads.trials import COHORTS, TrialPart
from hydra_ray.scorer.linear.groups import Bools, Floats, Ints, starts_of
from hydra_ray.scorer.linear.prior import HeadPrior

_MAX_PRECISION = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Heads of some users, ready to score."""

    chosen_U: Ints
    """Index of each user's head kind; -1 for no code."""
    codes: Sequence[Floats]
    """Codes (U, R) of each head kind; meaningful only for users with this kind."""

    def of(self, users: Ints) -> "Heads":
        """Return the same codes for other users: user u gets that of users[u]; -1 means none."""
        chosen_U = np.where(users >= 0, self.chosen_U[users], -1)
        return Heads(chosen_U=chosen_U, codes=[codes_UR[users] for codes_UR in self.codes])


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPart:
    """Scores of some users' candidates by the stored heads."""

    part: ProjectedPart
    heads: Heads
    scores: Mapping[str, Floats]
    """Score of every candidate by each of HEADS."""


def cohort_losses(counters: Sequence[Mapping[str, float]]) -> Floats:
    """Return the mean held-out losses (head kinds, cohorts).

    Args:
        counters: sums of the counters of each head kind's parts.
    """
    return np.array(
        [[each[f"{cohort}.loss"] / max(each[f"{cohort}.groups"], 1) for cohort in COHORTS] for each in counters]
    )


def choose_kinds(
    loss_sums_KU: Floats, num_groups_U: Ints, is_new_U: Bools, cohorts_K2: Floats, num_prior_groups: int
) -> Ints:
    """Return the index of each user's head kind (U): the lowest held-out loss, shrunk to the cohort's mean; the first
    of equals.

        shrunk loss = (sum of the user's losses + num_prior_groups * cohort's mean) / (num_groups + num_prior_groups)

    Args:
        num_prior_groups: pseudo-count of the cohort's mean, in groups.
    """
    means_KU = cohorts_K2[:, is_new_U.astype(int)]
    return np.argmin((loss_sums_KU + num_prior_groups * means_KU) / (num_groups_U + num_prior_groups), axis=0)


def donors(is_new_U: Bools) -> Ints:
    """Return for each user the index of the user whose head replaces the own one as a control (U).

    It is the next of the same cohort in the row group, or else the next of all; -1 where there is nobody else.
    """
    num_users = len(is_new_U)
    found = (np.arange(num_users) + 1) % num_users if num_users > 1 else np.full(num_users, -1)
    for is_new in (False, True):
        users = np.flatnonzero(is_new_U == is_new)
        if len(users) > 1:
            found[users] = np.roll(users, -1)
    return found


def head_rows(
    users: ProjectedPart | TrialPart,
    num_groups_U: Ints,
    chosen_U: Ints,
    kinds: Sequence[HeadKind],
    fits: Sequence[Fit],
    losses_UK: Floats,
) -> pa.Table:
    """Return rows of the heads table.

    Args:
        num_groups_U: number of groups that each user's code was fitted on.
        chosen_U: index of each user's head kind among `kinds`.
        fits: codes of each head kind.
        losses_UK: mean held-out losses of each head kind; of width 0 where nothing was held out.
    """
    has_groups_U = num_groups_U > 0
    precisions = [np.minimum(fit.precisions_UR, _MAX_PRECISION) for fit in fits]
    columns = {
        "user_id": pa.array(users.user_ids, pa.string()),
        "is_new": pa.array(users.is_new_U),
        "configuration": _names_of(chosen_U, kinds),
        "code": _chosen_rows(chosen_U, [fit.codes_UR for fit in fits], pa.float32()),
        "precision": _chosen_rows(chosen_U, precisions, pa.float16()),
        "num_groups": pa.array(num_groups_U, pa.int32()),
        "held_out_losses": lists_of(
            losses_UK[has_groups_U].ravel(), losses_UK.shape[1] * has_groups_U.astype(np.int64), pa.float32()
        ),
    }
    return pa.Table.from_arrays([columns[name] for name in HEADS_SCHEMA.names], schema=HEADS_SCHEMA)


def heads_of(table: pa.Table, kinds: Sequence[HeadKind]) -> Heads:
    """Return the heads in a table of HEADS_SCHEMA.

    Raises:
        HeadMismatchError: a head's kind is not among `kinds`.
    """
    names, places = table["configuration"].to_pylist(), {kind.name: place for place, kind in enumerate(kinds)}
    unknown = sorted(set(names) - places.keys())
    if unknown:
        raise HeadMismatchError(
            f"heads are of the kinds {', '.join(unknown)}, expected {', '.join(places)}: fit them with the settings "
            "that they are used with."
        )
    chosen_U = np.array([places[name] for name in names], np.int64)
    values, lengths_U = flat_values(table, "code"), list_lengths(table, "code")
    starts_U = starts_of(lengths_U)[:-1]
    codes: list[Floats] = []
    for place in range(len(kinds)):
        users = np.flatnonzero(chosen_U == place)
        codes_UR = np.zeros((table.num_rows, lengths_U[users].max(initial=0)))
        codes_UR[users] = values[starts_U[users][:, None] + np.arange(codes_UR.shape[1])]
        codes.append(codes_UR)
    return Heads(chosen_U=chosen_U, codes=codes)


def head_scores(
    part: ProjectedPart, heads: Heads, kinds: Sequence[HeadKind], head_prior: HeadPrior, offsets_N: Floats
) -> Floats:
    """Return every candidate's score by its user's head (N).

    Args:
        offsets_N: scores that codes add to.
    """
    scores_N, user_N = offsets_N.copy(), part.table.user_of_candidate()
    for place, kind in enumerate(kinds):
        rows = (heads.chosen_U == place)[user_N]
        if rows.any():
            inputs = kind.inputs(part, head_prior)[rows]
            scores_N[rows] = kind.scores(inputs, offsets_N[rows], user_N[rows], heads.codes[place])
    return scores_N


def stored_scores(
    parts: Iterable[ProjectedPart],
    heads: Iterable[pa.Table],
    kinds: Sequence[HeadKind],
    head_prior: HeadPrior,
) -> Iterator[ScoredPart]:
    """Yield every candidate's scores by the stored heads, some users at a time.

    Args:
        heads: tables of HEADS_SCHEMA with the heads of the same users.
    """
    for part, table in zip(parts, heads, strict=True):
        assert table["user_id"].to_pylist() == part.user_ids, "heads of other users"
        own = heads_of(table, kinds)
        donors_U = donors(part.is_new_U)
        scores = {
            "personal": head_scores(part, own, kinds, head_prior, part.offsets_N),
            "shared": part.shared_N,
            "shuffled": head_scores(part, own.of(donors_U), kinds, head_prior, part.lent_offsets(donors_U)),
            "routed": part.offsets_N,
        }
        yield ScoredPart(part=part, heads=own, scores=scores)


def out_of_fold_scores(scored: ScoredPart, personal_KN: Sequence[Floats]) -> Floats:
    """Return personal scores without leakage: a group that was learned from is scored by a head fitted without it (N).

    Args:
        personal_KN: out-of-fold scores of each head kind's trial.
    """
    table = scored.part.table
    chosen_N = scored.heads.chosen_U[table.user_of_candidate()]
    out_of_fold_N = np.stack(personal_KN)[chosen_N, np.arange(len(chosen_N))]
    is_evaluated_N = (scored.part.fold_G == EVALUATED)[table.group_of_candidate()]
    return np.where(is_evaluated_N, scored.scores["personal"], out_of_fold_N)


def scored_rows(
    scored: ScoredPart, names: pa.Table, scores: Mapping[str, Floats], kinds: Sequence[HeadKind]
) -> pa.Table:
    """Return rows of the scores table.

    Args:
        names: columns NAMES of the same users.
        scores: score of every candidate by each of HEADS.
    """
    part, schema = scored.part, arrow_schema(ScoredUser)
    groups = schema.field("groups").type
    candidates = groups.value_type.field("candidates").type
    lists = {name: names[name].combine_chunks().flatten() for name in names.column_names}
    by_candidate = pa.StructArray.from_arrays(
        [lists["candidate_ids"], *(pa.array(scores[head], pa.float64()) for head in HEADS)],
        fields=list(candidates.value_type),
    )
    group_starts, user_starts = (
        pa.array(starts, pa.int32()) for starts in (part.table.group_starts, part.table.user_starts)
    )
    by_group = pa.StructArray.from_arrays(
        [
            *(lists[name] for name in ("group_ids", "query_ids", "variants", "is_pseudo")),
            pa.ListArray.from_arrays(group_starts, by_candidate, type=candidates),
        ],
        fields=list(groups.value_type),
    )
    columns = [
        pa.array(part.user_ids, pa.string()),
        pa.array(part.is_new_U),
        _names_of(scored.heads.chosen_U, kinds),
        pa.ListArray.from_arrays(user_starts, by_group, type=groups),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _names_of(chosen_U: Ints, kinds: Sequence[HeadKind]) -> pa.Array:
    return pa.array([kind.name for kind in kinds], pa.string()).take(pa.array(chosen_U))


def _chosen_rows(chosen_U: Ints, values: Sequence[Floats], element: pa.DataType) -> pa.Array:
    """Build a list column from, for each user, the row of the selected array (U, R)."""
    lengths_U = np.array([each.shape[1] for each in values], np.int64)[chosen_U]
    starts_U, flat = starts_of(lengths_U)[:-1], np.zeros(lengths_U.sum())
    for place, each in enumerate(values):
        users = np.flatnonzero(chosen_U == place)
        flat[starts_U[users][:, None] + np.arange(each.shape[1])] = each[users]
    return lists_of(flat.astype(element.to_pandas_dtype()), lengths_U, element)
