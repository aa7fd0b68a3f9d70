"""Tables of users in an export: histories without queries, and heads, each user's from the newest run that has the
user."""

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from hydra_ray import storage
from hydra_ray.rows import User, arrow_schema, from_table, to_table
from hydra_ray.scorer.heads.features import row_group_slices
from hydra_ray.scorer.heads.store import Lineage, write_heads


def write_head_rows(location: str, rows: pa.Table, lineage: Lineage) -> None:
    """Write a bucket's heads (HEADS_SCHEMA, sorted by user_id), in row groups of some hundred users."""
    groups = (rows.slice(each.start, each.stop - each.start) for each in row_group_slices(rows.num_rows))
    write_heads(location, groups, lineage, {})


def write_histories(location: str, rows: pa.Table) -> None:
    """Write a bucket's users (rows `User`, sorted by user_id) without their queries, in row groups, so that one user is
    found without reading a bucket."""
    storage.write_row_groups(location, arrow_schema(User), _histories(rows), {})


def _histories(rows: pa.Table) -> Iterator[pa.Table]:
    for each in row_group_slices(rows.num_rows):
        own = rows.slice(each.start, each.stop - each.start)
        yield to_table((replace(user, queries=()) for user in from_table(own, User)), User)
