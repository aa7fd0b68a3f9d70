"""One call of an OpenAI-compatible chat endpoint: its arguments and its size.

Samples are requested by `n`, all in one call where the endpoint allows it, because a prompt is billed once per call.
Each sample has its own seed, the sum of its request's seed and its index: endpoints that draw the samples of a call
from consecutive seeds, as vLLM does, return the same samples however they are divided among calls.
"""

from typing import Any

from hydra_ray.config import ApiConfig
from hydra_ray.rows import Request

_MAX_TOP_TOKENS = 20
"""Maximum number of top tokens that hosted endpoints report."""
_CHARACTERS_PER_TOKEN = 4
"""Approximate characters per token of English text, for estimating the size of a call beforehand."""
_FRAME_TOKENS = 4
"""Approximate number of tokens of a message besides its text."""
_SEED_BITS = 31
"""Number of bits of a seed: some endpoints truncate larger ones, and gateways that parse numbers as floats round
them."""


def call_arguments(request: Request, api: ApiConfig, samples: range, *, is_constrained: bool) -> dict[str, Any]:
    """Return the arguments of `chat.completions.create` for some samples of a request.

    Args:
        samples: consecutive sample indices.
        is_constrained: whether to constrain the endpoint to the request's choices.
    """
    arguments: dict[str, Any] = {
        "model": api.model,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "temperature": request.temperature,
        api.length_field: request.max_tokens,
    }
    if len(samples) > 1:
        arguments["n"] = len(samples)
    if request.temperature:
        # One bit is left for the indices, so that no two samples of a request share a seed.
        arguments["seed"] = (request.seed % 2 ** (_SEED_BITS - 1)) + samples.start
    if api.has_log_probabilities:
        arguments["logprobs"] = True
        if request.num_top_tokens:
            arguments["top_logprobs"] = min(request.num_top_tokens, _MAX_TOP_TOKENS)
    if is_constrained and request.choices:
        arguments["extra_body"] = {"structured_outputs": {"choice": list(request.choices)}}
    return arguments


def expected_tokens(request: Request, num_samples: int) -> int:
    """Return an approximate upper bound of the tokens of a call, prompt and answers."""
    characters = sum(len(message.content) for message in request.messages)
    prompt = characters // _CHARACTERS_PER_TOKEN + _FRAME_TOKENS * len(request.messages)
    return prompt + num_samples * request.max_tokens
