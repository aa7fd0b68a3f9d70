"""Frozen features of every candidate, computed once by a base and stored.

A row of the features table is a user; its groups and candidates are flat lists, so that a part becomes a few arrays
without a Python object for each candidate.

Shape suffixes: U users, G groups, N candidates, D features, H width of history vectors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hydra_ray import storage
from hydra_ray.rows import Group, UserExamples, arrow_list, arrow_schema, from_table
from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.heads.columns import flat_values, list_lengths, require_finite, rows_of
from hydra_ray.scorer.heads.store import BASE_KEY
from hydra_ray.scorer.linear.groups import TARGET_SHARPNESS, Bools, Floats, GroupTable, Ints, starts_of
from hydra_ray.scorer.splits import is_holdout, is_new_in
from hydra_ray.seeds import seed_of

if TYPE_CHECKING:
    from hydra_ray.scorer.base.model import Base

WIDTHS_KEY = b"hydra_ray.widths"
"""Key in the schema metadata: numbers of learned and of handcrafted features of a candidate."""
ROW_GROUP_USERS = 500
"""Largest number of users in a row group, which is what is in memory at once. A bucket's users are in the same row
groups of all tables that are made of its features, so that these can be read in parallel.
"""


SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("is_new", pa.bool_(), nullable=False),
        pa.field("fold", pa.int64()),
        # As many numbers for each group.
        pa.field("history", arrow_list(pa.float32()), nullable=False),
        # True if the base was trained on no group of the user.
        pa.field("is_unseen", pa.bool_(), nullable=False),
        # One element for each group.
        pa.field("group_ids", arrow_list(pa.string()), nullable=False),
        pa.field("query_ids", arrow_list(pa.string()), nullable=False),
        pa.field("variants", arrow_list(pa.string()), nullable=False),
        pa.field("is_pseudo", arrow_list(pa.bool_()), nullable=False),
        pa.field("num_candidates", arrow_list(pa.int32()), nullable=False),
        # One element for each candidate; `features` has num_features for each.
        pa.field("candidate_ids", arrow_list(pa.string()), nullable=False),
        pa.field("qualities", arrow_list(pa.float32(), nullable=True), nullable=False),
        pa.field("features", arrow_list(pa.float32()), nullable=False),
    ]
)


NAMES = ["group_ids", "query_ids", "variants", "is_pseudo", "num_candidates", "candidate_ids"]
"""Columns that identify the candidates; all other tables of candidates are aligned to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePart:
    """Row group of the features table. Key: user_ids, sorted."""

    user_ids: list[str]
    is_new_U: Bools
    """Users who are new in the fold that the part was read for."""
    is_unseen_U: Bools
    histories_GH: Floats
    """Encoder's mean vector of the records that may be used for each group's query; of width 0 where unknown."""
    names: pa.Table
    """Columns NAMES of SCHEMA."""
    query_ids: list[str]
    is_pseudo_G: Bools
    is_known_G: Bools
    """Groups of which every candidate's quality is known; never a new user's evaluated query."""
    table: GroupTable
    num_learned: int
    base_fingerprint: str


class FeatureWriter:
    """Writer of the features tables; one in each worker, since it loads the bases."""

    def __init__(
        self, examples: Stage, base: Stage, stage: Stage, base_names: Sequence[str], num_gpus: float = 0
    ) -> None:
        """Load the bases.

        Args:
            examples: stage with the table "examples".
            base: stage with the bases `base_names`.
            stage: destination of a table of features for each base.
            num_gpus: Ray GPUs that the worker reserves.
        """
        from hydra_ray.scorer.base.encoder import device_of
        from hydra_ray.scorer.base.model import load_base, share_cache

        self._examples, self._stage = examples, stage
        device = device_of(num_gpus)
        self._bases = {name: load_base(storage.join(base.folder, name), device) for name in base_names}
        self._cache = share_cache([base for base, _ in self._bases.values()])

    def __call__(self, bucket: int) -> dict[str, float]:
        """Compute and commit the bucket's missing parts, some users at a time; return the counters of a part."""
        part = storage.read_part(self._examples.part("examples", bucket), arrow_schema(UserExamples))
        users = sorted(from_table(part, UserExamples), key=lambda user: user.user_id)
        counters: dict[str, float] = {
            "rows": len(users),
            "groups": sum(len(user.groups) for user in users),
            "candidates": sum(len(group.candidates) for user in users for group in user.groups),
        }
        try:
            for name, (base, description) in self._bases.items():
                location = self._stage.part(features_table(name), bucket)
                # Of a single table it is known that the part is missing.
                if len(self._bases) == 1 or not storage.exists(location):
                    storage.write_row_groups(
                        location, _schema(base, description), _tables_of(base, description, users), counters
                    )
        finally:
            self._cache.clear()
        return counters


