"""Features of planted users, for the tests of the scorer."""

import numpy as np
import pyarrow as pa

from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.heads.features import SCHEMA, WIDTHS_KEY
from hydra_ray.scorer.heads.store import BASE_KEY
from hydra_ray.storage import write_part

NUM_PSEUDO, NUM_CANDIDATES, WIDTH = 6, 5, 6


def user_row(user_id, rng, *, is_new, fold, deviation):
    """A user who chooses by own weights; what was chosen in the one real query a new user does not show."""
    weights = np.array([1.0, -0.5, 0.0, 0.3, 0.0, 0.8]) + deviation
    num_groups = NUM_PSEUDO + 1
    features = rng.normal(size=(num_groups, NUM_CANDIDATES, WIDTH))
    choices = (features @ weights + rng.gumbel(size=features.shape[:2])).argmax(axis=1)
    qualities = np.eye(NUM_CANDIDATES)[choices].tolist()
    if is_new:
        qualities[-1] = [None] * NUM_CANDIDATES
    return {
        "user_id": user_id,
        "is_new": is_new,
        "fold": fold,
        "history": deviation.tolist() * num_groups,
        "is_unseen": True,
        "group_ids": [f"g{group}" for group in range(num_groups)],
        "query_ids": [f"q{group}" for group in range(num_groups)],
        "variants": ["personal"] * num_groups,
        "is_pseudo": [True] * NUM_PSEUDO + [False],
        "num_candidates": [NUM_CANDIDATES] * num_groups,
        "candidate_ids": [f"c{c}" for _ in range(num_groups) for c in range(NUM_CANDIDATES)],
        "qualities": [quality for group in qualities for quality in group],
        "features": features.ravel().tolist(),
        "hidden_choice": int(choices[-1]),
    }


def plant(root, *, num_buckets=2, num_training=40, num_new=40, num_folds=None, spread=1.5, base="base0", num_learned=2):
    """Features of planted users; returns the stage and what the users choose in their real query.

    Args:
        num_folds: training users are evaluated in one of so many folds.
    """
    rng = np.random.default_rng(0)
    stage = Stage(name="planted.features", fingerprint="f" * 16, root=str(root), num_buckets=num_buckets)
    rows = [[] for _ in range(num_buckets)]
    for user in range(num_training + num_new):
        deviation = rng.normal(size=WIDTH) * spread
        is_new = user >= num_training
        fold = user % num_folds if num_folds and not is_new else None
        row = user_row(f"u{user:03d}", rng, is_new=is_new, fold=fold, deviation=deviation)
        rows[user % num_buckets].append(row)
    hidden = {row["user_id"]: row.pop("hidden_choice") for part in rows for row in part}
    for bucket, part in enumerate(rows):
        metadata = {BASE_KEY: base.encode(), WIDTHS_KEY: f"{num_learned} {WIDTH - num_learned}".encode()}
        table = pa.Table.from_pylist(part, schema=SCHEMA.with_metadata(metadata))
        write_part(stage.part("features/base", bucket), table)
    return stage, hidden
