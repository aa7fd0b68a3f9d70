"""Simulated users for the benchmark of heads: raw features on disk, as a base leaves them, or projected ones, as the
stage of heads leaves them.

Shape suffixes: U users, N candidates, D raw features, R code width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from hydra_ray import storage
from hydra_ray.config import HeadsConfig
from hydra_ray.runs.stage import Stage, bucket_of
from hydra_ray.scorer.heads.columns import lists_of
from hydra_ray.scorer.heads.features import SCHEMA as RAW_SCHEMA
from hydra_ray.scorer.heads.features import WIDTHS_KEY, row_group_slices
from hydra_ray.scorer.heads.kinds import HeadKind
from hydra_ray.scorer.heads.projection import SCHEMA, write_projected
from hydra_ray.scorer.heads.store import BASE_KEY, Lineage, heads_table, projected_table
from hydra_ray.scorer.heads.tasks import HeadJob, fit_projected, make_projected
from hydra_ray.scorer.linear.groups import Floats, GroupTable, Ints
from hydra_ray.scorer.linear.prior import HeadPrior, read_prior
from hydra_ray.scorer.linear.shared import SharedHead

LINEAGE = Lineage(base="benchmark", head_prior="benchmark")
BUCKET_KEY = "benchmark"
NUM_LEARNED, NUM_PLAIN = 64, 12
"""Numbers of raw features of a candidate: those that a base has learned, and those that are counted."""
LARGEST_VARIANCE = 0.1
"""Largest prior variance of a code, about as in real sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a user's data."""

    num_examples: int
    num_candidates: int
    """Number of candidates of one query."""
    rank: int

    def variances(self) -> Floats:
        """Return the prior variances (R), decreasing like eigenvalues."""
        return LARGEST_VARIANCE / np.sqrt(np.arange(1, self.rank + 1))


def simulated(num_users: int, shape: Shape, seed: int) -> GroupTable:
    """Simulate users who choose among the candidates of each query by a softmax of their own code."""
    rng = np.random.default_rng(seed)
    num_rows = num_users * shape.num_examples
    inputs = rng.standard_normal((num_rows, shape.rank), np.float32)
    codes = rng.standard_normal((num_users, shape.rank)) * np.sqrt(shape.variances())
    scores = np.einsum("unr,ur->un", inputs.reshape(num_users, -1, shape.rank), codes.astype(np.float32)).ravel()
    is_best = (scores + rng.gumbel(size=num_rows)).reshape(-1, shape.num_candidates)
    targets = np.eye(shape.num_candidates)[is_best.argmax(axis=1)].ravel()
    num_groups = shape.num_examples // shape.num_candidates
    return GroupTable(
        features_ND=inputs,
        targets_N=targets,
        qualities_N=targets,
        group_starts=np.arange(0, num_rows + 1, shape.num_candidates),
        user_starts=np.arange(num_users + 1) * num_groups,
    )


def stage_of(root: str, num_users: int, users_per_bucket: int) -> Stage:
    """Return the stage of `num_users` users."""
    num_buckets = max(1, round(num_users / users_per_bucket))
    return Stage(name="heads", fingerprint=str(num_users), root=root, num_buckets=num_buckets)


def ids_by_bucket(num_users: int, num_buckets: int, first: int = 0) -> list[list[str]]:
    """Return the sorted ids of all users by bucket.

    Args:
        first: number of the first user.
    """
    buckets: list[list[str]] = [[] for _ in range(num_buckets)]
    for user in range(first, first + num_users):
        user_id = f"user-{user:08d}"
        buckets[bucket_of(user_id, num_buckets, BUCKET_KEY)].append(user_id)
    return buckets


def write_bucket(stage: Stage, bucket: int, user_ids: list[str], shape: Shape) -> None:
    """Simulate one bucket's users and commit their projected features."""

    def tables() -> Iterator[pa.Table]:
        for own in row_group_slices(len(user_ids)):
            yield projected_rows(user_ids[own], shape, seed=bucket * 10**6 + own.start)

    write_projected(stage.part(projected_table(0), bucket), tables(), LINEAGE, shape.rank)


def write_raw_bucket(job: HeadJob, bucket: int, user_ids: list[str], shape: Shape) -> None:
    """Simulate one bucket's users and commit the features that a base would have made."""
    widths = {WIDTHS_KEY: f"{NUM_LEARNED} {NUM_PLAIN}".encode(), BASE_KEY: LINEAGE.base.encode()}

    def tables() -> Iterator[pa.Table]:
        for own in row_group_slices(len(user_ids)):
            yield raw_rows(user_ids[own], shape, seed=bucket * 10**6 + own.start)

    storage.write_row_groups(job.features_part(bucket), RAW_SCHEMA.with_metadata(widths), tables(), {})


