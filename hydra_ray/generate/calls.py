"""One call of an OpenAI-compatible chat endpoint: its arguments and its size.

Samples are requested by `n`, all in one call where the endpoint allows it, because a prompt is billed once per call.
Each sample has its own seed, the sum of its request's seed and its index: endpoints that draw the samples of a call
from consecutive seeds, as vLLM does, return the same samples however they are divided among calls.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra_ray.config import ApiConfig
from hydra_ray.generate.replies import approximate_tokens
from hydra_ray.rows import Request

UNCONSTRAINED = (
    "generator.api.has_structured_outputs is false, so that answers that name no label fail; set it where the endpoint "
    "takes generator.api.choices_field"
)
"""What is said where labels are asked for and the endpoint is not constrained to them."""
_MAX_TOP_TOKENS = 20
"""Maximum number of top tokens that hosted endpoints report."""
_FRAME_TOKENS = 4
"""Approximate number of tokens of a message besides its text."""
_SEED_BITS = 31
"""Number of bits of a seed: some endpoints truncate larger ones, and gateways that parse numbers as floats round
them."""


def call_arguments(
    request: Request,
    api: ApiConfig,
    samples: range,
    *,
    is_constrained: bool,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the arguments of `chat.completions.create` for some samples of a request.

    Args:
        samples: consecutive sample indices.
        is_constrained: whether to constrain the endpoint to the request's choices.
        chat_template_kwargs: arguments of the endpoint's chat template, if any.

    Returns:
        Fields of the request; those that are not OpenAI's are in the argument `extra_body`, which `call_body` merges.
    """
    added = added_fields(api, chat_template_kwargs)
    arguments: dict[str, Any] = {
        "model": api.model,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "temperature": request.temperature,
        api.length_field: request.max_tokens,
    }
    if len(samples) > 1:
        arguments["n"] = len(samples)
    if request.temperature and api.has_seed:
        # One bit is left for the indices, so that no two samples of a request share a seed.
        seed = (request.seed % 2 ** (_SEED_BITS - 1)) + samples.start
        if api.seed_field == "seed":
            arguments["seed"] = seed
        else:
            added.setdefault(api.seed_field, seed)
    if api.has_log_probabilities:
        arguments["logprobs"] = True
        if request.num_top_tokens:
            arguments["top_logprobs"] = min(request.num_top_tokens, _MAX_TOP_TOKENS)
    if is_constrained and request.choices:
        added[api.choices_field] = _CHOICES[api.choices_field](request.choices)
    added = {name: value for name, value in added.items() if name in api.extra_body or name not in api.omitted}
    arguments = {name: value for name, value in arguments.items() if name not in api.omitted}
    return {**arguments, "extra_body": added} if added else arguments


def call_body(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON body that the client sends for the arguments of a call."""
    return {
        **{name: value for name, value in arguments.items() if name != "extra_body"},
        **arguments.get("extra_body", {}),
    }


def added_fields(api: ApiConfig, chat_template_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields that the configuration adds to every request; the chat template's arguments are merged with
    those that switch thinking off, and go before them."""
    added: dict[str, Any] = api.added_fields
    if chat_template_kwargs:
        switch = added.get("chat_template_kwargs", {})
        added["chat_template_kwargs"] = {**switch, **chat_template_kwargs}
    return added


def _choice_mapping(choices: Sequence[str]) -> dict[str, list[str]]:
    return {"choice": list(choices)}


def _choice_pattern(choices: Sequence[str]) -> str:
    """Return a regular expression, of the syntax that all engines share, for exactly these texts."""
    return "(" + "|".join(re.sub(r"([\\^$.|?*+()\[\]{}/-])", r"\\\1", each) for each in choices) + ")"


def _choice_grammar(choices: Sequence[str]) -> str:
    """Return a grammar in GBNF for exactly these texts; JSON's string literals are GBNF's."""
    return "root ::= " + " | ".join(json.dumps(each, ensure_ascii=False) for each in choices)


_CHOICES: Mapping[str, Callable[[Sequence[str]], Any]] = {
    "structured_outputs": _choice_mapping,
    "regex": _choice_pattern,
    "grammar": _choice_grammar,
}
"""Form of a request's choices, by the name of the field."""


def expected_tokens(request: Request, num_samples: int) -> int:
    """Return an approximate upper bound of the tokens of a call, prompt and answers."""
    prompt = sum(approximate_tokens(message.content) + _FRAME_TOKENS for message in request.messages)
    return prompt + num_samples * request.max_tokens
