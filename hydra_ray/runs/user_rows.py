"""Rows of a few users, read from tables that are sorted by user_id without reading everybody's."""

from bisect import bisect_left
from collections.abc import Collection, Sequence

import numpy as np

from hydra_ray import storage
from hydra_ray.rows import RowT, arrow_schema, from_table


def rows_of_users(location: str, row_type: type[RowT], user_ids: Collection[str]) -> dict[str, RowT]:
    """Return the rows of some users in a part, by user_id; users who are not in it are left out.

    Only the row groups whose statistics admit one of them are read.

    Raises:
        StorageError: the part is missing or damaged.
    """
    wanted = sorted(user_ids)
    found: dict[str, RowT] = {}
    if not wanted:
        return found
    for table in storage.read_row_groups(
        location, arrow_schema(row_type), choose=lambda file: _admitting(file, wanted)
    ):
        ids = table["user_id"].to_pylist()
        places = [place for place, user_id in enumerate(ids) if _holds(wanted, user_id)]
        rows = from_table(table.take(np.array(places, np.int64)), row_type)
        found |= {ids[place]: row for place, row in zip(places, rows, strict=True)}
    return found


def _admitting(file: storage.Part, wanted: Sequence[str]) -> list[int]:
    return [place for place in range(file.num_row_groups) if _may_hold(file, place, wanted)]


def _may_hold(file: storage.Part, place: int, wanted: Sequence[str]) -> bool:
    bounds = file.metadata.row_group(place).column(0).statistics
    if bounds is None or not bounds.has_min_max:
        return file.metadata.row_group(place).num_rows > 0
    first = bisect_left(wanted, bounds.min)
    return first < len(wanted) and wanted[first] <= bounds.max


def _holds(wanted: Sequence[str], user_id: str) -> bool:
    place = bisect_left(wanted, user_id)
    return place < len(wanted) and wanted[place] == user_id
