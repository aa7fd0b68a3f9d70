"""Ray Datasets as Arrow tables, and back."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from ray.data import Dataset


def tables_of(dataset: "Dataset") -> Iterator[pa.Table]:
    """Yield the rows of a dataset block by block, so that memory does not grow with it."""
    return iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))


def dataset_of(tables: Iterable[pa.Table]) -> "Dataset":
    """Return tables, at least one, as a dataset, each a block in Ray's object store."""
    import ray.data

    return ray.data.from_arrow(list(tables))
