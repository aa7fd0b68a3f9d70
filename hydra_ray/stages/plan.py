"""Which stages a run consists of, and where each one's result is: a pure function of the configuration and its files.

The fingerprints say what depends on what. Nothing that decides *where* work runs (placement, storage) enters them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import hydra_ray.adapt.adapter_examples
import hydra_ray.rerank.reranker_examples
from hydra_ray.adapt.label_features import PREFITTED_NAMES
from hydra_ray.adapt.label_model import needs_labeller
from hydra_ray.config import ApiConfig, HeadsConfig, PoolConfig, RunConfig, ScorerConfig, Task
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.lamp.tasks import task_of
from hydra_ray.lamp.users import USERS, input_fingerprint
from hydra_ray.models.model_records import RunModels, UsedModel, models_of, without_pins
from hydra_ray.runs.root import bucket_key_name, forgotten_pseudonyms
from hydra_ray.runs.run_folder import ParentRun, read_parent, run_folder_of
from hydra_ray.runs.stage import Stage, fingerprint
from hydra_ray.scorer.base.spec import Interaction
from hydra_ray.storage import require_absolute
from hydra_ray.storage.locations import reach


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerPlan:
    """The stages of one scorer: reranker or adapter."""

    config: ScorerConfig
    interaction: Interaction
    """How the base sees a candidate: together with the query, or each by itself (closed label sets)."""
    handcrafted_names: tuple[str, ...]
    num_prefitted: int
    """How many of the last plain features are fitted scores themselves."""
    has_soft_targets: bool
    """Whether candidates that are not the best of their group have a part in what is learned. In closed tasks the
    adapter learns how likely each label is the right one, and the expected quality is taken when it chooses."""
    base_folds: tuple[int | None, ...]
    """For each fold, the fold whose new users its base must not learn from. An untrained base learns from nobody, so
    that one, of no fold, serves all."""
    examples: Stage
    base: Stage
    features: Stage
    heads: Stage
    head_prior: Stage
    """The heads that keep what training users teach: these, or those of the run that taught."""

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
    """The run's, in which the models' names are those of what they hold now."""
    models: RunModels
    task: Task
    parent: ParentRun | None
    """The finished run that taught; None where this run's own training users teach."""
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
    def known_users(self) -> Stage | None:
        """The users of the run that taught, who cannot be added; None where this run's own training users teach."""
        return None if self.parent is None else self.parent.stages[self.users.name]

    @property
    def run_folder(self) -> str:
        """Where the run's report, answers and state are."""
        return run_folder_of(self.config.storage.root, self.config.run)

    def is_complete(self) -> bool:
        """Whether there is nothing left to do."""
        return all(stage.is_complete() for stage in self.stages())


