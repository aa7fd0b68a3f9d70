"""Projected features: the few numbers of every candidate that fitting needs.

Given the head prior, the base's full-width features x are only ever multiplied by its shared heads and its basis B. So
each bucket is projected once: per candidate the shared head's score w' x, the increments of the routed heads and B' x
for the largest rank, of which smaller ranks use the first columns; per group the mixture of the routed heads. All
fitting, selection and scoring afterwards reads these rows, a row group at a time. (Only paper heads read the full
features beside them.)

Shape suffixes: U users, G groups, N candidates, D features, E routed heads, R code width, H width of history vectors.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hydra_ray import storage
from hydra_ray.rows import arrow_list
from hydra_ray.scorer.heads import features
from hydra_ray.scorer.heads.columns import flat_values, list_lengths, lists_of, require_finite, rows_of
from hydra_ray.scorer.heads.features import NAMES, FeaturePart, target_distributions
from hydra_ray.scorer.heads.store import Lineage
from hydra_ray.scorer.linear.groups import Bools, Floats, GroupTable, Ints, starts_of
from hydra_ray.scorer.linear.prior import HeadPrior
from hydra_ray.scorer.linear.routed import routed_scores
from hydra_ray.scorer.linear.shared import user_fold
from hydra_ray.seeds import seed_of

EVALUATED = -1
"""Placeholder in place of a fold: the group's target must not be known."""
RANK_KEY = b"hydra_ray.rank"
"""Key in the schema metadata: number of inputs of a candidate."""

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("is_new", pa.bool_(), nullable=False),
        # One element for each group.
        *(features.SCHEMA.field(name) for name in NAMES if name != "candidate_ids"),
        # Folds of the user's queries, by which they are held out.
        pa.field("folds", arrow_list(pa.int16()), nullable=False),
        # For each group one number for each routed head.
        pa.field("mixtures", arrow_list(pa.float32()), nullable=False),
        # One element for each candidate; `added` has one number for each routed head, `inputs` one for each column of
        # the basis.
        features.SCHEMA.field("candidate_ids"),
        features.SCHEMA.field("qualities"),
        pa.field("shared", arrow_list(pa.float32()), nullable=False),
        pa.field("added", arrow_list(pa.float32()), nullable=False),
        pa.field("inputs", arrow_list(pa.float32()), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectedPart:
    """Row group of the projected table. Key: user_ids, sorted."""

    user_ids: list[str]
    is_new_U: Bools
    fold_G: Ints
    """Fold of each group among its user's queries that are learned from; EVALUATED for all others."""
    shared_N: Floats
    """Scores by the shared head; a training user's by one that was fitted without the user's fold."""
    mixtures_GE: Floats
    """Mixture weights of the routed heads; of width 0 where there are none."""
    added_NE: Floats
    """Increment of each routed head to the shared head's score."""
    offsets_N: Floats
    """Scores by the routed heads, to which a code adds."""
    table: GroupTable
    """Groups of the candidates, with the inputs (N, R) of low-rank codes as features."""
    features_ND: Floats
    """Features from the base if a head kind reads them, else of width 0."""

    def lent_offsets(self, donors_U: Ints) -> Floats:
        """Return scores by routed heads with the mean mixture of another user (N).

        Args:
            donors_U: index of the other user; -1 for nobody, which leaves the shared head.
        """
        mixtures_UE = np.zeros((self.table.num_users, self.mixtures_GE.shape[1]))
        np.add.at(mixtures_UE, self.table.user_of_group(), self.mixtures_GE)
        mixtures_UE /= np.maximum(np.diff(self.table.user_starts), 1)[:, None]
        lent_UE = np.where(donors_U[:, None] >= 0, mixtures_UE[donors_U], 0)
        return routed_scores(self.shared_N, self.added_NE, lent_UE[self.table.user_of_candidate()])


def project(part: FeaturePart, head_prior: HeadPrior, num_folds: int, seed: int) -> pa.Table:
    """Return rows of the projected table.

    Args:
        num_folds: number of parts of a user's history that are held out in turn.
        seed: seed of the folds.
    """
    table = part.table
    user_fold_U = user_folds(part)
    user_fold_G, user_fold_N = user_fold_U[table.user_of_group()], user_fold_U[table.user_of_candidate()]
    is_pseudo_N = part.is_pseudo_G[table.group_of_candidate()]
    shared_N = head_prior.shared_scores(table.features_ND, is_pseudo_N, user_fold_N)
    mixtures_GE, added_NE = head_prior.routes(part.histories_GH, user_fold_G, table.features_ND, user_fold_N)
    inputs_NR = table.features_ND @ head_prior.basis_DR
    groups_U = np.diff(table.user_starts)
    candidates_U = np.bincount(table.user_of_candidate(), minlength=table.num_users)
    columns = {name: part.names[name].combine_chunks() for name in NAMES} | {
        "user_id": pa.array(part.user_ids, pa.string()),
        "is_new": pa.array(part.is_new_U),
        "folds": lists_of(group_folds(part, num_folds, seed), groups_U, pa.int16()),
        "qualities": lists_of(table.qualities_N, candidates_U, pa.float32(), nullable=True),
        "mixtures": lists_of(mixtures_GE.ravel(), groups_U * mixtures_GE.shape[1], pa.float32()),
        "shared": lists_of(shared_N, candidates_U, pa.float32()),
        "added": lists_of(added_NE.ravel(), candidates_U * added_NE.shape[1], pa.float32()),
        "inputs": lists_of(inputs_NR.ravel(), candidates_U * inputs_NR.shape[1], pa.float32()),
    }
    return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def write_projected(location: str, tables: Iterable[pa.Table], lineage: Lineage, rank: int) -> None:
    """Commit a bucket's part of the projected table.

    Args:
        rank: number of inputs of a candidate.
    """
    schema = SCHEMA.with_metadata({**lineage.metadata(), RANK_KEY: str(rank).encode()})
    storage.write_row_groups(location, schema, tables, {})


def read_projected(location: str, lineage: Lineage, *, has_soft_targets: bool) -> Iterator[ProjectedPart]:
    """Yield the row groups of a bucket's part of the projected table.

    Args:
        lineage: fingerprints that the part must have.
        has_soft_targets: see `target_distributions`.

    Raises:
        StorageError: the part is missing or of another schema.
        FeatureError: its numbers are NaN or infinite.
        HeadMismatchError: it was made with another base or head prior.
    """
    numbers = ["mixtures", "shared", "added", "inputs"]
    names = ["user_id", "is_new", "num_candidates", "folds", "qualities", *numbers]
    for table in storage.read_row_groups(location, SCHEMA, names):
        lineage.require(table.schema.metadata, location)
        require_finite(table, numbers, location)
        yield _projected_part(table, has_soft_targets)


def read_names(location: str) -> Iterator[pa.Table]:
    """Yield the columns NAMES of a bucket's part of the projected table, a row group at a time."""
    return storage.read_row_groups(location, SCHEMA, NAMES)


def user_folds(part: FeaturePart) -> Ints:
    """Return the fold of each user in the cross-fitting of the shared heads (U); -1 for new users."""
    users = zip(part.user_ids, part.is_new_U.tolist(), strict=True)
    return np.array([-1 if is_new else user_fold(user_id) for user_id, is_new in users], np.int64)


def group_folds(part: FeaturePart, num_folds: int, seed: int) -> Ints:
    """Return the fold of each group among its user's queries that are learned from (G); EVALUATED for all others.

    A user's queries are assigned to the folds round-robin, in the order of a hash.
    """
    user_G = part.table.user_of_group()
    is_learned_G = part.is_pseudo_G | part.is_known_G
    assert not (part.is_new_U[user_G] & part.is_known_G & ~part.is_pseudo_G).any(), "a new user's target is known"
    groups = np.flatnonzero(is_learned_G)
    users = user_G[groups]
    ranks = np.array(
        [
            seed_of(seed, "fold", part.user_ids[user], part.query_ids[group])
            for user, group in zip(users.tolist(), groups.tolist(), strict=True)
        ],
        np.int64,
    )
    order = np.lexsort((ranks, users))
    groups, users, ranks = groups[order], users[order], ranks[order]
    # Groups of one query have the same hash, and are adjacent.
    is_first = np.append(True, (np.diff(users) != 0) | (np.diff(ranks) != 0))[: len(groups)]
    places = np.cumsum(is_first) - 1
    folds = np.full(part.table.num_groups, EVALUATED, np.int64)
    folds[groups] = (places - places[np.searchsorted(users, users)]) % num_folds
    return folds


def _projected_part(table: pa.Table, has_soft_targets: bool) -> ProjectedPart:
    rank = int((table.schema.metadata or {})[RANK_KEY])
    group_starts = starts_of(flat_values(table, "num_candidates"))
    num_candidates = int(group_starts[-1])
    qualities_N = flat_values(table, "qualities").astype(np.float64)
    targets_N, _ = target_distributions(qualities_N, group_starts, has_soft_targets=has_soft_targets)
    mixtures_GE = rows_of(flat_values(table, "mixtures"), len(group_starts) - 1)
    shared_N, added_NE = flat_values(table, "shared"), rows_of(flat_values(table, "added"), num_candidates)
    return ProjectedPart(
        user_ids=table["user_id"].to_pylist(),
        is_new_U=table["is_new"].to_numpy().astype(bool),
        fold_G=flat_values(table, "folds").astype(np.int64),
        shared_N=shared_N.astype(np.float64),
        mixtures_GE=mixtures_GE,
        added_NE=added_NE,
        offsets_N=routed_scores(
            shared_N.astype(np.float64), added_NE, np.repeat(mixtures_GE, np.diff(group_starts), axis=0)
        ),
        table=GroupTable(
            features_ND=flat_values(table, "inputs").reshape(num_candidates, rank),
            targets_N=targets_N,
            qualities_N=qualities_N,
            group_starts=group_starts,
            user_starts=starts_of(list_lengths(table, "num_candidates")),
        ),
        features_ND=np.zeros((num_candidates, 0)),
    )
