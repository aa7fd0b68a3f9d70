"""Placement plan: whether the work of each stage of a run fits on the nodes that a cluster can have.

A pure function of the configuration and the node types. Stages run one after the other, so only the concurrent work of
a single stage matters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

from hydra_ray.cluster.node_types import NodeType
from hydra_ray.config import BaseConfig, RunConfig
from hydra_ray.extras import is_installed
from hydra_ray.findings import Finding
from hydra_ray.runs.resources import (
    Bundle,
    core_bundle,
    encoder_bundle,
    generator_bundle,
    step_bundle,
    times,
    train_bundle,
)
from hydra_ray.stages.definition import StageDefinition, definitions

_SPOT = {"ray.io/market-type": "spot"}


_EVERYWHERE = frozenset({"ray", "pyarrow", "numpy"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Software and models that must be on a node."""

    packages: frozenset[str] = _EVERYWHERE
    """Packages imported there."""
    models: frozenset[str] = frozenset()
    """Models whose weights are loaded there, by their names in the configuration."""
    tokenizers: frozenset[str] = frozenset()
    """Models whose tokenizer is loaded there."""

    def __or__(self, other: "Contents") -> "Contents":
        return Contents(
            packages=self.packages | other.packages,
            models=self.models | other.models,
            tokenizers=self.tokenizers | other.tokenizers,
        )


DRIVER = Contents(packages=_EVERYWHERE | {"torch"})
"""Contents of the driver's node: Ray Train needs torch where a training is started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Workers that a stage runs concurrently."""

    work: str
    """Kind of work."""
    bundle: Bundle
    """Resources that each worker reserves."""
    wanted: int = 1
    """Number of workers to start; for steps, as many as fit."""
    needed: int = 1
    """Minimum number of workers, below which the stage never starts."""
    contents: Contents = Contents()
    """Packages and models that each worker needs on its node."""


def stage_needs(config: RunConfig) -> dict[str, list[Need]]:
    """Return the needs of each stage that runs outside the driver, in the stages' order."""
    made = (each for each in definitions() if each.workers != "driver" and each.is_made(config))
    return {each.name: _needs(each, config) for each in made}


def _needs(stage: StageDefinition, config: RunConfig) -> list[Need]:
    placement = config.placement
    encoding = _encoding(*stage.encoders(config))
    step = Need(work="steps", bundle=step_bundle(placement))
    num_encoders = 1 if stage.workers == "encoder" else _at_most_parts(placement.encoder_actors, config)
    encoders = Need(work="encoder", bundle=encoder_bundle(placement), wanted=num_encoders, contents=encoding)
    if stage.asks is not None:
        copies = _at_most_parts(placement.generator_actors, config)
        bundle, contents = generator_bundle(placement), _generating(config)
        asking = replace(step, contents=_asking(config))
        needs = [asking, Need(work="generator", bundle=bundle, wanted=copies, contents=contents)]
        return [*needs, encoders] if stage.encoders(config) else needs
    core = core_bundle(placement)
    trials = Contents(packages=_EVERYWHERE | {"torch"})
    match stage.workers:
        case "training":
            return [_training(config, getattr(config, stage.module).base)]
        case "trials":
            need = Need(work="trials", bundle=core, wanted=placement.max_concurrent_trials, contents=trials)
            return [need, encoders] if stage.encoders(config) else [need]
        case "encoder" | "encoders":
            return [encoders]
        case _:
            return [step]


def contents_of(config: RunConfig, node: NodeType) -> Contents:
    """Return what must be on a node: the contents of all work that may be placed there."""
    found = Contents()
    for needs in stage_needs(config).values():
        for need in needs:
            if room(need.bundle, node):
                found |= need.contents
    return found


def _asking(config: RunConfig) -> Contents:
    """Return the contents for building requests: prompts are fitted by the generator's tokenizer; the fake generator
    has its own."""
    packages = _EVERYWHERE | {"transformers"}
    if config.generator.engine == "fake":
        return Contents(packages=packages)
    return Contents(packages=packages, tokenizers=frozenset({config.generator.model}))


def _generating(config: RunConfig) -> Contents:
    if config.generator.engine != "vllm":
        return Contents()
    packages = _EVERYWHERE | {"vllm", "torch", "transformers"}
    return Contents(packages=packages, models=frozenset({config.generator.model}))


def _encoding(*encoders: str) -> Contents:
    """Return the contents for encoding: bases come from the storage root, other encoders are loaded by name."""
    return Contents(packages=_EVERYWHERE | {"torch", "transformers"}, models=frozenset(encoders))


def _training(config: RunConfig, base: BaseConfig) -> Need:
    placement = config.placement
    bundle, contents = train_bundle(placement), _encoding(base.encoder)
    if not base.num_epochs:  # one worker writes it untrained
        return Need(work="training", bundle=replace(bundle, gpus=0), contents=contents)
    return Need(
        work="training",
        bundle=bundle,
        wanted=placement.train_workers,
        needed=placement.train_workers,
        contents=contents | Contents(packages=_EVERYWHERE | _training_packages(config)),
    )


def _training_packages(config: RunConfig) -> set[str]:
    """Return the packages for training: torch alone suffices where the driver, which decides for all workers, has no
    DeepSpeed."""
    zero_stage = config.placement.useful_zero_stage
    can_do_without = zero_stage < 2 and not is_installed("deepspeed")
    is_needed = zero_stage > 0 and config.taught_by is None and not can_do_without
    return {"deepspeed"} if is_needed else set()