def raw_rows(user_ids: list[str], shape: Shape, seed: int) -> pa.Table:
    """Return simulated rows of the table of features: the inputs of `projected_rows`, and others that mean nothing."""
    table = simulated(len(user_ids), shape, seed)
    num_others = NUM_LEARNED + NUM_PLAIN - shape.rank
    others = np.random.default_rng(seed + 1).standard_normal((len(table.targets_N), num_others), np.float32)
    features_ND = np.concatenate([table.features_ND, others], axis=1)
    users = len(user_ids)
    lengths_U = np.full(users, shape.num_examples * features_ND.shape[1])
    columns = _names_of(user_ids, table, shape) | {
        "fold": pa.nulls(users, pa.int64()),
        "is_unseen": pa.array(np.ones(users, bool)),
        "history": lists_of(np.zeros(0), np.zeros(users, np.int64), pa.float32()),
        "features": lists_of(features_ND.ravel(), lengths_U, pa.float32()),
    }
    return pa.Table.from_arrays([columns[name] for name in RAW_SCHEMA.names], schema=RAW_SCHEMA)


def projected_rows(user_ids: list[str], shape: Shape, seed: int) -> pa.Table:
    """Return simulated rows of the projected table."""
    table = simulated(len(user_ids), shape, seed)
    groups_U = np.diff(table.user_starts)
    candidates_U = np.full(len(user_ids), shape.num_examples)
    columns = _names_of(user_ids, table, shape) | {
        "folds": lists_of(_places(groups_U) % 5, groups_U, pa.int16()),
        "mixtures": lists_of(np.zeros(0), 0 * groups_U, pa.float32()),
        "shared": lists_of(np.zeros(len(table.targets_N)), candidates_U, pa.float32()),
        "added": lists_of(np.zeros(0), 0 * candidates_U, pa.float32()),
        "inputs": lists_of(table.features_ND.ravel(), candidates_U * shape.rank, pa.float32()),
    }
    return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def job_of(root: str, num_users: int, users_per_bucket: int, shape: Shape) -> HeadJob:
    """Return the job of fitting heads of `num_users` users from raw features; its prior is written."""
    stage = stage_of(root, num_users, users_per_bucket)
    job = HeadJob(
        features=replace(stage, name="features"),
        stage=stage,
        prior_heads=stage,
        config=_settings(shape),
        has_soft_targets=False,
        num_prefitted=0,
        base_name="base",
        fold=0,
    )
    prior_of(shape, NUM_LEARNED + NUM_PLAIN).write(job.prior_folder, LINEAGE.head_prior)
    return job


def fit_raw_bucket(job: HeadJob, bucket: int, shape: Shape) -> None:
    """Fit one bucket, from raw features on disk to stored heads."""
    make_projected(job, read_prior(job.prior_folder), bucket)
    fit_bucket(job.stage, bucket, shape)


def fit_bucket(stage: Stage, bucket: int, shape: Shape) -> None:
    """Fit one bucket, from projected features on disk to stored heads."""
    settings = _settings(shape)
    fit_projected(
        stage.part(projected_table(0), bucket),
        stage.part(heads_table(0), bucket),
        LINEAGE,
        HeadKind(name=f"lowrank-{shape.rank}", kind="lowrank", rank=shape.rank, settings=settings),
        prior_of(shape),
        has_soft_targets=False,
    )


def prior_of(shape: Shape, num_features: int | None = None) -> HeadPrior:
    """Return a prior with a shared head of zeros and the true variances.

    Args:
        num_features: number of raw features, of which codes read the first; as many as they read where not given.
    """
    num_features = num_features or shape.rank
    nothing = SharedHead(weights_D=np.zeros(num_features), left_out_FD=np.zeros((0, num_features)))
    return HeadPrior(
        base_fingerprint=LINEAGE.base,
        scales_D=np.ones(num_features),
        query_head=nothing,
        pseudo_head=nothing,
        basis_DR=np.eye(num_features, shape.rank),
        variances={shape.rank: shape.variances()},
        network_V=np.zeros(0),
        routed=None,
    )


def _settings(shape: Shape) -> HeadsConfig:
    return HeadsConfig(kinds=("lowrank",), ranks=(shape.rank,))


def _names_of(user_ids: list[str], table: GroupTable, shape: Shape) -> dict[str, pa.Array]:
    """Return the columns that both tables have: users, and names and qualities of their candidates."""
    groups_U = np.diff(table.user_starts)
    candidates_U = np.full(len(user_ids), shape.num_examples)
    group_ids = lists_of(pa.array([f"q{group}" for group in _places(groups_U)], pa.string()), groups_U, pa.string())
    return {
        "user_id": pa.array(user_ids, pa.string()),
        "is_new": pa.array(np.ones(len(user_ids), bool)),
        "group_ids": group_ids,
        "query_ids": group_ids,
        "variants": lists_of(pa.repeat("personal", table.num_groups), groups_U, pa.string()),
        "is_pseudo": lists_of(np.ones(table.num_groups, bool), groups_U, pa.bool_()),
        "num_candidates": lists_of(np.diff(table.group_starts), groups_U, pa.int32()),
        "candidate_ids": lists_of(
            pa.array([f"c{place}" for place in _places(candidates_U)], pa.string()), candidates_U, pa.string()
        ),
        "qualities": lists_of(table.qualities_N, candidates_U, pa.float32(), nullable=True),
    }


def _places(lengths_U: Ints) -> Ints:
    """Return 0, 1, 2 ... within each user."""
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(length) for length in lengths_U)])
