"""Checks that a run's models exist and fit their use: the generator writes texts, encoders read them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hydra_ray.commands.doctor.machine import gigabytes
from hydra_ray.commands.doctor.model_files import ModelDescription, describe_model
from hydra_ray.config import RunConfig, Task
from hydra_ray.config.section import is_plugin
from hydra_ray.errors import ConfigError, HydraError, ModelError
from hydra_ray.findings import Finding, unusable
from hydra_ray.generate.engines.vllm_settings import require_known_arguments
from hydra_ray.models import model_identity

WRITES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ChatModel")
"""Suffixes of the names of architectures that generate text."""
Supports = Callable[[str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A setting that names an encoder."""

    setting: str
    max_text_tokens: int


def generator_finding(config: RunConfig, task: Task, supports: Supports) -> tuple[Finding, ModelDescription | None]:
    """Return a finding about the generator, and its description where vLLM can load it.

    Args:
        supports: returns whether the installed vLLM supports an architecture.

    Raises:
        ImportError: vLLM cannot be imported.
    """
    generator = config.generator
    if generator.engine == "none":
        return Finding(name="generator", value="none: answers come from records alone"), None
    try:
        if generator.engine == "fake":
            value = f"{model_identity(generator.model)}: named only, a fixed rule answers"
            return Finding(name="generator", value=value), None
        found = describe_model(generator.model, with_weights=generator.engine == "vllm")
        if generator.engine == "vllm":
            _require_writer(found, supports)
            _require_context(found, generator.max_model_tokens)
            require_known_arguments(generator)
        _require_prompts(config, task, found)
    except HydraError as error:
        return unusable("generator", generator.model, error), None
    if generator.api is not None or is_plugin(generator.engine):
        return Finding(name="generator", value=f"{generator.model}: its tokenizer fits the prompts"), None
    return Finding(name="generator", value=_said(found)), found


def encoder_findings(config: RunConfig) -> tuple[list[Finding], list[ModelDescription]]:
    """Return a finding about each encoder, and the descriptions of the usable ones."""
    findings: list[Finding] = []
    usable: list[ModelDescription] = []
    for spec, uses in _encoders(config).items():
        name = f"encoder: {', '.join(use.setting.partition('.')[0] for use in uses)}"
        try:
            found = describe_model(spec)
            _require_encoder(found, uses)
        except HydraError as error:
            findings.append(unusable(name, spec, error))
        else:
            findings.append(Finding(name=name, value=_said(found)))
            usable.append(found)
    return findings, usable


def _encoders(config: RunConfig) -> dict[str, list[Use]]:
    """Return the uses of each encoder, by name."""
    uses: dict[str, list[Use]] = {}
    for name, scorer in (("reranker", config.reranker), ("adapter", config.adapter)):
        use = Use(setting=f"{name}.base", max_text_tokens=scorer.base.max_text_tokens)
        uses.setdefault(scorer.base.encoder, []).append(use)
    # A run needs this one's identity even where its retrieval method uses no vectors.
    if config.retrieve.encoder is not None:
        use = Use(setting="retrieve", max_text_tokens=config.retrieve.max_text_tokens)
        uses.setdefault(config.retrieve.encoder, []).append(use)
    return uses


def _said(found: ModelDescription) -> str:
    size = "" if found.weight_bytes is None else f", {gigabytes(found.weight_bytes)} of weights"
    return f"{found.spec}: {found.architecture}{size}{', to be brought here' if found.missing_bytes else ''}"


def context_limit(found: ModelDescription) -> int | None:
    """Return the maximum length of a text in the model's tokens; None where its files do not state it."""
    text = found.config.get_text_config()
    limits = [getattr(text, "max_position_embeddings", None), getattr(found.tokenizer, "model_max_length", None)]
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if limits[0] is not None and rope.get("rope_type") in ("linear", "dynamic"):
        limits[0] = int(limits[0] * (rope.get("factor") or 1))
    known = [limit for limit in limits if limit is not None and limit > 0]
    return min(known, default=None)


def _require_writer(found: ModelDescription, supports: Supports) -> None:
    if not found.architecture.endswith(WRITES):
        raise ModelError(
            f"it is {found.architecture or 'of no named architecture'}, which writes no text: generator.model must be "
            "one tuned to follow instructions"
        )
    if not supports(found.architecture):
        raise ModelError(f"the installed vLLM does not know {found.architecture}: set another generator.model")


def _require_context(found: ModelDescription, wanted: int) -> None:
    limit = context_limit(found)
    if limit is not None and wanted > limit:
        raise ConfigError(
            f"it reads at most {limit} tokens, generator.max_model_tokens asks for {wanted}: set "
            f"generator.max_model_tokens={limit} or less"
        )


def _require_prompts(config: RunConfig, task: Task, found: ModelDescription) -> None:
    """Check, with the functions that a run uses, the chat template and the room for the instruction and the longest
    label."""
    from hydra_ray.generate.engines.vllm import require_labels_fit
    from hydra_ray.generate.prompts import fit_messages

    fit_messages(task, (), "a query", found.tokenizer, config.generator)
    if config.generator.engine == "vllm":
        require_labels_fit(task, found.tokenizer, config.generator)


def _require_encoder(found: ModelDescription, uses: Sequence[Use]) -> None:
    from hydra_ray.scorer.base.encoder import require_length

    if found.architecture.endswith(WRITES) or found.config.is_encoder_decoder:
        raise ModelError(
            f"it is {found.architecture}, which writes texts: an encoder reads them, such as BertModel and its kind"
        )
    for use in uses:
        require_length(found.config, use.max_text_tokens, f"{use.setting}.max_text_tokens")