def _schema(base: "Base", description: Mapping[str, Any]) -> pa.Schema:
    widths = f"{base.shape.width} {len(base.shape.handcrafted_names)}"
    return SCHEMA.with_metadata({BASE_KEY: description["fingerprint"].encode(), WIDTHS_KEY: widths.encode()})


def _tables_of(base: "Base", description: dict[str, Any], users: Sequence[UserExamples]) -> Iterator[pa.Table]:
    """Yield the row groups of the users' features."""
    for own in map(users.__getitem__, row_group_slices(len(users))):
        features = _features(base, [group for user in own for group in user.groups])
        rows = list(_rows(own, features, description))
        yield pa.Table.from_pylist(rows, schema=_schema(base, description))


def _features(base: "Base", groups: Sequence[Group]) -> Floats:
    """Return the features of all candidates of `groups` (N, D), in order."""
    import torch

    queries = [group.query for group in groups for _ in group.candidates]
    candidates = [candidate.text for group in groups for candidate in group.candidates]
    plain = [candidate.plain for group in groups for candidate in group.candidates]
    if not plain:
        return np.zeros((0, base.num_features), np.float32)
    with torch.inference_mode():
        learned = base.learned_features(queries, candidates)
        return torch.cat([learned, base.plain_features(torch.tensor(plain))], dim=1).cpu().numpy()


def features_table(base_name: str) -> str:
    """Return the name of the table of a base's features."""
    return f"features/{base_name}"


