"""Making of a run's stages, and the settings that enter their fingerprints.

Nothing that decides *where* work runs (placement, storage) enters a fingerprint.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hydra_ray.config import GeneratorConfig, PoolConfig, RunConfig, ScorerConfig, Task
from hydra_ray.config.engine_arguments import answering_arguments
from hydra_ray.config.section import is_plugin
from hydra_ray.generate.calls import added_fields
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.generate.engine import ENGINE
from hydra_ray.models.model_records import RunModels, UsedModel
from hydra_ray.plugins import source_digest
from hydra_ray.runs.root import bucket_key_name
from hydra_ray.runs.run_folder import FinishedRun
from hydra_ray.runs.settings import settings_of
from hydra_ray.runs.stage import Stage, fingerprint
from hydra_ray.runs.updates import Line
from hydra_ray.stages.definition import StageDefinition, definitions

_ANSWERING = {"model", "model_version", "has_structured_outputs", "has_log_probabilities"}
"""Settings of an endpoint that its answers depend on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planning:
    """A run while its stages are planned."""

    given: RunConfig
    """The configuration as it was given."""
    config: RunConfig
    """The same with models' names pinned to what they hold now."""
    task: Task
    models: RunModels
    parent: FinishedRun | None
    line: Line | None = None
    """The runs before this one, where it is an update or a refreshed run."""
    recorded: Mapping[str, Stage] = field(default_factory=dict[str, Stage])
    """Stages that the run recorded when it was finished, by name: they are taken as they are, so that neither its input
    files nor the versions of then are needed."""

    def encoder_of(self, scorer: str) -> UsedModel:
        """Return the encoder of the reranker or the adapter."""
        return self.models.adapter if scorer == "adapter" else self.models.reranker


def make_stage(
    definition: StageDefinition,
    planning: Planning,
    planned: Mapping[str, Stage],
    only_buckets: tuple[int, ...] | None = None,
) -> Stage:
    """Return the stage of a definition: the recorded one where there is one, its parent run's where it is inherited,
    else one of the run's own.

    Args:
        planned: the stages before it, by name.
        only_buckets: buckets that it consists of, where it is not made of all of them.

    Raises:
        ConfigError: its settings must be those of the parent run, and are others.
    """
    config, parent, recorded = planning.config, planning.parent, planning.recorded.get(definition.name)
    settings = definition.settings(planning)
    made = {each.name for each in definitions() if each.is_made(config)}
    inputs = [planned[name] for name in definition.inputs]
    inputs += [planned[name] for name in definition.added_inputs if name in made]
    if parent is not None:
        inputs += [planned[name] for name in definition.child_inputs]
        inputs += [parent.stages[name] for name in definition.parent_inputs if name in parent.stages]
    # A refreshed run names what it takes by a hash, so that it outlives the run that it was taken from.
    if planning.line is not None and config.refresh is None:
        before = list(planning.line.before()) if definition.earlier_inputs else []
        inputs += [run.stages[name] for name in definition.earlier_inputs for run in before if name in run.stages]
    files = definition.files(planning) if recorded is None else ()
    read = [*files, *(each.fingerprint for each in inputs)]
    stage = Stage(
        name=definition.name,
        fingerprint=fingerprint(definition.name, definition.version, settings, read),
        root=config.storage.root.rstrip("/"),
        num_buckets=config.num_buckets,
        only_buckets=only_buckets,
        settings={"version": definition.version, **settings},
        inputs=tuple(each.fingerprint for each in inputs),
    )
    if parent is not None and recorded is None and not definition.may_differ:
        parent.require_like(stage, definition.like_versions)
    if parent is not None and definition.is_inherited:
        # A stage that the parent did not make is not made by the child either.
        stage = parent.stages.get(definition.name, stage)
    return stage if recorded is None else replace(stage, fingerprint=recorded.fingerprint, settings=recorded.settings)


def plugin_sources(planning: Planning, *settings: str) -> dict[str, Any]:
    """Return the functions of other packages that some settings name, with a hash of the source of each; empty where
    they name none."""
    named = [[setting, name] for setting, name in planning.config.plugins if setting in settings]
    return {"plugins": [[*each, source_digest(each[1], each[0])] for each in named]} if named else {}


def generator_settings(planning: Planning) -> dict[str, Any]:
    """Return what the generator's answers depend on besides the prompts."""
    generator = planning.config.generator
    # Those of an endpoint's template are among the fields of its requests.
    excluded = {"max_failed_fraction", "api", "batch", "engine_args"} | (
        {"chat_template_kwargs"} if generator.api else set()
    )
    answering = settings_of(generator, exclude=excluded)
    named = {"engine": _engine(generator), "model": _generator_identity(planning.models)}
    settings = {**answering, **_engine_arguments(generator), **named, **_endpoint(generator)}
    return {"generator": settings, "task": planning.task, **plugin_sources(planning, ENGINE)}


def encoder_settings(scorer: ScorerConfig, encoder: UsedModel) -> dict[str, Any]:
    """Return what an encoder's vector of a text depends on."""
    return {"encoder": encoder.identity, "max_text_tokens": scorer.base.max_text_tokens}


def draft_settings(planning: Planning) -> dict[str, Any]:
    """Return the settings of drafts without those that choose among drafts."""
    return settings_of(planning.config.drafts, exclude=set(PoolConfig.model_fields))


def completion_store(config: RunConfig, models: RunModels) -> CompletionStore:
    """Return the store of everything that the run's generator has answered in any run under the same root."""
    generator = config.generator
    # An endpoint is asked the very messages, whatever tokenizer fitted them.
    loaded = {
        "model": _generator_identity(models),
        "dtype": generator.dtype,
        "max_model_tokens": generator.max_model_tokens,
        **({"chat_template_kwargs": generator.chat_template_kwargs} if generator.chat_template_kwargs else {}),
        **({"is_batch_invariant": True} if generator.is_batch_invariant else {}),
        **_engine_arguments(generator),
    }
    settings = {
        "engine": _engine(generator),
        **({"source": source_digest(generator.engine, ENGINE)} if is_plugin(generator.engine) else {}),
        **(loaded if generator.api is None else _endpoint(generator)),
        "num_buckets": config.num_buckets,
        "bucket_key": bucket_key_name(config),
    }
    return CompletionStore(root=config.storage.root.rstrip("/"), name=fingerprint("completions", 2, settings, []))


def _engine_arguments(generator: GeneratorConfig) -> dict[str, Any]:
    """Return the arguments of vLLM's engine that answers may depend on, where there are any."""
    arguments = answering_arguments(generator.engine_args)
    return {"engine_args": arguments} if arguments else {}


def _generator_identity(models: RunModels) -> str:
    return models.generator.identity if models.generator else ""


def _engine(generator: GeneratorConfig) -> str:
    """Return the name of the engine that answers: an endpoint gives the same answers in batches and one by one."""
    return "openai" if generator.engine == "openai_batch" else generator.engine


def _endpoint(generator: GeneratorConfig) -> dict[str, Any]:
    """Return what an endpoint's answers depend on besides the requests: not its address, headers and query, and not its
    rate. What was added later enters only where it is not at its default."""
    api = generator.api
    if api is None:
        return {}
    later = {
        "fields": added_fields(api, generator.chat_template_kwargs),
        "omitted": sorted(api.omitted),
        "has_no_seed": not api.has_seed,
        "choices_field": api.choices_field if api.has_structured_outputs else "",
    }
    later = {name: value for name, value in later.items() if value and value != "structured_outputs"}
    return {"api": api.model_dump(mode="json", include=_ANSWERING) | later}
