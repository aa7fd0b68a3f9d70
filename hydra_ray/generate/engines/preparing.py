"""What travels to an engine: requests that vLLM is to answer are rendered and tokenized by the CPU step before it."""

import hashlib
from collections.abc import Sequence

from hydra_ray.config import GeneratorConfig
from hydra_ray.generate.failures import FailureKind
from hydra_ray.generate.prompts import render_prompt
from hydra_ray.generate.thoughts import opens_thought
from hydra_ray.models import load_tokenizer
from hydra_ray.rows import Completion, Prompt, Request


def prepare_prompts(requests: Sequence[Request], config: GeneratorConfig) -> tuple[list[Prompt], list[Completion]]:
    """Return what the engine that `config` names is asked, and completions with an error for the other requests.

    Raises:
        ModelError: the model is missing or its tokenizer cannot be loaded.
    """
    if config.engine != "vllm":
        return [Prompt(request=request) for request in requests], []
    tokenizer = load_tokenizer(config.model)
    texts = [render_prompt(request.messages, tokenizer, config) for request in requests]
    token_ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    prompts: list[Prompt] = []
    rejected: list[Completion] = []
    for request, text, ids in zip(requests, texts, token_ids, strict=True):
        error, failure = _reason_against(request, len(ids), config)
        if error is None:
            prompts.append(
                Prompt(
                    request=request,
                    token_ids=tuple(ids),
                    seed=_first_seed(request.seed, text) if request.temperature else None,
                    opens_thought=opens_thought(text),
                )
            )
        else:
            rejected.append(
                Completion(
                    request_id=request.request_id,
                    user_id=request.user_id,
                    prompt_tokens=len(ids),
                    generations=(),
                    error=error,
                    failure=failure,
                )
            )
    return prompts, rejected


def _reason_against(request: Request, prompt_tokens: int, config: GeneratorConfig) -> tuple[str | None, str | None]:
    """Return why a request cannot be run, and the kind of failure; None and None where it can."""
    if prompt_tokens + request.max_tokens > config.max_model_tokens:
        error = (
            f"prompt too long: {prompt_tokens} tokens and an answer of {request.max_tokens} exceed "
            f"generator.max_model_tokens={config.max_model_tokens}"
        )
        return error, FailureKind.TOO_LONG
    if request.temperature == 0 and request.num_samples != 1:
        error = f"greedy samples are identical: got num_samples={request.num_samples}, expected 1"
        return error, FailureKind.REFUSED
    return None, None


def _first_seed(seed: int, prompt: str) -> int:
    """Return the seed of a request's first sample, from which vLLM counts on; distinct prompts draw independently."""
    digest = hashlib.blake2b(f"{seed}\0{prompt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2  # vLLM requires seeds below 2**63, even after counting on