def plan_run(config: RunConfig) -> Plan:
    """The plan of a run; of one that another run taught, it has only the buckets that hold users once these are read.

    Raises:
        ConfigError: storage.root is relative, the environment names another store, the task is unknown, or the run
            differs from the one that taught it.
        InputError: an input file is missing, or the run that taught is.
        ModelError: a model cannot be found.
    """
    require_absolute(config.storage.root, "storage.root")
    reach(config.storage)
    task = task_of(config.lamp)
    parent = read_parent(config)
    models = models_of(config)
    given, config = config, models.pinned(config)
    make = _Maker(config=config, models=models, parent=parent)
    users = make.users(task)
    if parent is not None and users.is_complete():
        users = replace(users, only_buckets=tuple(users.committed_buckets(USERS)))
        make = replace(make, only_buckets=users.only_buckets)
    generator = _generator_settings(config, models, task)
    profiles = make.stage("profiles", 1, generator, [users])
    probes = make.stage("probes", 3, {**_retrieve_settings(config, models), **generator}, [users])
    reranker = make.scorer("reranker", task, [users, probes])
    asked = config.drafts.model_dump(mode="json", exclude=set(PoolConfig.model_fields))
    drafts = make.stage("drafts", 3, {"drafts": asked, **generator}, [users, profiles, probes, reranker.heads])
    steps = {"steps": ["text", "records"]} if needs_labeller(task, config) else {}
    encoder = _encoder_settings(config.adapter, models.adapter)
    labeller = make.frozen("adapter.labeller", 1, {**encoder, **steps, "task": task}, [users])
    adapter = make.scorer("adapter", task, [users, probes, reranker.heads, drafts, labeller])
    gate = make.stage("gate", 1, {}, [users, drafts, adapter.heads])
    judged = [users, drafts, reranker.heads, adapter.heads, gate, *make.taught("gate")]
    answers = make.stage("answers", 3, {"answers": config.answers}, judged)
    reported = without_pins(given).model_dump(mode="json", exclude={"budget"})
    report = make.stage("report", 6, {"config": reported}, [answers])
    return Plan(
        config=config,
        models=models,
        task=task,
        parent=parent,
        completions=_completions(config, models),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maker:
    """Makes the stages of one plan."""

    config: RunConfig
    models: RunModels
    parent: ParentRun | None
    only_buckets: tuple[int, ...] | None = None

    def users(self, task: Task) -> Stage:
        """The stage that reads the raw files; where another run taught, it also looks at that run's users."""
        files = input_fingerprint(self.config.lamp)
        settings = {"task": task, "users": _user_settings(self.config)}
        return self.stage("users", 2, settings, self.taught("users"), files)

    def stage(
        self, name: str, version: int, settings: Mapping[str, Any], inputs: Sequence[Stage], files: Sequence[str] = ()
    ) -> Stage:
        """A stage that reads the results of `inputs`, and raw files of the fingerprints `files`."""
        stage = Stage(
            name=name,
            fingerprint=fingerprint(name, version, settings, [*files, *(each.fingerprint for each in inputs)]),
            root=self.config.storage.root.rstrip("/"),
            num_buckets=self.config.users.num_buckets,
            only_buckets=self.only_buckets,
            settings={"version": version, **settings},
            inputs=tuple(each.fingerprint for each in inputs),
        )
        if self.parent is not None and name not in _OWN_STAGES:
            self.parent.require_like(stage)
        return stage

    def frozen(self, name: str, version: int, settings: Mapping[str, Any], inputs: Sequence[Stage]) -> Stage:
        """A stage that learns from all users: in its place that of the run that taught, if one did."""
        own = self.stage(name, version, settings, inputs)
        return own if self.parent is None else self.parent.stages[name]

    def taught(self, name: str) -> list[Stage]:
        """The stage of the run that taught, if one did and made it."""
        stages = {} if self.parent is None else self.parent.stages
        return [stages[name]] if name in stages else []

    def scorer(self, name: Literal["reranker", "adapter"], task: Task, inputs: Sequence[Stage]) -> ScorerPlan:
        """The stages of one scorer."""
        config, section = self.config, getattr(self.config, name)
        is_adapter = name == "adapter"
        interaction: Interaction = "bilinear" if is_adapter and task.is_closed else "pair"
        encoder = _encoder_settings(section, self.models.adapter if is_adapter else self.models.reranker)
        names = _HANDCRAFTED_NAMES[name](task, config)
        # The adapter's plain features compare texts by the encoder.
        compared = {**encoder, "drafts": config.drafts} if is_adapter else {}
        base_settings = {**section.base.model_dump(mode="json"), "encoder": encoder["encoder"]}
        version = 4 if is_adapter else 3  # only the adapter's hold histories
        examples = self.stage(f"{name}.examples", version, {"task": task, "plain_names": names, **compared}, inputs)
        base = self.frozen(f"{name}.base", 2, {"base": base_settings, "interaction": interaction}, [examples])
        featured = [base] if self.parent is None else [base, examples]
        features = self.stage(f"{name}.features", 2, {}, featured)
        head_prior = self.taught(f"{name}.heads")
        num_prefitted = sum(each in PREFITTED_NAMES for each in names)
        fitted = {"trusted": num_prefitted} if num_prefitted else {}
        # What judges the heads differs only where the base was trained on some of the users.
        judged = {"judges": "unseen users"} if section.base.num_epochs and "lowrank" in section.heads.kinds else {}
        settings = {"heads": _heads_settings(section.heads), **fitted, **judged}
        heads = self.stage(f"{name}.heads", 5, settings, [features, *head_prior])
        return ScorerPlan(
            config=section,
            interaction=interaction,
            handcrafted_names=names,
            num_prefitted=num_prefitted,
            has_soft_targets=not (is_adapter and task.is_closed),
            base_folds=self._base_folds(section),
            examples=examples,
            base=base,
            features=features,
            heads=heads,
            head_prior=head_prior[0] if head_prior else heads,
        )

    def _base_folds(self, scorer: ScorerConfig) -> tuple[int | None, ...]:
        num_folds = (self.config if self.parent is None else self.parent.config).users.num_folds
        is_common = num_folds == 1 or not scorer.base.num_epochs
        folds = tuple(None if is_common else fold for fold in range(num_folds))
        return folds if self.parent is None else folds[:1]


_HANDCRAFTED_NAMES = {
    "reranker": hydra_ray.rerank.reranker_examples.handcrafted_names,
    "adapter": hydra_ray.adapt.adapter_examples.handcrafted_names,
}
_OWN_STAGES = ("users", "report")
"""Of a run that another one taught, the stages whose settings need not be that run's."""
_ANSWERING = {"model", "model_version", "has_structured_outputs", "has_log_probabilities"}
"""The settings of an endpoint that its answers depend on."""


def _generator_settings(config: RunConfig, models: RunModels, task: Task) -> dict[str, Any]:
    """What the generator's answers depend on besides the prompts."""
    answering = config.generator.model_dump(mode="json", exclude={"max_failed_fraction", "api"})
    settings = {**answering, "model": models.generator.identity, **_endpoint(config.generator.api)}
    return {"generator": settings, "task": task}


def _endpoint(api: ApiConfig | None) -> dict[str, Any]:
    """What an endpoint's answers depend on besides the requests; where it is and how fast it is asked is none of it."""
    return {} if api is None else {"api": api.model_dump(mode="json", include=_ANSWERING)}


def _retrieve_settings(config: RunConfig, models: RunModels) -> dict[str, Any]:
    """What is retrieved and probed, with the encoder's weights in the place of its name."""
    identity = models.retriever and models.retriever.identity
    return {"probes": config.probes, "retrieve": {**config.retrieve.model_dump(mode="json"), "encoder": identity}}


def _encoder_settings(scorer: ScorerConfig, encoder: UsedModel) -> dict[str, Any]:
    """What the encoder says of a text by itself."""
    return {"encoder": encoder.identity, "max_text_tokens": scorer.base.max_text_tokens}


def _heads_settings(heads: HeadsConfig) -> dict[str, Any]:
    """The settings, and the version of the basis where there is one; a prior as it was estimated is none of them."""
    settings = heads.model_dump(mode="json", exclude={"prior_scale"} if heads.prior_scale == 1 else set())
    return {**settings, "basis": 2} if "lowrank" in heads.kinds else settings


def _user_settings(config: RunConfig) -> dict[str, Any]:
    """The settings with what tells the buckets' key, and whom they leave out where that is asked for."""
    settings = config.users.model_dump(mode="json", exclude={"leaves_out_forgotten"})
    settings["bucket_key"] = bucket_key_name(config)
    forgotten = forgotten_pseudonyms(config.storage.root) if config.users.leaves_out_forgotten else ()
    return {**settings, "forgotten": sorted(forgotten)} if forgotten else settings


def _completions(config: RunConfig, models: RunModels) -> CompletionStore:
    generator = config.generator
    # An endpoint is asked the very messages, whatever tokenizer fitted them.
    loaded = {
        "model": models.generator.identity,
        "dtype": generator.dtype,
        "max_model_tokens": generator.max_model_tokens,
    }
    settings = {
        "engine": generator.engine,
        **(loaded if generator.api is None else _endpoint(generator.api)),
        "num_buckets": config.users.num_buckets,
        "bucket_key": bucket_key_name(config),
    }
    return CompletionStore(root=config.storage.root.rstrip("/"), name=fingerprint("completions", 2, settings, []))