def placement_findings(config: RunConfig, nodes: Sequence[NodeType], num_parts: int | None = None) -> list[Finding]:
    """Return findings on where the work of each stage fits, and why some of it does not.

    Args:
        num_parts: number of buckets that hold users; all buckets by default, of which there are enough where their
            number is `auto`.
    """
    found = [Finding(name=f"nodes: {node.name}", value=str(node)) for node in nodes]
    found += _driver(nodes)
    if config.has_generator:
        found.append(_copies(config, num_parts))
    for stage, needs in stage_needs(config).items():
        found += [_fit(stage, need, nodes) for need in needs]
        found += _deadlock(stage, needs, nodes)
    return found


def room(bundle: Bundle, node: NodeType) -> float:
    """Return how many of `bundle` fit on one node; infinite where it reserves nothing."""
    if not node.matches(bundle.labels):
        return 0
    return min((times(node.amount(name), amount) for name, amount in bundle.amounts().items()), default=inf)


def capacity(bundle: Bundle, nodes: Sequence[NodeType]) -> float:
    """Return how many of `bundle` fit on all nodes together."""
    return sum(room(bundle, node) * node.count for node in nodes if node.count)


def blocking_copies(step: Bundle, copies: Bundle, node: NodeType) -> float:
    """Return the least number of `copies` on one node that leaves no room there for a step; infinite where a step
    always fits."""
    if not room(step, node):
        return 0
    taken = copies.amounts()
    fewest = min(
        (
            times(node.amount(name) - amount, taken[name]) + 1
            for name, amount in step.amounts().items()
            if name in taken
        ),
        default=inf,
    )
    return fewest if fewest <= room(copies, node) else inf


def _at_most_parts(num_workers: int, config: RunConfig) -> int:
    """Return the number of workers that have a part to work on; all of them where there are parts as needed."""
    return num_workers if config.users.num_buckets == "auto" else min(num_workers, config.num_buckets)


def _copies(config: RunConfig, num_parts: int | None) -> Finding:
    """Return a finding on whether each copy of the generator has a part to work on."""
    copies = config.placement.generator_actors
    if num_parts is None:
        if config.users.num_buckets == "auto":
            return Finding(name="copies", value=f"{copies} of the generator; users.num_buckets is chosen for them")
        num_parts = config.num_buckets
    said = f"{copies} of the generator for {num_parts} parts with users"
    if copies <= num_parts:
        return Finding(name="copies", value=said)
    if num_parts == config.users.num_buckets:
        remedy = f"set users.num_buckets={copies} or more: a copy works on one part at a time"
    else:
        remedy = f"set placement.generator_actors={num_parts} or fewer: a copy works on one part at a time"
    return Finding(name="copies", value=said, is_problem=True, remedy=remedy)


def _driver(nodes: Sequence[NodeType]) -> Iterator[Finding]:
    for head in nodes:
        if head.is_head and head.matches(_SPOT):
            yield Finding(
                name="driver",
                value=f"{head.name} may be taken away at any time",
                is_problem=True,
                remedy="let the head be no spot node: a job ends with its driver",
            )
        elif head.is_head:
            is_apart = not head.amount("CPU")
            value = "on the head, beside no other work" if is_apart else "on the head, which does other work too"
            yield Finding(name="driver", value=value, remedy="" if is_apart else "safer: CPU: 0 on the head")


def _fit(stage: str, need: Need, nodes: Sequence[NodeType]) -> Finding:
    name = f"{stage}: {need.work}"
    places = {node.name: room(need.bundle, node) for node in nodes if node.count and room(need.bundle, node)}
    asked = f"{need.wanted} x {_amounts(need.bundle)}"
    fitting = capacity(need.bundle, nodes)
    if fitting < need.needed:
        return Finding(name=name, value=asked, is_problem=True, remedy=_reason(need, nodes, fitting))
    where = ", ".join(f"{each} ({count:g} a node)" for each, count in places.items())
    waiting = f"room for {fitting:g}, the others wait" if fitting < need.wanted else ""
    return Finding(name=name, value=f"{asked} on {where}", remedy=waiting)


def _reason(need: Need, nodes: Sequence[NodeType], fitting: float) -> str:
    """Return why too few workers fit."""
    if fitting:
        return f"{need.needed} must run at once, and there is room for {fitting:g}: more nodes, or fewer workers"
    allowed = [node for node in nodes if node.count and node.matches(need.bundle.labels)]
    if not allowed:
        return f"no node has the labels {dict(need.bundle.labels)}"
    lacking = [
        f"{amount:g} {name} on one node; the largest has {largest:g}"
        for name, amount in need.bundle.amounts().items()
        if amount > (largest := max(node.amount(name) for node in allowed))
    ]
    return f"{need.work} needs " + (" and ".join(lacking) or f"{_amounts(need.bundle)} on one node; none has all of it")


def _deadlock(stage: str, needs: Sequence[Need], nodes: Sequence[NodeType]) -> Iterator[Finding]:
    """Yield a problem if generators may occupy every place where the stage's steps could run, so that each waits for
    the other."""
    # Encoders have ended before the first request is made.
    if [need.work for need in needs][:2] != ["steps", "generator"]:
        return
    step, copies, *_ = needs
    running = min(copies.wanted, capacity(copies.bundle, nodes))
    if not running or not capacity(step.bundle, nodes):
        return
    blocked = sum(blocking_copies(step.bundle, copies.bundle, node) * node.count for node in nodes if node.count)
    if blocked <= running:
        yield Finding(
            name=f"{stage}: together",
            value=f"{running:g} copies of the generator may leave no room for a step ({_amounts(step.bundle)})",
            is_problem=True,
            remedy="fewer placement.generator_actors, or more CPUs",
        )


def _amounts(bundle: Bundle) -> str:
    amounts = ", ".join(f"{name} {amount:g}" for name, amount in bundle.amounts().items()) or "nothing"
    return amounts + (f" where {dict(bundle.labels)}" if bundle.labels else "")
