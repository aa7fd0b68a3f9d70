"""Frozen features: what a base makes of every candidate, computed once and stored.

A row of the features table is a user; its groups and candidates are flat lists, so that a part becomes a few arrays
without a Python object for each candidate.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from hydra_ray import storage
from hydra_ray.records import Group, UserExamples, arrow_list, arrow_schema, from_table
from hydra_ray.scorer.heads import Bools, Floats, GroupTable, starts_of, target_distribution
from hydra_ray.scorer.store import BASE_KEY
from hydra_ray.seeds import seed_of
from hydra_ray.stages import Stage

WIDTHS_KEY = b"hydra_ray.widths"
"""Key in the schema metadata: how many of a candidate's features come from the base, and how many are plain."""


SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("is_new", pa.bool_(), nullable=False),
        pa.field("fold", pa.int64()),
        pa.field("history", arrow_list(pa.float32()), nullable=False),
        # Whether no group of the user trained the base.
        pa.field("is_unseen", pa.bool_(), nullable=False),
        # One element a group.
        pa.field("group_ids", arrow_list(pa.string()), nullable=False),
        pa.field("query_ids", arrow_list(pa.string()), nullable=False),
        pa.field("variants", arrow_list(pa.string()), nullable=False),
        pa.field("is_pseudo", arrow_list(pa.bool_()), nullable=False),
        pa.field("num_candidates", arrow_list(pa.int32()), nullable=False),
        # One element a candidate; `features` has num_features for each.
        pa.field("candidate_ids", arrow_list(pa.string()), nullable=False),
        pa.field("qualities", arrow_list(pa.float32(), nullable=True), nullable=False),
        pa.field("features", arrow_list(pa.float32()), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePart:
    """One part of the features table, or some of its users. Key: user_ids, sorted."""

    user_ids: list[str]
    is_new_U: Bools
    """In the fold that the part was read for."""
    is_unseen_U: Bools
    histories_UH: Floats
    """What the encoder makes of each user's history; of no width where it is not known."""
    group_ids: list[str]
    query_ids: list[str]
    variants: list[str]
    is_pseudo_G: Bools
    candidate_ids: list[str]
    is_known_G: Bools
    """Whether the quality of every candidate of the group is known; so for no evaluated query of a new user."""
    table: GroupTable
    num_learned: int
    base_fingerprint: str


class FeatureWriter:
    """Computes parts of the features table; made once in each worker, since it loads the base."""

    def __init__(self, examples: Stage, base: Stage, stage: Stage, base_name: str) -> None:
        """Load the base.

        Args:
            examples: has the table "examples".
            base: has the base `base_name`.
            stage: gets the table of features of that base.
        """
        from hydra_ray.scorer.base import load_base

        self._examples, self._stage, self._base_name = examples, stage, base_name
        self._base, self._description = load_base(storage.join(base.folder, base_name))

    def __call__(self, bucket: int) -> dict[str, float]:
        """Make and commit one part; returns its counters."""
        part = storage.read_part(self._examples.part("examples", bucket), arrow_schema(UserExamples))
        users = sorted(from_table(part, UserExamples), key=lambda user: user.user_id)
        features = self._features([group for user in users for group in user.groups])
        rows = list(_rows(users, features, self._description))
        metadata = {
            BASE_KEY: self._description["fingerprint"].encode(),
            WIDTHS_KEY: f"{self._base.shape.width} {len(self._base.shape.plain_names)}".encode(),
        }
        table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))
        counters: dict[str, float] = {
            "rows": len(users),
            "groups": sum(len(u.groups) for u in users),
            "candidates": len(features),
        }
        storage.write_part(self._stage.part(features_table(self._base_name), bucket), table, counters)
        return counters

    def _features(self, groups: Sequence[Group]) -> Floats:
        """Features (N, D) of all candidates of `groups`, in order."""
        import torch

        queries = [group.query for group in groups for _ in group.candidates]
        candidates = [candidate.text for group in groups for candidate in group.candidates]
        plain = [candidate.plain for group in groups for candidate in group.candidates]
        if not plain:
            return np.zeros((0, self._base.num_features), np.float32)
        with torch.inference_mode():
            learned = self._base.learned_features(queries, candidates)
            return torch.cat([learned, self._base.plain_features(torch.tensor(plain))], dim=1).cpu().numpy()


def features_table(base_name: str) -> str:
    """Name of the table of the features that a base makes."""
    return f"features/{base_name}"


