"""Heads as a table: one Parquet file per bucket, sorted by user_id, with the fingerprints of base and head prior.

A file is written and read row group by row group. Because it is sorted, the statistics of user_id in its footer tell in
which row group a user is: a look-up reads one footer and one row group.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
import pyarrow as pa

from hydra_ray import storage
from hydra_ray.errors import HeadMismatchError, StorageError
from hydra_ray.rows import arrow_list, from_table
from hydra_ray.runs.stage import Stage, bucket_of
from hydra_ray.scorer.heads.columns import lists_of
from hydra_ray.scorer.linear.groups import Bools, Floats, Ints
from hydra_ray.scorer.linear.newton import Belief
from hydra_ray.scorer.linear.prior import HeadPrior, read_description

BASE_KEY = b"hydra_ray.base"
"""Key in the schema metadata: fingerprint of the base."""
PRIOR_KEY = b"hydra_ray.population"
"""Key in the schema metadata: fingerprint of the head prior."""


def projected_table(fold: int) -> str:
    """Return the name of the table of projected features in a fold; 0 where the run is not cross-fitted."""
    return f"projected/fold-{fold}"


def scores_table(fold: int) -> str:
    """Return the name of the table of all scores in a fold; 0 where the run is not cross-fitted."""
    return f"scores/fold-{fold}"


def heads_table(fold: int) -> str:
    """Return the name of the table of all heads in a fold; 0 where the run is not cross-fitted."""
    return f"heads/fold-{fold}"


def prior_folder(stage_folder: str, fold: int) -> str:
    """Return the location of a fold's head prior; 0 where the run is not cross-fitted.

    Args:
        stage_folder: folder of a stage that fits heads.
    """
    return storage.join(stage_folder, f"population-{fold}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Fingerprints of the base and prior that a code is valid for."""

    base: str
    """Fingerprint of the base."""
    head_prior: str
    """Fingerprint of the head prior."""

    def metadata(self) -> dict[bytes, bytes]:
        """Return the fingerprints as metadata of a table's schema."""
        return {BASE_KEY: self.base.encode(), PRIOR_KEY: self.head_prior.encode()}

    def require(self, metadata: Mapping[bytes, bytes] | None, location: str) -> None:
        """Check the schema metadata of the table at `location`.

        Raises:
            HeadMismatchError: it belongs to another base or head prior.
        """
        for key, kind, expected in ((BASE_KEY, "base", self.base), (PRIOR_KEY, "head prior", self.head_prior)):
            found = (metadata or {}).get(key, b"").decode()
            if found != expected:
                raise HeadMismatchError(
                    f"{location} belongs to the {kind} {found or '(unknown)'}, expected {expected}: its numbers are "
                    f"not valid for another {kind}. Fit heads for this {kind}, or use the one they were fitted for."
                )


def lineage_of(head_prior: HeadPrior) -> Lineage:
    """Return the fingerprints of a stored head prior and its base."""
    return Lineage(base=head_prior.base_fingerprint, head_prior=head_prior.fingerprint)


def read_lineage(folder: str) -> Lineage:
    """Return the fingerprints of the head prior in `folder` and its base.

    Raises:
        StorageError: there is no head prior.
    """
    description = read_description(folder)
    return Lineage(base=description["base_fingerprint"], head_prior=description["fingerprint"])


@dataclass(frozen=True, slots=True, kw_only=True)
class UserHead:
    """A user's own head. Key: user_id."""

    user_id: str
    is_new: bool
    configuration: str
    """Name of the head kind with the lowest shrunk held-out loss."""
    code: tuple[float, ...]
    """Parameters that the head kind adds to the shared heads; empty where it adds none."""
    precision: tuple[float, ...]
    """Posterior precision of each number of the code, in units of the head prior's (see `Belief`): with it new history
    updates the head without the old history. Empty where the kind has no posterior.
    """
    num_groups: int
    """Number of groups that the code was fitted on."""
    held_out_losses: tuple[float, ...]
    """Mean held-out loss of each head kind, in the order of the run's kinds; empty where nothing was held out."""


HEADS_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("is_new", pa.bool_(), nullable=False),
        pa.field("configuration", pa.string(), nullable=False),
        pa.field("code", arrow_list(pa.float32()), nullable=False),
        pa.field("precision", arrow_list(pa.float16()), nullable=False),
        pa.field("num_groups", pa.int32(), nullable=False),
        pa.field("held_out_losses", arrow_list(pa.float32()), nullable=False),
    ]
)


def own_rows(
    user_ids: Sequence[str],
    is_new_U: Bools,
    name: str,
    belief: Belief,
    num_groups_U: Ints,
    losses_UK: Floats,
) -> pa.Table:
    """Return rows of the heads table (HEADS_SCHEMA) of users who all have one kind of head.

    Args:
        name: name of the head kind.
        belief: codes and their precisions.
        num_groups_U: number of records that each code was fitted to.
        losses_UK: mean held-out losses, without and with the own head.
    """
    num_users, width = belief.codes_UR.shape
    precisions_UR = np.minimum(belief.precisions_UR, np.finfo(np.float16).max)
    columns = [
        pa.array(user_ids, pa.string()),
        pa.array(is_new_U, pa.bool_()),
        pa.array([name] * num_users, pa.string()),
        lists_of(belief.codes_UR.ravel(), np.full(num_users, width), pa.float32()),
        lists_of(precisions_UR.ravel().astype(np.float16), np.full(num_users, width), pa.float16()),
        pa.array(num_groups_U, pa.int32()),
        lists_of(losses_UK.ravel(), np.full(num_users, losses_UK.shape[1]), pa.float32()),
    ]
    return pa.Table.from_arrays(columns, schema=HEADS_SCHEMA)


