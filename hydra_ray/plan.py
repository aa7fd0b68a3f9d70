"""Which stages a run consists of, and where each one's result is: a pure function of the configuration and its files.

The fingerprints say what depends on what. Nothing that decides *where* work runs (placement, storage) enters them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import hydra_ray.adapt.examples
import hydra_ray.rerank.examples
from hydra_ray.config import PoolConfig, RunConfig, ScorerConfig, Task
from hydra_ray.generate.completions import CompletionStore
from hydra_ray.lamp.tasks import task_of
from hydra_ray.lamp.users import input_fingerprint
from hydra_ray.models import model_identity
from hydra_ray.roots import bucket_key_name, forgotten_pseudonyms
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
    base_folds: tuple[int | None, ...]
    """For each fold, the fold whose new users its base must not learn from. An untrained base learns from nobody, so
    that one, of no fold, serves all."""
    examples: Stage
    base: Stage
    features: Stage
    heads: Stage

    @property
    def num_folds(self) -> int:
        """Folds of a cross-fitted run; 1 where the run's splits say who is new."""
        return len(self.base_folds)

    def stages(self) -> tuple[Stage, ...]:
        """The scorer's stages, in order."""
        return self.examples, self.base, self.features, self.heads


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
    """Of a run that is gated; of another it is not made."""
    answers: Stage
    report: Stage

    def stages(self) -> Iterator[Stage]:
        """Every stage that is made, in order."""
        yield from (self.users, self.profiles, self.probes)
        yield from self.reranker.stages()
        yield from (self.drafts, self.labeller)
        yield from self.adapter.stages()
        yield from (self.gate,) if self.config.answers.is_gated else ()
        yield from (self.answers, self.report)

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
    stage, scorer = partial(_stage, config), partial(_scorer, config, task)
    generator = _generator_settings(config, task)
    users = stage("users", 2, {"task": task, "users": _user_settings(config)}, [], input_fingerprint(config.lamp))
    profiles = stage("profiles", 1, generator, [users])
    probes = stage("probes", 3, {**_retrieve_settings(config), **generator}, [users])
    reranker = scorer("reranker", [users, probes])
    asked = config.drafts.model_dump(mode="json", exclude=set(PoolConfig.model_fields))
    drafts = stage("drafts", 3, {"drafts": asked, **generator}, [users, profiles, probes, reranker.heads])
    labeller = stage("adapter.labeller", 1, {**_encoder_settings(config.adapter), "task": task}, [users])
    adapter = scorer("adapter", [users, probes, reranker.heads, drafts, labeller])
    gate = stage("gate", 1, {}, [users, drafts, adapter.heads])
    answered = [users, drafts, reranker.heads, adapter.heads, gate]
    answers = stage("answers", 2, {"answers": config.answers}, answered)
    report = stage("report", 4, {"config": config}, [answers])
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


def _generator_settings(config: RunConfig, task: Task) -> dict[str, Any]:
    """What the generator's answers depend on besides the prompts."""
    settings = {**config.generator.model_dump(mode="json"), "model": model_identity(config.generator.model)}
    return {"generator": settings, "task": task}


def _retrieve_settings(config: RunConfig) -> dict[str, Any]:
    """What is retrieved and probed, with the encoder's weights in the place of its name."""
    encoder = config.retrieve.encoder
    identity = None if encoder is None else model_identity(encoder)
    return {"probes": config.probes, "retrieve": {**config.retrieve.model_dump(mode="json"), "encoder": identity}}


def _encoder_settings(scorer: ScorerConfig) -> dict[str, Any]:
    """What the encoder says of a text by itself."""
    return {"encoder": model_identity(scorer.base.encoder), "max_text_tokens": scorer.base.max_text_tokens}


def _user_settings(config: RunConfig) -> dict[str, Any]:
    """The settings with what tells the buckets' key, and whom they leave out where that is asked for."""
    settings = config.users.model_dump(mode="json", exclude={"leaves_out_forgotten"})
    settings["bucket_key"] = bucket_key_name(config)
    forgotten = forgotten_pseudonyms(config.storage.root) if config.users.leaves_out_forgotten else ()
    return {**settings, "forgotten": sorted(forgotten)} if forgotten else settings


def _completions(config: RunConfig) -> CompletionStore:
    generator = config.generator
    settings = {
        "engine": generator.engine,
        "model": model_identity(generator.model),
        "dtype": generator.dtype,
        "max_model_tokens": generator.max_model_tokens,
        "num_buckets": config.users.num_buckets,
        "bucket_key": bucket_key_name(config),
    }
    folder = fingerprint("completions", 1, settings, [])
    return CompletionStore(folder=join(config.storage.root.rstrip("/"), "completions", folder))


def _scorer(config: RunConfig, task: Task, name: Literal["reranker", "adapter"], inputs: Sequence[Stage]) -> ScorerPlan:
    section: ScorerConfig = getattr(config, name)
    is_adapter = name == "adapter"
    interaction: Interaction = "bilinear" if is_adapter and task.is_closed else "pair"
    encoder = _encoder_settings(section)
    names = _PLAIN_NAMES[name](task, config)
    # The adapter's plain features compare texts by the encoder.
    compared = {**encoder, "drafts": config.drafts} if is_adapter else {}
    base_settings = {**section.base.model_dump(mode="json"), "encoder": encoder["encoder"]}
    stage = partial(_stage, config)
    examples = stage(f"{name}.examples", 3, {"task": task, "plain_names": names, **compared}, inputs)
    base = stage(f"{name}.base", 2, {"base": base_settings, "interaction": interaction}, [examples])
    features = stage(f"{name}.features", 2, {}, [base])
    heads = stage(f"{name}.heads", 3, {"heads": section.heads}, [features])
    num_folds = config.users.num_folds
    is_common = num_folds == 1 or not section.base.num_epochs
    return ScorerPlan(
        config=section,
        interaction=interaction,
        plain_names=names,
        is_graded=not (is_adapter and task.is_closed),
        base_folds=tuple(None if is_common else fold for fold in range(num_folds)),
        examples=examples,
        base=base,
        features=features,
        heads=heads,
    )


_PLAIN_NAMES = {
    "reranker": hydra_ray.rerank.examples.plain_names,
    "adapter": hydra_ray.adapt.examples.plain_names,
}


def _stage(
    config: RunConfig,
    name: str,
    version: int,
    settings: Mapping[str, Any],
    inputs: Sequence[Stage],
    files: Sequence[str] = (),
) -> Stage:
    """A stage that reads the results of `inputs` and raw files of the fingerprints `files`."""
    return Stage(
        name=name,
        fingerprint=fingerprint(name, version, settings, [*files, *(each.fingerprint for each in inputs)]),
        root=config.storage.root.rstrip("/"),
        num_buckets=config.users.num_buckets,
        settings=settings,
        inputs=tuple(each.fingerprint for each in inputs),
    )
