"""What the generator has answered before: kept by request, and never asked again.

Stages, runs of other settings and folds of a cross-fitted run often ask the same: the store gives them the same answer.
A bucket is a folder with one file for each stage that asked something new, so that stages never write to one file.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from hydra_ray import storage
from hydra_ray.records import Asked, Completion, Request, arrow_schema, from_table, to_table

_SUFFIX = ".parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionStore:
    """The completions of one generator for the users of one bucketing."""

    folder: str

    def read(self, bucket: int, request_ids: Collection[str]) -> dict[str, Completion]:
        """Those completions of a bucket that are there, by request_id."""
        wanted = pa.array(list(request_ids), pa.string())
        found: dict[str, Completion] = {}
        for location in self._files(bucket):
            table = storage.read_part(location, arrow_schema(Completion))
            rows = table.filter(pc.field("request_id").isin(wanted))
            found |= {row.request_id: row for row in from_table(rows, Completion)}
        return found

    def unanswered(self, bucket: int, asked: Iterable[Asked]) -> list[Request]:
        """The distinct requests of a bucket that were never answered, in the order in which they are asked."""
        requests = {each.request.request_id: each.request for each in asked}
        known = self.read(bucket, requests)
        return [request for request_id, request in requests.items() if request_id not in known]

    def has_any(self, bucket: int) -> bool:
        """Whether anything was ever asked for a bucket."""
        return bool(self._files(bucket))

    def write(self, bucket: int, name: str, completions: Iterable[Completion]) -> None:
        """Keep the completions of a bucket that one stage asked for, under a name that only it writes."""
        table = to_table(completions, Completion)
        if table.num_rows:
            storage.write_part(storage.join(self._bucket(bucket), f"{name}{_SUFFIX}"), table)

    def _files(self, bucket: int) -> list[str]:
        """Locations of a bucket's files; what is still being written has another name."""
        folder = self._bucket(bucket)
        return [storage.join(folder, name) for name in storage.list_files(folder) if name.endswith(_SUFFIX)]

    def _bucket(self, bucket: int) -> str:
        return storage.join(self.folder, f"bucket-{bucket:05d}")
