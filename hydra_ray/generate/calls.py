"""One call of an OpenAI-compatible chat endpoint: its arguments and its response.

Samples are requested by `n`, all in one call where the endpoint allows it, because a prompt is billed once per call.
Each sample has its own seed, the sum of its request's seed and its index: endpoints that draw the samples of a call
from consecutive seeds, as vLLM does, return the same samples however they are divided among calls.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra_ray.config import ApiConfig
from hydra_ray.rows import Generation, Request, Token

if TYPE_CHECKING:
    from openai.types.chat.chat_completion import ChatCompletion, Choice

_MAX_TOP_TOKENS = 20
"""Maximum number of top tokens that hosted endpoints report."""
_IMPOSSIBLE = -9999.0
"""Log-probability that endpoints report for tokens that could not have been generated."""
_CHARACTERS_PER_TOKEN = 4
"""Approximate characters per token of English text, for estimating the size of a call beforehand."""
_FRAME_TOKENS = 4
"""Approximate number of tokens of a message besides its text."""
_SEED_BITS = 31
"""Number of bits of a seed: some endpoints truncate larger ones, and gateways that parse numbers as floats round
them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Result of one successful call."""

    prompt_tokens: int
    generations: tuple[Generation, ...]


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
    characters = sum(len(message.content) for message in request.messages)
    prompt = characters // _CHARACTERS_PER_TOKEN + _FRAME_TOKENS * len(request.messages)
    return prompt + num_samples * request.max_tokens


def read_answers(response: "ChatCompletion", num_samples: int, num_top_tokens: int) -> Answered:
    """Return the generations in a response.

    Raises:
        ValueError: it is not a chat completion with `num_samples` choices.
    """
    try:
        choices = sorted(response.choices, key=lambda choice: choice.index)
        if len(choices) != num_samples:
            raise ValueError(f"got {len(choices)} choices, expected {num_samples}")
        usage = response.usage
        lengths = _lengths(choices, usage.completion_tokens if usage else 0)
        return Answered(
            prompt_tokens=usage.prompt_tokens if usage else 0,
            generations=tuple(
                _generation(choice, length, num_top_tokens) for choice, length in zip(choices, lengths, strict=True)
            ),
        )
    except (AttributeError, TypeError) as error:
        # The client returns whatever JSON it received, or its text.
        raise ValueError("got a response that is not a chat completion") from error


def _generation(choice: "Choice", num_tokens: int, num_top_tokens: int) -> Generation:
    reported = choice.logprobs.content if choice.logprobs else None
    text = choice.message.content
    # A refusal has a field of its own and is no answer.
    is_refused = text is None and choice.message.refusal is not None
    return Generation(
        text=text or "",
        num_tokens=num_tokens,
        finish_reason="content_filter" if is_refused else choice.finish_reason or "",
        log_probability=sum(token.logprob for token in reported) if reported else None,
        first_tokens=tuple(
            Token(text=token.token, log_probability=token.logprob)
            for token in (reported[0].top_logprobs if reported and num_top_tokens else ())
            if token.logprob > _IMPOSSIBLE
        ),
    )


def _lengths(choices: Sequence["Choice"], completion_tokens: int) -> list[int]:
    """Return the generated tokens of each choice: as reported, plus an even share of the unattributed tokens."""
    lengths = [len(choice.logprobs.content or ()) if choice.logprobs else 0 for choice in choices]
    share, rest = divmod(max(completion_tokens - sum(lengths), 0), len(lengths))
    return [length + share + (place < rest) for place, length in enumerate(lengths)]
