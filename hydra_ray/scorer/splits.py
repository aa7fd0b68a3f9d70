"""Splits of users: new in a fold, or held out of base training.

Shape suffixes: U users.
"""

import pyarrow as pa

from hydra_ray.scorer.linear.groups import Bools
from hydra_ray.seeds import seed_of


def is_new_in(part: pa.Table, fold: int | None) -> Bools:
    """Return a mask of the users of a table (columns `is_new`, `fold`) who are new in a fold of a cross-fitted run."""
    is_new_U = part["is_new"].to_numpy().astype(bool)
    return is_new_U if fold is None else is_new_U | (part["fold"].to_numpy() == fold)


def is_holdout(user_id: str, seed: int, fraction: float) -> bool:
    """Return whether a training user is held out of base training for validation."""
    return seed_of(seed, "holdout", user_id) < fraction * 2**63
