"""Ray resources that each kind of work reserves, and the nodes on which it may run.

Used both by the engines that start the work and by the placement plan, which tells whether a cluster has room for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Any, Literal

from hydra_ray.config import PlacementConfig

_STEP_CPUS = 0.5
"""Ray CPUs of a CPU step on one part; below 1 so that steps and a generator fit on two cores together."""
_TRAIN_WORKER_CPUS = 0.25
"""Ray CPUs of a training worker; small, so that two workers and Ray's own tasks fit on a small machine. The number of
its threads is placement.train_threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Resources that one worker reserves on one node."""

    cpus: float
    gpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom Ray resources, by name."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Label selectors, in Ray's syntax."""

    def options(self) -> dict[str, Any]:
        """Return the options of a Ray task, a Ray actor or a Ray Data operator."""
        options: dict[str, Any] = {"num_cpus": self.cpus}
        if self.gpus:
            options["num_gpus"] = self.gpus
        if self.resources:
            options["resources"] = dict(self.resources)
        if self.labels:
            options["label_selector"] = dict(self.labels)
        return options

    def amounts(self) -> dict[str, float]:
        """Return the reserved amounts that are not zero, by Ray's resource names."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        return {name: amount for name, amount in amounts.items() if amount}


Workers = Literal["driver", "steps", "encoder", "encoders", "training", "trials"]
"""Place of a stage's work: the driver, CPU steps of Ray Data, one or several workers that hold an encoder, those that
train a base, or trials of Ray Tune."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Workers that work beside idle copies of the generator."""

    bundle: Bundle
    number: float
    """Number of workers; infinite for as many as fit."""
    is_elastic: bool = False
    """Whether it gets on with half of the workers that it would find room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of a running cluster. Key: name."""

    name: str
    amounts: Mapping[str, float]
    """All of its resources, by Ray's names."""
    labels: Mapping[str, str] = field(default_factory=dict)

    def matches(self, selectors: Mapping[str, str]) -> bool:
        """Return whether Ray's label `selectors` allow the node."""
        return all(is_allowed(self.labels.get(key), selector) for key, selector in selectors.items())

    def room(self, bundle: Bundle, copy: Bundle, num_copies: int) -> float:
        """Return how many of `bundle` fit beside copies of the generator; infinite where it reserves nothing."""
        if not self.matches(bundle.labels):
            return 0
        taken = copy.amounts()
        left = {name: self.amounts.get(name, 0) - num_copies * taken.get(name, 0) for name in bundle.amounts()}
        return min((max(times(left[name], amount), 0) for name, amount in bundle.amounts().items()), default=inf)


ONE_CPU = Bundle(cpus=1)
"""Default reservation of a Ray task."""


def step_bundle(placement: PlacementConfig) -> Bundle:
    """Return the resources of a CPU step on one part: reading, prompting, labelling, writing."""
    return Bundle(cpus=_STEP_CPUS, resources=placement.step_resources, labels=placement.step_labels)


def core_bundle(placement: PlacementConfig) -> Bundle:
    """Return the resources of work that keeps a core busy: estimating a prior, a trial."""
    return Bundle(cpus=1, resources=placement.step_resources, labels=placement.step_labels)


def encoder_bundle(placement: PlacementConfig) -> Bundle:
    """Return the resources of one copy of the encoder, or of a base that scores: a core, and a GPU where one is
    reserved."""
    if not placement.encoder_gpus:
        return core_bundle(placement)
    return Bundle(
        cpus=1,
        gpus=placement.encoder_gpus,
        resources=placement.encoder_resources,
        labels=placement.encoder_labels,
    )


def generator_bundle(placement: PlacementConfig) -> Bundle:
    """Return the resources of one copy of the generator, with all of its parallel ranks."""
    return Bundle(
        cpus=placement.generator_cpus,
        gpus=placement.generator_gpus,
        resources=placement.generator_resources,
        labels=placement.generator_labels,
    )


def train_bundle(placement: PlacementConfig) -> Bundle:
    """Return the resources of one worker that trains a base."""
    return Bundle(
        cpus=_TRAIN_WORKER_CPUS,
        gpus=placement.train_gpus_per_worker,
        resources=placement.train_resources,
        labels=placement.train_labels,
    )


def other_work(workers: Workers, placement: PlacementConfig) -> tuple[Demand, ...]:
    """Return what work in a place needs beside the generator."""
    match workers:
        case "driver":
            return ()
        case "encoder":
            return (Demand(bundle=encoder_bundle(placement), number=1),)
        case "encoders":
            return (Demand(bundle=encoder_bundle(placement), number=placement.encoder_actors),)
        case "training":
            return (Demand(bundle=train_bundle(placement), number=placement.train_workers),)
        case "trials":
            return (Demand(bundle=core_bundle(placement), number=inf, is_elastic=True),)
        case "steps":
            return (Demand(bundle=step_bundle(placement), number=inf, is_elastic=True),)


def kept_beside(
    copy: Bundle, copies: Mapping[str, int], demands: Sequence[Demand], nodes: Sequence[Node]
) -> dict[str, int]:
    """Return how many idle copies of the generator may stay on each node, so that there is room for other work.

    Args:
        copy: resources that a copy reserves.
        copies: number of copies by the name of their node.
    """
    kept = dict(copies)
    for demand in demands:
        places, gone = [node for node in nodes if node.matches(demand.bundle.labels)], list[str]()

        def room(kept: Mapping[str, int], places: Sequence[Node] = places, demand: Demand = demand) -> float:
            return sum(node.room(demand.bundle, copy, kept.get(node.name, 0)) for node in places)

        wanted = min(demand.number, room({}))
        wanted = ceil(wanted / 2) if demand.is_elastic and wanted < inf else wanted
        while room(kept) < wanted:
            # The one whose end makes the most room; where several have to go before there is any, one of them.
            without = {
                node.name: room({**kept, node.name: kept[node.name] - 1}) for node in places if kept.get(node.name)
            }
            ended = max(without, key=lambda name: without[name])
            kept[ended] -= 1
            gone.append(ended)
        for name in gone:  # those that made no room
            if room({**kept, name: kept[name] + 1}) >= wanted:
                kept[name] += 1
    return kept


def fits_beside(copy: Bundle, num_copies: int, demands: Sequence[Demand], nodes: Sequence[Node]) -> bool:
    """Return whether each of some demands finds room, one at a time, while all copies of the generator are at work.

    Args:
        copy: resources that a copy reserves.
    """
    copies, left = dict[str, int](), num_copies
    for node in nodes:
        copies[node.name] = int(min(node.room(copy, copy, 0), left)) if node.matches(copy.labels) else 0
        left -= copies[node.name]
    return left == 0 and all(kept_beside(copy, copies, [each], nodes) == copies for each in demands)


def is_allowed(value: str | None, selector: str) -> bool:
    """Return whether a label's value satisfies a selector; as in Ray's scheduler, a missing label satisfies a negated
    one."""
    allowed = selector.removeprefix("!")
    if allowed.startswith("in("):
        is_among = value in [each.strip() for each in allowed[3:-1].split(",")]
    else:
        is_among = value == allowed
    return is_among != selector.startswith("!")


def times(amount: float, each: float) -> int:
    """Return how many times `each` fits into `amount`, with tolerance for Ray's fractional CPUs."""
    return int(amount / each + 1e-9)
