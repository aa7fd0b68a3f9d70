"""Which stages a run consists of, and where each one's result is: a pure function of the configuration and its files.

The fingerprints say what depends on what. Nothing that decides *where* work runs (placement, storage) enters them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import hydra_ray.adapt.examples
import hydra_ray.rerank.examples
from hydra_ray.config import RunConfig, ScorerConfig, Task
from hydra_ray.lamp.tasks import task_of
from hydra_ray.lamp.users import input_fingerprint
from hydra_ray.models import model_identity
from hydra_ray.stages import Stage, fingerprint
from hydra_ray.storage import join, require_absolute

Interaction = Literal["pair", "bilinear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerPlan:
    """The stages of one scorer: reranker or adapter."""

    config: ScorerConfig
    interaction: Interaction
    """How the base sees a candidate: together with the query, or each by itself (closed label sets)."""
    plain_names: tuple[str, ...]
    examples: Stage
    base: Stage
    features: Stage
    heads: Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All stages of a run, in the order they run."""

    config: RunConfig
    task: Task
    users: Stage
    probes: Stage
    reranker: ScorerPlan
    drafts: Stage
    adapter: ScorerPlan
    answers: Stage
    report: Stage

    def stages(self) -> Iterator[Stage]:
        """Every stage, in order."""
        yield self.users
        yield self.probes
        yield from _scorer_stages(self.reranker)
        yield self.drafts
        yield from _scorer_stages(self.adapter)
        yield self.answers
        yield self.report

    @property
    def run_folder(self) -> str:
        """Where the run's report, answers and state are."""
        return join(self.config.storage.root, "runs", self.config.run)

    def is_complete(self) -> bool:
        """Whether there is nothing left to do."""
        return all(stage.is_complete() for stage in self.stages())


def plan_run(config: RunConfig) -> Plan:
    """The plan of a run.

    Raises:
        ConfigError: storage.root is relative, or the task is unknown.
        InputError: an input file is missing.
        ModelError: a model cannot be found.
    """
    require_absolute(config.storage.root, "storage.root")
    task = task_of(config.lamp)
    generator = {
        "generator": {**config.generator.model_dump(mode="json"), "model": model_identity(config.generator.model)},
        "task": task,
    }
    users = _stage(config, "users", 1, {"task": task, "users": config.users}, input_fingerprint(config.lamp))
    probes = _stage(
        config, "probes", 2, {"probes": config.probes, "retrieve": config.retrieve, **generator}, [users.fingerprint]
    )
    reranker = _scorer(config, task, "reranker", "pair", [users, probes])
    drafts = _stage(
        config,
        "drafts",
        2,
        {"drafts": config.drafts, **generator},
        [stage.fingerprint for stage in (users, probes, reranker.heads)],
    )
    interaction: Interaction = "bilinear" if task.is_closed else "pair"
    adapter = _scorer(config, task, "adapter", interaction, [users, probes, drafts])
    answers = _stage(
        config,
        "answers",
        1,
        {},
        [stage.fingerprint for stage in (users, drafts, reranker.heads, adapter.heads)],
    )
    report = _stage(config, "report", 1, {"config": config}, [answers.fingerprint])
    return Plan(
        config=config,
        task=task,
        users=users,
        probes=probes,
        reranker=reranker,
        drafts=drafts,
        adapter=adapter,
        answers=answers,
        report=report,
    )


def _scorer(
    config: RunConfig,
    task: Task,
    name: Literal["reranker", "adapter"],
    interaction: Interaction,
    inputs: Sequence[Stage],
) -> ScorerPlan:
    section: ScorerConfig = getattr(config, name)
    names = _PLAIN_NAMES[name](task)
    settings = {"task": task, "plain_names": names}
    examples = _stage(config, f"{name}.examples", 1, settings, [stage.fingerprint for stage in inputs])
    base_settings = {
        "base": {**section.base.model_dump(mode="json"), "encoder": model_identity(section.base.encoder)},
        "interaction": interaction,
    }
    base = _stage(config, f"{name}.base", 1, base_settings, [examples.fingerprint])
    features = _stage(config, f"{name}.features", 1, {}, [base.fingerprint])
    heads = _stage(config, f"{name}.heads", 1, {"heads": section.heads}, [features.fingerprint])
    return ScorerPlan(
        config=section,
        interaction=interaction,
        plain_names=names,
        examples=examples,
        base=base,
        features=features,
        heads=heads,
    )


_PLAIN_NAMES = {
    "reranker": hydra_ray.rerank.examples.plain_names,
    "adapter": hydra_ray.adapt.examples.plain_names,
}


def _scorer_stages(scorer: ScorerPlan) -> tuple[Stage, ...]:
    return scorer.examples, scorer.base, scorer.features, scorer.heads


def _stage(config: RunConfig, name: str, version: int, settings: Mapping[str, Any], inputs: Sequence[str]) -> Stage:
    return Stage(
        name=name,
        fingerprint=fingerprint(name, version, settings, inputs),
        root=config.storage.root.rstrip("/"),
        num_buckets=config.users.num_buckets,
        settings=settings,
    )