def row_group_slices(num_users: int) -> list[slice]:
    """Return which of a bucket's users are in which row group: nearly equal numbers, in at least one row group."""
    num_groups = max(1, -(-num_users // ROW_GROUP_USERS))
    bounds = [num_users * place // num_groups for place in range(num_groups + 1)]
    return [slice(*own) for own in pairwise(bounds)]


def read_features(location: str, fold: int, *, has_soft_targets: bool) -> Iterator[FeaturePart]:
    """Yield the row groups of a part of a features table, without the qualities of the queries that `fold` evaluates.

    Args:
        has_soft_targets: see `target_distributions`.

    Raises:
        StorageError: the part is missing or of another schema.
        FeatureError: features are NaN or infinite.
    """
    for table in _tables(location):
        yield _feature_part(table, table.schema.metadata, fold, has_soft_targets)


def sample_training_users(
    locations: Sequence[str], num_users: int, seed: int, fold: int, *, has_soft_targets: bool
) -> FeaturePart:
    """Sample at most `num_users` training users of a fold, by a hash of their ids; one row group is read at a time.

    Raises:
        StorageError: a part is missing or of another schema.
        FeatureError: features are NaN or infinite.
    """
    kept, kept_ranks, metadata = SCHEMA.empty_table(), np.zeros(0, np.int64), {}
    for table in chain.from_iterable(map(_tables, locations)):
        metadata = table.schema.metadata
        own = table.filter(pa.array(~is_new_in(table, fold))).replace_schema_metadata(None)
        own_ranks = np.array([seed_of(seed, "prior", user_id) for user_id in own["user_id"].to_pylist()], np.int64)
        ranks = np.concatenate([kept_ranks, own_ranks])
        chosen = np.argsort(ranks)[:num_users]
        if (chosen >= len(kept_ranks)).any():
            kept, kept_ranks = pa.concat_tables([kept, own]).take(chosen), ranks[chosen]
    return _feature_part(kept, metadata, fold, has_soft_targets)


def target_distributions(qualities_N: Floats, group_starts: Ints, *, has_soft_targets: bool) -> tuple[Floats, Bools]:
    """Return the target distributions of all groups (see `target_distribution`), and a mask of the groups whose
    qualities are all known.

    Args:
        qualities_N: NaN where unknown.
    """
    lengths = np.diff(group_starts)
    is_known_G, targets_N = lengths > 0, np.zeros(len(qualities_N))
    if not len(qualities_N):
        return targets_N, is_known_G
    starts, lengths = group_starts[:-1][is_known_G], lengths[is_known_G]
    # NaN propagates through both.
    best, worst = np.maximum.reduceat(qualities_N, starts), np.minimum.reduceat(qualities_N, starts)
    is_known_G[is_known_G] = ~np.isnan(best)
    distances_N = qualities_N - np.repeat(best, lengths)
    shares_N = np.exp(distances_N * TARGET_SHARPNESS) if has_soft_targets else (distances_N == 0).astype(np.float64)
    sums_N = np.repeat(np.add.reduceat(shares_N, starts), lengths)
    return np.divide(shares_N, sums_N, out=targets_N, where=np.repeat(best > worst, lengths)), is_known_G


def _tables(location: str) -> Iterator[pa.Table]:
    for table in storage.read_row_groups(location, SCHEMA):
        require_finite(table, ("history", "features"), location)
        yield table


def _rows(users: Sequence[UserExamples], features: Floats, description: dict[str, Any]) -> Iterator[dict[str, Any]]:
    start = 0
    for user in users:
        candidates = list(chain.from_iterable(group.candidates for group in user.groups))
        own = features[start : start + len(candidates)]
        start += len(candidates)
        yield {
            "user_id": user.user_id,
            "is_new": user.is_new,
            "fold": user.fold,
            "history": user.history,
            "is_unseen": (
                user.is_new
                or user.fold == description["fold"] is not None
                or description["training"]["best_epoch"] == 0
                or is_holdout(user.user_id, description["seed"], description["holdout_fraction"])
            ),
            "group_ids": [group.group_id for group in user.groups],
            "query_ids": [group.query_id for group in user.groups],
            "variants": [group.variant for group in user.groups],
            "is_pseudo": [group.is_pseudo for group in user.groups],
            "num_candidates": [len(group.candidates) for group in user.groups],
            "candidate_ids": [candidate.candidate_id for candidate in candidates],
            "qualities": [candidate.quality for candidate in candidates],
            "features": own.ravel(),
        }


def _feature_part(part: pa.Table, metadata: Mapping[bytes, bytes], fold: int, has_soft_targets: bool) -> FeaturePart:
    num_learned, num_plain = map(int, metadata[WIDTHS_KEY].split())
    is_new_U = is_new_in(part, fold)
    lengths = flat_values(part, "num_candidates").astype(np.int64)
    group_starts, user_starts = starts_of(lengths), starts_of(list_lengths(part, "num_candidates"))
    is_pseudo_G = flat_values(part, "is_pseudo").astype(bool)
    # Qualities that must not be known are removed here, before anything can be fitted on them.
    is_hidden_G = np.repeat(is_new_U, np.diff(user_starts)) & ~is_pseudo_G
    qualities = flat_values(part, "qualities").astype(np.float64)
    qualities = np.where(np.repeat(is_hidden_G, lengths), np.nan, qualities)
    targets, is_known = target_distributions(qualities, group_starts, has_soft_targets=has_soft_targets)
    return FeaturePart(
        user_ids=part["user_id"].to_pylist(),
        is_new_U=is_new_U,
        is_unseen_U=part["is_unseen"].to_numpy().astype(bool),
        histories_GH=rows_of(flat_values(part, "history"), len(lengths)),
        query_ids=flat_values(part, "query_ids").tolist(),
        names=part.select(NAMES),
        is_pseudo_G=is_pseudo_G,
        is_known_G=is_known,
        table=GroupTable(
            features_ND=flat_values(part, "features").reshape(-1, num_learned + num_plain),
            targets_N=targets,
            qualities_N=qualities,
            group_starts=group_starts,
            user_starts=user_starts,
        ),
        num_learned=num_learned,
        base_fingerprint=metadata[BASE_KEY].decode(),
    )
