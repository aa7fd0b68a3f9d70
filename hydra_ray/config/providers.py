"""Presets of providers: what their documentation says about an endpoint, as settings of `generator.api`.

A preset only fills in settings that the configuration does not give. How a provider switches a model's thinking off,
and whether it passes arguments to the chat template, are the only facts that are no settings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

ProviderName = Literal[
    "openai",
    "azure",
    "openrouter",
    "mistral",
    "deepseek",
    "together",
    "vllm",
    "sglang",
    "llama_cpp",
    "ollama",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What one provider documents."""

    documentation: tuple[str, ...]
    """Pages that say so."""
    settings: Mapping[str, JsonValue]
    """Settings of `generator.api`, by name."""
    without_thinking: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """Fields of a request that switch thinking off; empty where none are documented."""
    takes_template_arguments: bool = False
    """Whether a request may carry `chat_template_kwargs`."""


_TEMPLATE_SWITCH: Mapping[str, JsonValue] = {"chat_template_kwargs": {"enable_thinking": False}}
"""Argument by which chat templates of hybrid models (Qwen 3 and others) leave thinking out."""

PRESETS: Mapping[str, Preset] = {
    # `max_tokens` is deprecated; reasoning models take `max_completion_tokens` only.
    "openai": Preset(
        documentation=("https://platform.openai.com/docs/api-reference/chat/create",),
        settings={
            "base_url": "https://api.openai.com/v1",
            "api_key_env": "OPENAI_API_KEY",
            "length_field": "max_completion_tokens",
        },
        without_thinking={"reasoning_effort": "none"},
    ),
    # The v1 API is at https://NAME.openai.azure.com/openai/v1 and wants no `api-version`; the classic one is at
    # https://NAME.openai.azure.com/openai/deployments/DEPLOYMENT and does.
    "azure": Preset(
        documentation=(
            "https://learn.microsoft.com/en-us/azure/foundry-classic/openai/api-version-lifecycle",
            "https://learn.microsoft.com/en-us/azure/ai-foundry/openai/reference",
        ),
        settings={
            "api_key_env": "AZURE_OPENAI_API_KEY",
            "api_key_header": "api-key",
            "length_field": "max_completion_tokens",
        },
        without_thinking={"reasoning_effort": "none"},
    ),
    # `n` is not among its parameters.
    "openrouter": Preset(
        documentation=(
            "https://openrouter.ai/docs/api-reference/parameters",
            "https://openrouter.ai/docs/api/reference/errors-and-debugging",
            "https://openrouter.ai/docs/use-cases/reasoning-tokens",
        ),
        settings={
            "base_url": "https://openrouter.ai/api/v1",
            "api_key_env": "OPENROUTER_API_KEY",
            "max_samples_per_call": 1,
        },
        without_thinking={"reasoning": {"effort": "none"}},
    ),
    # Knows `n` and `random_seed`, no `seed` and no log-probabilities, and refuses fields that it does not know.
    "mistral": Preset(
        documentation=(
            "https://docs.mistral.ai/api/endpoint/chat",
            "https://docs.mistral.ai/capabilities/reasoning/adjustable",
        ),
        settings={
            "base_url": "https://api.mistral.ai/v1",
            "api_key_env": "MISTRAL_API_KEY",
            "seed_field": "random_seed",
            "has_log_probabilities": False,
        },
        without_thinking={"reasoning_effort": "none"},
    ),
    # Thinks by default, and returns log-probabilities only where it does not. Knows neither `n` nor a seed.
    "deepseek": Preset(
        documentation=(
            "https://api-docs.deepseek.com/api/create-chat-completion",
            "https://api-docs.deepseek.com/guides/thinking_mode",
            "https://api-docs.deepseek.com/quick_start/error_codes",
        ),
        settings={
            "base_url": "https://api.deepseek.com",
            "api_key_env": "DEEPSEEK_API_KEY",
            "has_seed": False,
            "max_samples_per_call": 1,
            "is_thinking": False,
        },
        without_thinking={"thinking": {"type": "disabled"}},
    ),
    # `logprobs` is a number there, and they are returned in a form of its own.
    "together": Preset(
        documentation=(
            "https://docs.together.ai/reference/chat-completions-1",
            "https://docs.together.ai/docs/inference/chat/reasoning.md",
        ),
        settings={
            "base_url": "https://api.together.xyz/v1",
            "api_key_env": "TOGETHER_API_KEY",
            "has_log_probabilities": False,
        },
        without_thinking={"reasoning": {"enabled": False}},
    ),
    "vllm": Preset(
        documentation=(
            "https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
            "https://docs.vllm.ai/en/latest/features/structured_outputs.html",
            "https://docs.vllm.ai/en/latest/features/reasoning_outputs.html",
        ),
        settings={"base_url": "http://localhost:8000/v1", "has_structured_outputs": True},
        without_thinking=_TEMPLATE_SWITCH,
        takes_template_arguments=True,
    ),
    "sglang": Preset(
        documentation=("https://docs.sglang.io/docs/basic_usage/openai_api_completions.md",),
        settings={
            "base_url": "http://localhost:30000/v1",
            "has_structured_outputs": True,
            "choices_field": "regex",
        },
        without_thinking=_TEMPLATE_SWITCH,
        takes_template_arguments=True,
    ),
    # `n` is not among the options of its README.
    "llama_cpp": Preset(
        documentation=("https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",),
        settings={
            "base_url": "http://localhost:8080/v1",
            "has_structured_outputs": True,
            "choices_field": "grammar",
            "max_samples_per_call": 1,
        },
        without_thinking=_TEMPLATE_SWITCH,
        takes_template_arguments=True,
    ),
    # Ignores fields that it does not know, `n` among them.
    "ollama": Preset(
        documentation=("https://docs.ollama.com/api/openai-compatibility",),
        settings={"base_url": "http://localhost:11434/v1", "max_samples_per_call": 1},
        without_thinking={"reasoning_effort": "none"},
    ),
}
