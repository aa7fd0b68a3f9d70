"""A run on spot nodes: the real dispatch of parts, with simulated copies of the generator and a simulated clock.

    python benchmarks/spot.py [--copies 64] [--losses 0.1] [--hours 10]

Each copy is lost at a constant rate, half of them after a notice of 30 s, and replaced by one that is loaded some
minutes later. A copy answers the requests of up to 16 parts together, as many sequences at a time as it has places for,
and keeps answers every two seconds (generate/engine.py: `keep`). When it is lost, the requests under way and the
answers that are not kept yet are asked again: these are counted. Losses come from a seed, so that the figures are the
same on every machine.
"""

import argparse
import asyncio
import random
import selectors
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness import Figure, tell

from hydra_ray.engine.dispatch import CopyLostError, Dispatch, Part

PARTS_AT_ONCE, PARTS_A_COPY = 16, 17
KEEP_SECONDS, POLL_SECONDS, NOTICE_SECONDS = 2.0, 5.0, 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What is simulated."""

    num_copies: int
    losses_an_hour: float
    """Rate at which each copy is lost."""
    requests_a_second: float
    """Requests that a copy answers."""
    num_places: int
    """Sequences that a copy decodes at the same time."""
    part_requests: int
    load_seconds: float
    """Time from the wish for a copy to a loaded one."""
    seed: int


@dataclass(slots=True)
class Account:
    """What happened."""

    num_lost: int = 0
    num_noticed: int = 0
    asked_again: float = 0.0
    """Requests that were under way, or answered and not kept, when their copy was lost."""
    asked_again_by_part: float = 0.0
    """The same if answers were kept only with their whole part."""
    most_losses: int = 0
    """Largest number of copies lost at one part."""


class _Jumps(selectors.DefaultSelector):
    """Selector that does not wait: the clock jumps to the next event."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Return what is ready, after the clock has gone on."""
        if timeout is None:
            raise RuntimeError("every part waits, and nothing will happen any more")
        self.now += max(timeout, 0.0)
        return super().select(0)


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """Event loop with a simulated clock."""

    def __init__(self) -> None:
        self._jumps = _Jumps()
        super().__init__(self._jumps)

    def time(self) -> float:
        """Return the simulated time in seconds."""
        return self._jumps.now


class SimulatedCopy:
    """Copy whose parts share its speed evenly."""

    max_parts = PARTS_AT_ONCE

    def __init__(self, cluster: Cluster, account: Account, node: str, *, is_noticed: bool):
        self._cluster, self._account, self.node = cluster, account, node
        self._is_noticed = is_noticed
        self._loop = asyncio.get_running_loop()
        self._parts: dict[Part, asyncio.Future[None]] = {}
        self._since = self._loop.time()
        self._next: asyncio.TimerHandle | None = None
        self._is_over = False

    async def answer(self, part: Part) -> float:
        """Return the number of the part's requests once all are answered."""
        if self._is_over:
            raise CopyLostError("it is gone", is_expected=self._is_noticed)
        self._advance()
        self._parts[part] = done = self._loop.create_future()
        part.content["began_with"] = part.content["left"]
        self._schedule()
        await done
        return part.content["requests"]

    def lose(self) -> None:
        """Be taken away: what is under way or not kept is lost."""
        self._advance()
        self._is_over = True
        self._account.num_lost += 1
        self._account.num_noticed += self._is_noticed
        unkept_seconds = self._loop.time() % KEEP_SECONDS
        for part, done in self._parts.items():
            content, share = part.content, len(self._parts)
            answered = content["began_with"] - content["left"]
            unkept = min(answered, unkept_seconds * self._cluster.requests_a_second / share)
            under_way = min(content["left"], self._cluster.num_places / share)
            content["left"] += unkept
            content["losses"] += 1
            self._account.asked_again += unkept + under_way
            self._account.asked_again_by_part += answered + under_way
            self._account.most_losses = max(self._account.most_losses, content["losses"])
            done.set_exception(CopyLostError("it was taken away", is_expected=self._is_noticed))
        self._parts.clear()
        self.end()

    def end(self) -> None:
        """Stop."""
        self._is_over = True
        if self._next is not None:
            self._next.cancel()

    def _advance(self) -> None:
        """Answer what was answered since the last time."""
        now = self._loop.time()
        for part in self._parts:
            part.content["left"] -= (now - self._since) * self._cluster.requests_a_second / len(self._parts)
        self._since = now

    def _schedule(self) -> None:
        """Wake up when the next part is done."""
        if self._next is not None:
            self._next.cancel()
        if self._parts:
            least = max(min(part.content["left"] for part in self._parts), 0.0)
            seconds = least * len(self._parts) / self._cluster.requests_a_second
            self._next = self._loop.call_later(seconds, self._finish)

    def _finish(self) -> None:
        self._advance()
        for part in [part for part in self._parts if part.content["left"] <= 1e-6]:
            part.content["left"] = 0.0
            self._parts.pop(part).set_result(None)
        self._schedule()


