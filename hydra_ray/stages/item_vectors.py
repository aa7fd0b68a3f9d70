"""Vectors of the items of users' records and queries, kept beside the users' codes: later stages and trials of a sweep
read them, and encode only what is new.

A row is a user, with the vectors in the order of the user's items and without any text: who has which text is told by
the users table alone. So a forgotten user's vectors leave with the row, and another user with the same text keeps them.

Shape suffixes: X numbers of all vectors.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from hydra_ray import storage
from hydra_ray.adapt.own_labels import items_of_user
from hydra_ray.config import Task
from hydra_ray.retrieve.dense import Vectors
from hydra_ray.rows import User, arrow_list
from hydra_ray.scorer.heads.columns import flat_values, list_lengths, lists_of
from hydra_ray.scorer.linear.groups import starts_of
from hydra_ray.stages.tables import ROWS_PER_GROUP

VECTORS = "vectors"
"""Name of the table."""
_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("vectors", arrow_list(pa.float32()), nullable=False),
    ]
)


def write_vectors(location: str, task: Task, users: Sequence[User], vectors: Vectors) -> None:
    """Commit the vectors of some users' items."""
    starts = range(0, max(len(users), 1), ROWS_PER_GROUP)
    groups = (_table(task, users[start : start + ROWS_PER_GROUP], vectors) for start in starts)
    storage.write_row_groups(location, _SCHEMA, groups, {"rows": len(users)})


def read_vectors(location: str, task: Task, users: Sequence[User]) -> Vectors:
    """Return the vectors of those items of some users that are kept; none where there is no such table."""
    table = storage.read_part_if_there(location, _SCHEMA)
    if table is None:
        return {}
    values_X, starts = flat_values(table, "vectors"), starts_of(list_lengths(table, "vectors")).tolist()
    places = {user_id: place for place, user_id in enumerate(table["user_id"].to_pylist())}
    found: dict[str, np.ndarray] = {}
    for user in users:
        items, place = items_of_user(task, user), places.get(user.user_id)
        if items and place is not None:
            own = values_X[starts[place] : starts[place + 1]].reshape(len(items), -1)
            found.update(zip(items, own, strict=True))
    return found


def _table(task: Task, users: Sequence[User], vectors: Vectors) -> pa.Table:
    items = [items_of_user(task, user) for user in users]
    rows = [vectors[item] for own in items for item in own]
    values_X = np.concatenate(rows) if rows else np.zeros(0)
    width = len(rows[0]) if rows else 0
    lengths_U = np.array([width * len(own) for own in items], np.int64)
    columns = [pa.array([user.user_id for user in users], pa.string()), lists_of(values_X, lengths_U, pa.float32())]
    return pa.Table.from_arrays(columns, schema=_SCHEMA)
