"""Conversion between list columns and flat arrays, without a Python object for each row.

Shape suffixes: X list elements.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from hydra_ray.errors import FeatureError
from hydra_ray.rows import arrow_list
from hydra_ray.scorer.linear.groups import Floats, Ints, starts_of


def flat_values(table: pa.Table, name: str) -> np.ndarray:
    """Return the elements of all lists of a column, concatenated; null becomes NaN."""
    return table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)


def list_lengths(table: pa.Table, name: str) -> Ints:
    """Return the length of each row's list."""
    return table[name].combine_chunks().value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)


def lists_of(values: np.ndarray | pa.Array, lengths: Ints, element: pa.DataType, *, nullable: bool = False) -> pa.Array:
    """Build a column of lists from their concatenated elements; NaN becomes null if `nullable`."""
    elements = values if isinstance(values, pa.Array) else pa.array(values, element, from_pandas=nullable)
    offsets = pa.array(starts_of(lengths), pa.int32())
    return pa.ListArray.from_arrays(offsets, elements, type=arrow_list(element, nullable=nullable))


def require_finite(table: pa.Table, names: Sequence[str], location: str) -> None:
    """Check columns of lists of numbers.

    Raises:
        FeatureError: some are NaN or infinite; the message names the part and no user.
    """
    for name in names:
        values_X = flat_values(table, name)
        # One number tells whether all are finite, unless it overflows.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values_X.sum()):
                continue
        is_bad_X = ~np.isfinite(values_X)
        if is_bad_X.any():
            bad = np.searchsorted(starts_of(list_lengths(table, name)), np.flatnonzero(is_bad_X), side="right") - 1
            raise FeatureError(
                f"the {name} of {len(np.unique(bad))} users in {location} are NaN or infinite, expected finite numbers "
                "(the folder names the stage, the file the users' bucket). Look for a base that diverged or a "
                "handcrafted feature that divides by 0, remove the stage's folder and run again."
            )


def rows_of(values: Floats, num_rows: int) -> Floats:
    """Reshape the elements of equally long lists to a matrix with one row for each list."""
    return values.reshape(num_rows, -1) if num_rows else np.zeros((0, 0))
