"""Requests to the generator and their parsed answers, shared by probes and drafts."""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra_ray.config import GeneratorConfig, Task
from hydra_ray.generate.chat_template import open_template
from hydra_ray.generate.parsing import failed_answer, parse_answer
from hydra_ray.generate.prompts import fit_messages
from hydra_ray.rows import Answer, Completion, Message, Record, Request
from hydra_ray.seeds import seed_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_TOP_TOKENS = 20
"""Number of most likely first tokens requested with a greedy answer to a closed task: the most that hosted APIs
report."""


def ask(
    *,
    user_id: str,
    examples: Sequence[Record],
    query_input: str,
    task: Task,
    tokenizer: "PreTrainedTokenizerBase",
    config: GeneratorConfig,
    profile: str | None = None,
    num_samples: int = 1,
    temperature: float = 0.0,
) -> Request:
    """Return the request for an answer to `query_input` with `examples` (best first); greedy unless a temperature is
    given.

    Args:
        profile: generated description of the user, put before everything else.
    """
    if config.is_constrained and task.is_closed:
        # A constrained generator may emit a label in more tokens than its tokenizer would: at most one per byte.
        longest = max(len(label.encode()) for label in task.labels)
        task = task.model_copy(update={"max_tokens": max(task.max_tokens, longest + 1)})
    return make_request(
        user_id=user_id,
        messages=fit_messages(task, examples, query_input, tokenizer, config, profile=profile),
        max_tokens=task.max_tokens,
        config=config,
        num_samples=num_samples,
        temperature=temperature,
        choices=task.labels if config.is_constrained else (),
        num_top_tokens=NUM_TOP_TOKENS if task.is_closed and temperature == 0 else 0,
        rendering=rendering_of(tokenizer, config),
    )


def make_request(
    *,
    user_id: str,
    messages: tuple[Message, ...],
    max_tokens: int,
    config: GeneratorConfig,
    num_samples: int = 1,
    temperature: float = 0.0,
    choices: tuple[str, ...] = (),
    num_top_tokens: int = 0,
    rendering: str = "",
) -> Request:
    """Return a request whose id is a hash of its content.

    Args:
        max_tokens: length limit of an answer; that of the request leaves room for a thought too.
        rendering: what `rendering_of` returns; empty where messages are rendered by the template's own rules.
    """
    max_tokens += config.thinking_tokens
    turns = [(message.role, message.content) for message in messages]
    content = [user_id, turns, num_samples, temperature, max_tokens, choices, num_top_tokens, config.seed]
    content += [rendering] if rendering else []
    request_id = hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
    return Request(
        request_id=request_id,
        user_id=user_id,
        messages=messages,
        num_samples=num_samples,
        temperature=temperature,
        max_tokens=max_tokens,
        choices=choices,
        num_top_tokens=num_top_tokens,
        seed=seed_of(config.seed, request_id),
    )


def rendering_of(tokenizer: "PreTrainedTokenizerBase", config: GeneratorConfig) -> str:
    """Return how a loaded model's prompts are rendered otherwise than its template alone does; empty for an endpoint,
    which renders them itself.

    Raises:
        ModelError, ConfigError: as `open_template`.
    """
    return "" if config.api is not None else open_template(tokenizer, config).repairs


def parse_completion(completion: Completion, num_samples: int, task: Task) -> list[Answer]:
    """Return the `num_samples` answers of a request, failed ones included."""
    if completion.error is not None:
        return [failed_answer(completion.error)] * num_samples
    return [parse_answer(task, generation) for generation in completion.generations]