async def run(cluster: Cluster, num_parts: int, account: Account) -> float:
    """Return the simulated hours in which all parts were answered."""
    drawn, loop = random.Random(cluster.seed), asyncio.get_running_loop()
    draining, num_nodes = set[str](), 0

    async def start() -> SimulatedCopy:
        nonlocal num_nodes
        num_nodes += 1
        node, life = f"node {num_nodes}", drawn.expovariate(cluster.losses_an_hour / 3600)
        copy = SimulatedCopy(cluster, account, node, is_noticed=drawn.random() < 0.5)
        if life < cluster.load_seconds:
            await asyncio.sleep(life)
            account.num_lost += 1
            raise CopyLostError("it was taken away while it was loaded")
        await asyncio.sleep(cluster.load_seconds)
        loop.call_later(life - cluster.load_seconds, copy.lose)
        if copy._is_noticed:
            loop.call_later(max(life - cluster.load_seconds - NOTICE_SECONDS, 0.0), draining.add, node)
        return copy

    dispatch = Dispatch(start, cluster.num_copies)
    in_flight = asyncio.Semaphore(cluster.num_copies * PARTS_A_COPY)

    async def ask(bucket: int) -> float:
        content = {"requests": cluster.part_requests, "left": float(cluster.part_requests), "losses": 0}
        part = Part(stage="probes", bucket=bucket, owner="run", place=str(bucket), content=content)
        async with in_flight:
            return await dispatch.answer(part)

    async def retire() -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            dispatch.retire(draining)

    polling = asyncio.ensure_future(retire())
    answered = await asyncio.gather(*map(ask, range(num_parts)))
    polling.cancel()
    assert sum(answered) == num_parts * cluster.part_requests
    return loop.time() / 3600


def simulate(cluster: Cluster, hours: float) -> tuple[Account, float, int]:
    """Return what happened in a run that takes some hours without losses, how long it took, and its requests."""
    work = hours * 3600 * cluster.num_copies * cluster.requests_a_second
    num_parts, account = round(work / cluster.part_requests), Account()
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        taken = runner.run(run(cluster, num_parts, account))
    return account, taken, num_parts * cluster.part_requests


def main() -> int:
    """Simulate and print; exit status 1 above the bar, or if the run does not end well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=64)
    parser.add_argument("--losses", type=float, default=0.1, help="share of the copies that is lost an hour")
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    kinds: Mapping[str, Mapping[str, Any]] = {
        "short answers": {"requests_a_second": 50.0, "num_places": 512, "part_requests": 2000},
        "long answers": {"requests_a_second": 2.0, "num_places": 256, "part_requests": 300},
    }
    figures: list[Figure] = []
    for name, speed in kinds.items():
        cluster = Cluster(
            num_copies=arguments.copies,
            losses_an_hour=arguments.losses,
            load_seconds=240.0,
            seed=arguments.seed,
            **speed,
        )
        account, taken, num_requests = simulate(cluster, arguments.hours)
        by_part = 100 * account.asked_again_by_part / num_requests
        figures.append(
            Figure(
                part=f"spot: {arguments.copies} copies, {arguments.losses:.0%} lost an hour, {name}",
                against="requests asked twice",
                value=100 * account.asked_again / num_requests,
                unit="%",
                bound="at most",
                bar=1.0,
                detail=(
                    f"{num_requests:,} requests in {taken:.2f} simulated hours ({arguments.hours:g} without losses), "
                    f"{account.num_lost} copies lost, {account.num_noticed} of them after a notice, at most "
                    f"{account.most_losses} at one part; {by_part:.2f} % if answers were kept by whole parts"
                ),
            )
        )
    return tell(figures)


if __name__ == "__main__":
    sys.exit(main())
