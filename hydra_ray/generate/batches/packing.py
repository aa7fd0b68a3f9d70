"""Packing of requests into batches within an endpoint's limits of lines, bytes and tokens."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hydra_ray.config import BatchConfig
from hydra_ray.errors import ConfigError
from hydra_ray.generate.batches.lines import LineForm
from hydra_ray.generate.batches.records import Load
from hydra_ray.generate.calls import expected_tokens
from hydra_ray.rows import Request

Queued = Iterable[tuple[int, Sequence[Request]]]
"""Buckets with requests."""


@dataclass(slots=True, kw_only=True)
class Package:
    """Requests of one batch by bucket."""

    load: Load = field(default_factory=Load)
    requests: dict[int, list[Request]] = field(default_factory=dict)


def packages(queued: Queued, form: LineForm) -> Iterator[Package]:
    """Yield the batches of some requests, in order; all lines of a request are in one batch.

    Raises:
        ConfigError: a single request is larger than a file may be.
    """
    batch, current = form.batch, Package()
    for bucket, requests in queued:
        for request in requests:
            load = load_of(request, form, sum(map(len, form.lines(bucket, request))))
            if not load.fits(batch):
                raise ConfigError(
                    f"a request of bucket {bucket} has {load.num_lines} lines of {load.num_bytes} bytes together, and "
                    f"generator.batch allows {batch.max_requests_per_file} lines and {batch.max_file_bytes} bytes a "
                    "file: raise max_requests_per_file and max_file_bytes"
                )
            if current.requests and not _takes(current.load + load, batch):
                yield current
                current = Package()
            current.load += load
            current.requests.setdefault(bucket, []).append(request)
    if current.requests:
        yield current


def load_of(request: Request, form: LineForm, num_bytes: int = 0) -> Load:
    """Return the load of all lines of a request: its prompt counts once a line."""
    num_lines = sum(1 for _ in form.chunks(request))
    return Load(
        num_lines=num_lines,
        num_bytes=num_bytes,
        prompt_tokens=num_lines * expected_tokens(request, 0),
        most_tokens=request.num_samples * request.max_tokens,
    )


def _takes(load: Load, batch: BatchConfig) -> bool:
    """Return whether a batch may be as large, so that it can be enqueued alone."""
    return load.fits(batch) and (batch.max_enqueued_tokens is None or load.prompt_tokens <= batch.max_enqueued_tokens)
