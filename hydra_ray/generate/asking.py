"""A question to the generator and its parsed answers: the same for probes and drafts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra_ray.config import GeneratorConfig, Task
from hydra_ray.generate.parsing import failed_answer, parse_answer
from hydra_ray.generate.prompts import fit_messages
from hydra_ray.records import Answer, Completion, Record, Request
from hydra_ray.seeds import seed_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def ask(
    *,
    request_id: str,
    examples: Sequence[Record],
    query_input: str,
    task: Task,
    tokenizer: "PreTrainedTokenizerBase",
    config: GeneratorConfig,
    num_samples: int = 1,
    temperature: float = 0.0,
) -> Request:
    """The request that asks `query_input` with `examples` (best first); greedy unless a temperature is given."""
    if config.is_constrained and task.is_closed:
        # A constrained generator may spell a label in more tokens than its tokenizer would, at most one a byte.
        longest = max(len(label.encode()) for label in task.labels)
        task = task.model_copy(update={"max_tokens": max(task.max_tokens, longest + 1)})
    return Request(
        request_id=request_id,
        messages=fit_messages(task, examples, query_input, tokenizer, config),
        num_samples=num_samples,
        temperature=temperature,
        max_tokens=task.max_tokens,
        choices=task.labels if config.is_constrained else (),
        seed=seed_of(config.seed, request_id),
    )


def parse_completion(completion: Completion, num_samples: int, task: Task) -> list[Answer]:
    """The answers of a request: `num_samples` of them, failed ones included."""
    if completion.error is not None:
        return [failed_answer(completion.error)] * num_samples
    return [parse_answer(task, generation) for generation in completion.generations]