def is_new_in(part: pa.Table, fold: int | None) -> Bools:
    """Which users of a table with columns `is_new` and `fold` are new in a fold of a cross-fitted run."""
    is_new_U = part["is_new"].to_numpy().astype(bool)
    return is_new_U if fold is None else is_new_U | (part["fold"].to_numpy() == fold)


def read_features(location: str, fold: int, *, is_graded: bool) -> FeaturePart:
    """The part of a features table at `location`, without the qualities of the queries that are evaluated in `fold`.

    Args:
        is_graded: see `target_distribution`.

    Raises:
        StorageError: there is none, or it is no features table.
    """
    part = storage.read_part(location, SCHEMA)
    return _feature_part(part, part.schema.metadata, fold, is_graded)


def is_holdout(user_id: str, seed: int, fraction: float) -> bool:
    """Whether a training user is kept out of base training, to judge it."""
    return seed_of(seed, "holdout", user_id) < fraction * 2**63


def sample_training_users(
    locations: Sequence[str], num_users: int, seed: int, fold: int, *, is_graded: bool
) -> FeaturePart:
    """At most `num_users` training users of a fold, by a hash of their ids; one part is read at a time.

    Raises:
        StorageError: a part is missing, or is no part of a features table.
    """
    kept, metadata = SCHEMA.empty_table(), {}
    for location in locations:
        part = storage.read_part(location, SCHEMA)
        metadata = part.schema.metadata
        part = part.filter(pa.array(~is_new_in(part, fold))).replace_schema_metadata(None)
        kept = pa.concat_tables([kept, part])
        ranks = np.array([seed_of(seed, "prior", user_id) for user_id in kept["user_id"].to_pylist()], np.int64)
        kept = kept.take(np.argsort(ranks)[:num_users])
    return _feature_part(kept, metadata, fold, is_graded)


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


def _feature_part(part: pa.Table, metadata: Mapping[bytes, bytes], fold: int, is_graded: bool) -> FeaturePart:
    num_learned, num_plain = map(int, metadata[WIDTHS_KEY].split())
    is_new_U = is_new_in(part, fold)
    lists = {name: part[name].combine_chunks() for name in part.schema.names}
    flat = {name: array.flatten() for name, array in lists.items() if pa.types.is_list(array.type)}
    lengths = flat["num_candidates"].to_numpy(zero_copy_only=False).astype(np.int64)
    group_starts = starts_of(lengths)
    user_starts = starts_of(lists["num_candidates"].value_lengths().to_numpy(zero_copy_only=False))
    is_pseudo_G = flat["is_pseudo"].to_numpy(zero_copy_only=False).astype(bool)
    # What must not be known is forgotten here, before anything can be fitted on it.
    is_hidden_G = np.repeat(is_new_U, np.diff(user_starts)) & ~is_pseudo_G
    qualities = flat["qualities"].to_numpy(zero_copy_only=False).astype(np.float64)
    qualities = np.where(np.repeat(is_hidden_G, lengths), np.nan, qualities)
    targets, is_known = _targets(qualities, group_starts, is_graded)
    values = flat["features"].to_numpy(zero_copy_only=False)
    return FeaturePart(
        user_ids=part["user_id"].to_pylist(),
        is_new_U=is_new_U,
        is_unseen_U=part["is_unseen"].to_numpy().astype(bool),
        histories_UH=flat["history"].to_numpy(zero_copy_only=False).reshape(part.num_rows, -1)
        if part.num_rows
        else np.zeros((0, 0)),
        group_ids=flat["group_ids"].to_pylist(),
        query_ids=flat["query_ids"].to_pylist(),
        variants=flat["variants"].to_pylist(),
        is_pseudo_G=is_pseudo_G,
        candidate_ids=flat["candidate_ids"].to_pylist(),
        is_known_G=is_known,
        table=GroupTable(
            features_ND=values.reshape(-1, num_learned + num_plain),
            targets_N=targets,
            qualities_N=qualities,
            group_starts=group_starts,
            user_starts=user_starts,
        ),
        num_learned=num_learned,
        base_fingerprint=metadata[BASE_KEY].decode(),
    )


def _targets(qualities: Floats, group_starts: np.ndarray, is_graded: bool) -> tuple[Floats, Bools]:
    """Target distributions of all groups, and which groups' qualities are all known (null became NaN)."""
    targets = np.zeros(len(qualities))
    is_known = np.zeros(len(group_starts) - 1, bool)
    for group, (start, end) in enumerate(pairwise(group_starts)):
        own = qualities[start:end]
        is_known[group] = end > start and not np.isnan(own).any()
        if is_known[group]:
            targets[start:end] = target_distribution(own.tolist(), is_graded=is_graded) or 0
    return targets, is_known
