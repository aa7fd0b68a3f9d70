"""A million users on 64 GPUs, on paper and by simulation: requests, bytes, hours, money, and where it stops.

    python benchmarks/scale.py [--users 1000000] [--gpus 64]

Writes scale.md among the documents, from what the other benchmarks measured (benchmarks/results: scaling,
store_requests), from the engine that the benchmark of a simulated GPU assumes, and from prices. A cluster is simulated,
part by part: each part is begun and committed by the driver, whose requests to the store take their time, and answered
by one of the copies, which are lost now and then.
"""

import heapq
import sys
import textwrap
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench import RESULTS, kept

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What was measured; of one user where nothing else is said."""

    requests: float
    prompt_tokens: float
    generated_tokens: float
    stored_bytes: float
    cpu_seconds: float
    """CPU seconds beside the models."""
    store_requests: float
    """Requests to the store of one bucket."""
    in_sequence: float
    """Of these, the driver's that follow each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What is not measured here: a GPU, a cluster, prices in dollars."""

    num_users: int = 1_000_000
    num_gpus: int = 64
    users_per_bucket: int = 250
    cores_per_gpu: int = 8
    prefill_tokens_per_second: float = 60_000.0
    step_seconds: float = 0.008
    step_seconds_per_sequence: float = 0.00002
    num_slots: int = 1024
    encoder_flops_per_token: float = 2 * 10.6e6
    """Two for each weight of the encoder's layers (six, 384 wide)."""
    encoder_flops_per_second: float = 50e12
    """A twentieth of what such a GPU computes in bf16: texts are short and the encoder is narrow."""
    encoded_tokens_per_request: float = 128.0
    """Tokens that are encoded for each request: a pair of the reranker, or a draft of the adapter, once each."""
    store_seconds: float = 0.03
    """Time of a request to the store."""
    loss_per_hour: float = 0.1
    """Chance that a spot machine is lost within an hour."""
    restart_seconds: float = 120.0
    """Time until a lost copy answers again: a machine, the model from the node's disk or the store."""
    lost_seconds: float = 2.0
    """Work of a lost copy that is done again: answers are kept as they come."""
    gpu_hour: float = 2.5
    put: float = 5e-6
    get: float = 4e-7
    gigabyte_month: float = 0.023

    @property
    def num_buckets(self) -> int:
        """Return the number of parts of each table."""
        return -(-self.num_users // self.users_per_bucket)


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What the simulation of the generators finds."""

    hours: float
    busy: float
    """Share of the copies' time in which they answer."""
    num_losses: int
    driver_busy: float
    """Share of the time in which the driver waits for the store in its one line."""


def main() -> int:
    """Write the page."""
    parser = ArgumentParser(description="A million users, on paper and by simulation")
    parser.add_argument("--users", type=int, default=Assumed().num_users)
    parser.add_argument("--gpus", type=int, default=Assumed().num_gpus)
    arguments = parser.parse_args()
    PAGE.write_text(page(rates_of(kept(RESULTS)), Assumed(num_users=arguments.users, num_gpus=arguments.gpus)))
    return 0


def rates_of(results: dict[str, list[dict[str, Any]]]) -> Rates:
    """Return the measured rates.

    Raises:
        SystemExit: a benchmark has not been run.
    """
    found: dict[str, float] = {}
    for name in ("scaling", "store_requests"):
        if name not in results:
            raise SystemExit(f"no figures of {name} are kept: make bench LINES={name}")
        found |= {each["unit"]: each["value"] for each in results[name] if each["unit"]}
    return Rates(**{each.name: found[_UNITS[each.name]] for each in fields(Rates)})


_UNITS = {
    "requests": "requests",
    "prompt_tokens": "prompt tokens",
    "generated_tokens": "generated tokens",
    "stored_bytes": "stored bytes",
    "cpu_seconds": "CPU seconds beside models",
    "store_requests": "requests a bucket",
    "in_sequence": "in sequence a bucket",
}


def part_seconds(rates: Rates, assumed: Assumed) -> float:
    """Return the time in which a fed copy answers the requests of one part."""
    users, slots = assumed.users_per_bucket, assumed.num_slots
    step = assumed.step_seconds + assumed.step_seconds_per_sequence * slots
    prefill = users * rates.prompt_tokens / assumed.prefill_tokens_per_second
    return prefill + users * rates.generated_tokens * step / slots


def simulate(rates: Rates, assumed: Assumed, seed: int = 0) -> Simulated:
    """Simulate the generators of one run: parts are handed out in order, to the first copy that is free."""
    rng = np.random.default_rng(seed)
    seconds, driver_seconds = part_seconds(rates, assumed), rates.in_sequence * assumed.store_seconds
    free = [0.0] * assumed.num_gpus
    driver = busy = end = 0.0
    num_losses = 0
    for own in rng.lognormal(0.0, 0.1, assumed.num_buckets) * seconds:
        start = heapq.heappop(free)
        driver = max(driver, start) + driver_seconds
        left, now = float(own), driver
        while left > 0:
            until_lost = rng.exponential(HOUR / assumed.loss_per_hour) if assumed.loss_per_hour else np.inf
            done = min(left, until_lost)
            now, busy = now + done, busy + done
            left -= done
            if left > 0:
                num_losses += 1
                left += min(assumed.lost_seconds, done)
                now += assumed.restart_seconds
        heapq.heappush(free, now)
        end = max(end, now)
    return Simulated(
        hours=end / HOUR,
        busy=busy / (end * assumed.num_gpus),
        num_losses=num_losses,
        driver_busy=min(assumed.num_buckets * driver_seconds / end, 1.0),
    )


def page(rates: Rates, assumed: Assumed) -> str:
    """Return the page."""
    return "\n".join([*_head(assumed), *_volumes(rates, assumed), *_limits(rates, assumed), *_assumptions(assumed), ""])


def _head(assumed: Assumed) -> Iterator[str]:
    yield f"# {_many(assumed.num_users)} users on {assumed.num_gpus} GPUs"
    yield ""
    yield from _paragraph(
        "Written by `python benchmarks/scale.py` from measured rates (`benchmarks/RESULTS.md`: a planted user's whole "
        "path, requests to a store by bucket) and from what is assumed of GPUs, machines and prices, which stands "
        "below. No such run has been made: this page says what one would take, and what would stop it first. Planted "
        "users have ten short records; for yours, `hydra-ray plan` counts requests and tokens."
    )


def _paragraph(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, 120, break_on_hyphens=False)
    yield ""


def _volumes(rates: Rates, assumed: Assumed) -> Iterator[str]:
    users, found, calm = (
        assumed.num_users,
        simulate(rates, assumed),
        simulate(rates, replace(assumed, loss_per_hour=0.0)),
    )
    fed = assumed.num_buckets * part_seconds(rates, assumed) / assumed.num_gpus / HOUR
    encoding = users * rates.requests * assumed.encoded_tokens_per_request * assumed.encoder_flops_per_token
    encoding_hours = encoding / assumed.encoder_flops_per_second / HOUR
    cpu_hours = users * rates.cpu_seconds / HOUR
    cores = assumed.num_gpus * assumed.cores_per_gpu
    gpu_hours = found.hours * assumed.num_gpus + encoding_hours
    store_requests = assumed.num_buckets * rates.store_requests
    gigabytes = users * rates.stored_bytes / 1e9
    rows = (
        ("requests to the generator", _many(users * rates.requests), f"{rates.requests:.0f} a user"),
        ("prompt tokens", _many(users * rates.prompt_tokens), f"{rates.prompt_tokens:,.0f} a user"),
        ("generated tokens", _many(users * rates.generated_tokens), f"{rates.generated_tokens:,.0f} a user"),
        ("generation, all copies always fed", f"{fed:.1f} h", f"{part_seconds(rates, assumed):.0f} s a part"),
        ("generation, simulated", f"{calm.hours:.1f} h", f"copies answer {calm.busy:.0%} of the time"),
        (
            f"generation on spot machines ({assumed.loss_per_hour:.0%} lost an hour)",
            f"{found.hours:.1f} h",
            f"{found.num_losses} losses, copies answer {found.busy:.0%} of the time",
        ),
        ("encoding on the same GPUs", f"{encoding_hours / assumed.num_gpus:.2f} h", f"{encoding_hours:.1f} GPU hours"),
        ("work beside models", f"{cpu_hours / cores:.2f} h", f"{cpu_hours:,.0f} CPU hours on {cores} cores"),
        ("money for GPUs", f"${gpu_hours * assumed.gpu_hour:,.0f}", f"{gpu_hours:,.0f} GPU hours"),
        (
            "requests to the store",
            _many(store_requests),
            f"{rates.store_requests:.0f} a bucket; ${store_requests * assumed.put:,.0f} if all were writing",
        ),
        ("bytes stored", f"{gigabytes:,.0f} GB", f"${gigabytes * assumed.gigabyte_month:,.0f} a month"),
    )
    yield "| what | how much | of which |"
    yield "|---|---|---|"
    yield from (f"| {what} | {much} | {which} |" for what, much, which in rows)
    yield ""


def _limits(rates: Rates, assumed: Assumed) -> Iterator[str]:
    found = simulate(rates, assumed)
    yield "## Where it stops"
    yield ""
    seconds = rates.in_sequence * assumed.store_seconds
    yield from _paragraph(
        f"The driver begins and commits one part after the other: {rates.in_sequence:.0f} of a bucket's requests "
        f"follow each other, {seconds:.1f} s of {assumed.store_seconds * 1e3:.0f} ms each, which is "
        f"{found.driver_busy:.0%} of the run above with {assumed.num_buckets:,} buckets of "
        f"{assumed.users_per_bucket} users. With other sizes of parts and numbers of GPUs:"
    )
    sizes = (100, 250, 1000, 4000)
    yield "| GPUs | " + " | ".join(f"{size:,} users a bucket" for size in sizes) + " |"
    yield "|---|" + "---|" * len(sizes)
    for num_gpus in (8, 64, 256, 1024):
        cells = [simulate(rates, replace(assumed, num_gpus=num_gpus, users_per_bucket=size)) for size in sizes]
        yield f"| {num_gpus:,} | " + " | ".join(f"{each.hours:.2f} h, copies {each.busy:.0%}" for each in cells) + " |"
    yield ""
    yield from _paragraph(
        "A bucket is also what one worker holds in memory, and what a damaged file costs: at 4,000 users it is "
        f"{4000 * rates.stored_bytes / 1e6:,.0f} MB of compressed tables over all stages."
    )


def _assumptions(assumed: Assumed) -> Iterator[str]:
    yield "## What is assumed"
    yield ""
    yield "| what | value |"
    yield "|---|---|"
    step = f"{assumed.step_seconds * 1e3:g} ms + {assumed.step_seconds_per_sequence * 1e3:g} ms a sequence"
    prices = f"${assumed.put * 1e6:g} a million written, ${assumed.get * 1e6:g} read"
    tokens = f"{assumed.encoded_tokens_per_request:.0f} tokens a request"
    rows = (
        ("users of a bucket", f"{assumed.users_per_bucket}"),
        ("a generator's step", f"{step}, up to {assumed.num_slots:,} sequences"),
        ("a generator's prompts", f"{assumed.prefill_tokens_per_second:,.0f} tokens a second, none of them cached"),
        ("encoding", f"{assumed.encoder_flops_per_second / 1e12:.0f} TFLOP/s of a GPU, {tokens}"),
        ("cores beside a GPU", f"{assumed.cores_per_gpu}"),
        ("a request to the store", f"{assumed.store_seconds * 1e3:.0f} ms; {prices}"),
        ("a lost machine", f"{assumed.restart_seconds:.0f} s until its copy answers again"),
        ("its answers", f"those of the last {assumed.lost_seconds:.0f} s are lost"),
        ("prices", f"${assumed.gpu_hour:g} a GPU hour, ${assumed.gigabyte_month:g} a GB and month"),
    )
    for what, value in rows:
        yield f"| {what} | {value} |"


def _many(value: float) -> str:
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:,.3g} {name}"
    return f"{value:,.0f}"


if __name__ == "__main__":
    sys.exit(main())
