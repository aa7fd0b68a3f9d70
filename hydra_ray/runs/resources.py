"""Ray resources that each kind of work reserves, and the nodes on which it may run.

Used both by the engines that start the work and by the placement plan, which tells whether a cluster has room for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