def write_heads(location: str, tables: Iterable[pa.Table], lineage: Lineage, counters: Mapping[str, float]) -> None:
    """Write one bucket's heads, one row group for each table of HEADS_SCHEMA.

    Args:
        counters: read after the last table.

    Raises:
        StorageError: users are not sorted by user_id, or occur twice.
    """
    schema = HEADS_SCHEMA.with_metadata(lineage.metadata())
    storage.write_row_groups(location, schema, _in_order(tables, location), counters)


def read_heads(location: str, lineage: Lineage) -> Iterator[pa.Table]:
    """Yield one bucket's heads, a row group (HEADS_SCHEMA) at a time, sorted by user_id.

    Raises:
        StorageError: there are none, they are not sorted, or a user occurs twice.
        HeadMismatchError: they belong to another base or head prior.
    """
    return _read(location, lineage, lambda file: range(file.num_row_groups))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadStore:
    """All heads of one fold, for look-up by user."""

    stage: Stage
    """Stage that fitted the heads."""
    fold: int
    """Fold of a cross-fitted run; 0 in other runs."""
    bucket_key: str
    """Key of the hash that assigns users to buckets."""
    lineage: Lineage
    """Fingerprints of the base and prior that the heads are used with."""

    def read_head(self, user_id: str) -> UserHead | None:
        """Return a user's head, or None where the user has none.

        Raises:
            StorageError: the user's bucket is missing or damaged.
            HeadMismatchError: the heads belong to another base or head prior.
        """
        bucket = bucket_of(user_id, self.stage.num_buckets, self.bucket_key)
        for table in self._read_bucket(bucket, [user_id]):
            # A list is searched: the first array that Arrow makes of Python objects imports pandas, which takes longer
            # than all the rest.
            user_ids = table["user_id"].to_pylist()
            if user_id in user_ids:
                return next(from_table(table.slice(user_ids.index(user_id), 1), UserHead))
        return None

    def read_heads_of(self, user_ids: Sequence[str]) -> pa.Table:
        """Return the heads (HEADS_SCHEMA) of many users, such as those of a streamed block, in the order of `user_ids`;
        users without a head are left out.

        Raises:
            StorageError: a bucket is missing or damaged.
            HeadMismatchError: the heads belong to another base or head prior.
        """
        by_bucket: dict[int, list[str]] = {}
        for user_id in user_ids:
            bucket = bucket_of(user_id, self.stage.num_buckets, self.bucket_key)
            by_bucket.setdefault(bucket, []).append(user_id)
        tables = chain.from_iterable(self._read_bucket(bucket, own) for bucket, own in by_bucket.items())
        found = pa.concat_tables([HEADS_SCHEMA.empty_table(), *tables])
        places = {user_id: place for place, user_id in enumerate(found["user_id"].to_pylist())}
        return found.take(np.array([places[user_id] for user_id in user_ids if user_id in places], np.int64))

    def _read_bucket(self, bucket: int, user_ids: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the row groups of a bucket that may contain the users."""
        location = self.stage.part(heads_table(self.fold), bucket)
        tables = _read(location, self.lineage, lambda file: row_groups_of(file, user_ids, location))
        return (table.replace_schema_metadata(None) for table in tables)


def _read(location: str, lineage: Lineage, choose: Callable[[storage.Part], Sequence[int]]) -> Iterator[pa.Table]:
    def checked(file: storage.Part) -> Sequence[int]:
        lineage.require(file.schema_arrow.metadata, location)
        return choose(file)

    return _in_order(storage.read_row_groups(location, HEADS_SCHEMA, choose=checked), location)


def row_groups_of(file: storage.Part, user_ids: Sequence[str], location: str) -> Sequence[int]:
    """Return the row groups whose statistics admit any of the users."""
    found = [(place, file.metadata.row_group(place).column(0).statistics) for place in range(file.num_row_groups)]
    # A row group without rows, as where everybody of it was forgotten, has none.
    bounds = [(place, each.min, each.max) for place, each in found if each is not None and each.has_min_max]
    _require_ascending(((last, first) for (_, _, last), (_, first, _) in pairwise(bounds)), location)
    firsts = [first for _, first, _ in bounds]
    places = {bisect_right(firsts, user_id) - 1 for user_id in user_ids} - {-1}
    return [bounds[place][0] for place in sorted(places)]


def _in_order(tables: Iterable[pa.Table], location: str) -> Iterator[pa.Table]:
    """Yield the same tables; raise an error if their users are not sorted or one occurs twice."""
    last: list[str] = []
    for table in tables:
        user_ids = last + table["user_id"].to_pylist()
        _require_ascending(pairwise(user_ids), location)
        last = user_ids[-1:]
        yield table


def _require_ascending(neighbours: Iterable[tuple[str, str]], location: str) -> None:
    if any(first >= second for first, second in neighbours):
        raise StorageError(
            f"the heads in {location} are not sorted by user_id, or a user occurs twice: a look-up would miss "
            "users. Remove the part and run again."
        )
