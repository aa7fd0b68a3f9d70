"""Heads as a table: one Parquet file a bucket, sorted by user_id, with the fingerprint of the base they belong to."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from hydra_ray import storage
from hydra_ray.errors import HeadMismatchError
from hydra_ray.records import arrow_list

BASE_KEY = b"hydra_ray.base"
"""Key in the schema metadata: fingerprint of the base."""
POPULATION_KEY = b"hydra_ray.population"
"""Key in the schema metadata: fingerprint of the shared head, basis and priors."""


def scores_table(fold: int) -> str:
    """Name of the table of all scores in a fold; 0 where the run is not cross-fitted."""
    return f"scores/fold-{fold}"


def heads_table(fold: int) -> str:
    """Name of the table of all heads in a fold; 0 where the run is not cross-fitted."""
    return f"heads/fold-{fold}"


def population_folder(stage_folder: str, fold: int) -> str:
    """Location of what training users teach in a fold; 0 where the run is not cross-fitted.

    Args:
        stage_folder: of a stage of heads.
    """
    return storage.join(stage_folder, f"population-{fold}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UserHead:
    """A user's own head. Key: user_id."""

    user_id: str
    is_new: bool
    configuration: str
    """Name of the head configuration that held-out history chose."""
    code: tuple[float, ...]
    """What the configuration adds to the shared head; empty for the shared head itself."""
    num_groups: int
    """Groups that the code was fitted on."""
    held_out_losses: tuple[float, ...]
    """Mean held-out loss of each configuration, in the order of the run's configurations; empty without groups."""


_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("is_new", pa.bool_(), nullable=False),
        pa.field("configuration", pa.string(), nullable=False),
        pa.field("code", arrow_list(pa.float32()), nullable=False),
        pa.field("num_groups", pa.int64(), nullable=False),
        pa.field("held_out_losses", arrow_list(pa.float32()), nullable=False),
    ]
)


def write_heads(
    location: str,
    heads: Sequence[UserHead],
    base_fingerprint: str,
    population_fingerprint: str,
    counters: dict[str, float],
) -> None:
    """Store one bucket's heads, sorted by user_id."""
    columns = {
        name: [getattr(head, name) for head in sorted(heads, key=lambda head: head.user_id)] for name in _SCHEMA.names
    }
    metadata = {BASE_KEY: base_fingerprint.encode(), POPULATION_KEY: population_fingerprint.encode()}
    storage.write_part(location, pa.table(columns, schema=_SCHEMA.with_metadata(metadata)), counters)


def read_heads(location: str, base_fingerprint: str) -> list[UserHead]:
    """One bucket's heads, sorted by user_id.

    Raises:
        StorageError: there are none.
        HeadMismatchError: they were fitted on features of another base.
    """
    table = storage.read_part(location, _SCHEMA)
    found = (table.schema.metadata or {}).get(BASE_KEY, b"").decode()
    if found != base_fingerprint:
        raise HeadMismatchError(
            f"the heads in {location} belong to the base {found or '(unknown)'}, expected {base_fingerprint}: their "
            "codes mean nothing for other features. Fit heads on this base's features."
        )
    return [
        UserHead(**{**row, "code": tuple(row["code"]), "held_out_losses": tuple(row["held_out_losses"])})
        for row in table.to_pylist()
    ]
