"""Which stages a run consists of, and where each one's result is: a pure function of the configuration and its files.

The fingerprints say what depends on what. Nothing that decides *where* work runs (placement, storage) enters them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import hydra_ray.adapt.examples
import hydra_ray.rerank.examples
from hydra_ray.config import RetrieveConfig, RunConfig, ScorerConfig, Task
from hydra_ray.generate.completions import CompletionStore
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
    is_graded: bool
    """Whether candidates that are not the best of their group have a part in what is learned. In closed tasks the
    adapter learns how likely each label is the right one, and the expected quality is taken when it chooses."""
    num_folds: int
    examples: Stage
    base: Stage
    features: Stage
    heads: Stage

    def base_folds(self) -> list[int | None]:
        """For each fold, the fold whose new users its base must not learn from.

        An untrained base learns from nobody, so that one, of no fold, serves all.
        """
        is_common = self.num_folds == 1 or not self.config.base.num_epochs
        return [None if is_common else fold for fold in range(self.num_folds)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All stages of a run, in the order they run."""

    config: RunConfig
    task: Task
    completions: CompletionStore
    """What the generator has answered in any run under the same root."""
    users: Stage
    profiles: Stage
    probes: Stage
    reranker: ScorerPlan
    drafts: Stage
    labeller: Stage
    adapter: ScorerPlan
    gate: Stage
    answers: Stage
    report: Stage

    def stages(self) -> Iterator[Stage]:
        """Every stage, in order."""
        yield self.users
        yield self.profiles
        yield self.probes
        yield from _scorer_stages(self.reranker)
        yield self.drafts
        yield self.labeller
        yield from _scorer_stages(self.adapter)
        yield self.gate
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
    users = _stage(config, "users", 2, {"task": task, "users": config.users}, input_fingerprint(config.lamp))
    profiles = _stage(config, "profiles", 1, generator, [users.fingerprint])
    probes = _stage(
        config,
        "probes",
        3,
        {"probes": config.probes, "retrieve": _identified(config.retrieve), **generator},
        [users.fingerprint],
    )
    reranker = _scorer(config, task, "reranker", "pair", [users, probes])
    drafts = _stage(
        config,
        "drafts",
        3,
        {
            "drafts": config.drafts.model_dump(mode="json", exclude={"candidates", "num_probes", "has_cuts"}),
            **generator,
        },
        [stage.fingerprint for stage in (users, profiles, probes, reranker.heads)],
    )
    interaction: Interaction = "bilinear" if task.is_closed else "pair"
    encoder = config.adapter.base
    compared = {"encoder": model_identity(encoder.encoder), "max_text_tokens": encoder.max_text_tokens, "task": task}
    labeller = _stage(config, "adapter.labeller", 1, compared, [users.fingerprint])
    adapter = _scorer(config, task, "adapter", interaction, [users, probes, reranker.heads, drafts, labeller])
    gate = _stage(config, "gate", 1, {}, [stage.fingerprint for stage in (users, drafts, adapter.heads)])
    answers = _stage(
        config,
        "answers",
        2,
        {"answers": config.answers},
        [stage.fingerprint for stage in (users, drafts, reranker.heads, adapter.heads, gate)],
    )
    report = _stage(config, "report", 4, {"config": config}, [answers.fingerprint])
    return Plan(
        config=config,
        task=task,
        completions=_completions(config),
        users=users,
        profiles=profiles,
        probes=probes,
        reranker=reranker,
        drafts=drafts,
        labeller=labeller,
        adapter=adapter,
        gate=gate,
        answers=answers,
        report=report,
    )


def _identified(retrieve: RetrieveConfig) -> dict[str, Any]:
    """The settings with the encoder's weights in the place of its name."""
    return {
        **retrieve.model_dump(mode="json"),
        "encoder": None if retrieve.encoder is None else model_identity(retrieve.encoder),
    }


def _completions(config: RunConfig) -> CompletionStore:
    generator = config.generator
    settings = {
        "engine": generator.engine,
        "model": model_identity(generator.model),
        "dtype": generator.dtype,
        "max_model_tokens": generator.max_model_tokens,
        "num_buckets": config.users.num_buckets,
        "bucket_key": config.users.bucket_key,
    }
    folder = fingerprint("completions", 1, settings, [])
    return CompletionStore(folder=join(config.storage.root.rstrip("/"), "completions", folder))


def _scorer(
    config: RunConfig,
    task: Task,
    name: Literal["reranker", "adapter"],
    interaction: Interaction,
    inputs: Sequence[Stage],
) -> ScorerPlan:
    section: ScorerConfig = getattr(config, name)
    names = _PLAIN_NAMES[name](task, config)
    encoder = model_identity(section.base.encoder)
    # The adapter's plain features compare texts by the encoder.
    compared = {"encoder": encoder, "max_text_tokens": section.base.max_text_tokens, "drafts": config.drafts}
    settings = {"task": task, "plain_names": names, **(compared if name == "adapter" else {})}
    examples = _stage(config, f"{name}.examples", 3, settings, [stage.fingerprint for stage in inputs])
    base_settings = {
        "base": {**section.base.model_dump(mode="json"), "encoder": encoder},
        "interaction": interaction,
    }
    base = _stage(config, f"{name}.base", 2, base_settings, [examples.fingerprint])
    features = _stage(config, f"{name}.features", 2, {}, [base.fingerprint])
    heads = _stage(config, f"{name}.heads", 3, {"heads": section.heads}, [features.fingerprint])
    return ScorerPlan(
        config=section,
        interaction=interaction,
        plain_names=names,
        is_graded=name == "reranker" or not task.is_closed,
        num_folds=config.users.num_folds,
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
