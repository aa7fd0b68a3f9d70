"""Settings as fingerprints contain them: a setting that was added later enters only where it is not at its default.

So a new setting with a default renames no stage that somebody has paid for, whatever section it is added to.
"""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

_FIRST_SETTINGS: Mapping[str, str] = {
    "AdapterConfig": "has_own_labels",
    "AnswersConfig": "is_gated",
    "ApiConfig": (
        "base_url model model_version api_key_env has_structured_outputs has_log_probabilities length_field "
        "max_samples_per_call max_concurrent_requests requests_per_minute tokens_per_minute "
        "attempt_timeout_seconds max_attempts max_backoff_seconds request_deadline_seconds breaker_failures "
        "breaker_seconds prompt_price generated_price"
    ),
    "BaseConfig": (
        "encoder width max_text_tokens trainable_layers num_epochs batch_groups learning_rate weight_decay "
        "holdout_fraction loss seed"
    ),
    "BudgetConfig": "max_tokens max_cost hour_price",
    "DraftsConfig": "num_records prompts lead_words sampled_prompts num_samples temperatures num_pseudo_queries",
    "GeneratorConfig": (
        "engine model dtype max_model_tokens max_text_tokens is_constrained prompt_form seed max_failed_fraction api"
    ),
    "HeadsConfig": (
        "kinds ranks num_folds num_shards max_prior_users paper_width paper_epochs paper_start paper_loss "
        "paper_learning_rate prior_scale seed"
    ),
    "LampConfig": "task root train_split new_split users_files planted drop_leaks",
    "PlacementConfig": (
        "generator_actors generator_cpus generator_gpus generator_threads generator_kv_cache_gigabytes "
        "gpu_memory_fraction max_concurrent_sequences encoder_actors encoder_threads train_workers "
        "train_gpus_per_worker train_threads zero_stage max_concurrent_trials generator_labels "
        "generator_resources train_labels train_resources step_labels step_resources"
    ),
    "PlantedConfig": "num_train_users num_new_users num_records seed",
    "PoolConfig": "candidates num_probes has_cuts",
    "ProbesConfig": "num_records num_pseudo_queries seed",
    "ReportConfig": "confidence num_resamples seed",
    "RetrieveConfig": "method k1 b epsilon encoder max_text_tokens rrf_constant seed",
    "RunConfig": (
        "run taught_by storage lamp users retrieve generator probes reranker drafts adapter answers report budget "
        "placement"
    ),
    "ScorerConfig": "base heads has_plain_features",
    "Sentences": "record records query",
    "StorageConfig": "root endpoint region",
    "Task": (
        "name official_name kind instruction input_pattern labels option_pattern record_input record_output "
        "is_history_labelled history_heading sentences max_tokens"
    ),
    "UsersConfig": "num_buckets bucket_key max_rejected_fraction max_users num_folds fold_seed leaves_out_forgotten",
}
"""Settings that enter whatever their value, by section: those that there were when stages were first named. It is never
extended."""

_FIRST_DEFAULTS: Mapping[tuple[str, str], Any] = {("PlacementConfig", "max_concurrent_sequences"): 64}
"""Defaults that such settings had then, where they have others now; these enter as if they were the former ones."""


def settings_of(section: BaseModel, exclude: Collection[str] = ()) -> dict[str, Any]:
    """Return the settings of a section that enter a fingerprint, as plain JSON values.

    Args:
        exclude: settings that the result does not depend on.
    """
    dumped = section.model_dump(mode="json", exclude=set(exclude))
    first = {name for each in type(section).__mro__ for name in _FIRST_SETTINGS.get(each.__name__, "").split()}
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        is_at_default = not field.is_required() and value == field.get_default(call_default_factory=True)
        if name in dumped and (name in first or not is_at_default):
            former = _FIRST_DEFAULTS.get((type(section).__name__, name)) if is_at_default else None
            found[name] = _entering(value, dumped[name]) if former is None else former
    return found


def _entering(value: Any, dumped: Any) -> Any:
    if isinstance(value, BaseModel):
        return settings_of(value)
    if isinstance(value, Mapping):
        return {key: _entering(each, dumped[str(key)]) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_entering(each, own) for each, own in zip(value, dumped, strict=True)]
    return dumped
