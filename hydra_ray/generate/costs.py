"""Requests, tokens and cost of a part, as its counters."""

from collections.abc import Collection

from hydra_ray.config import ApiConfig
from hydra_ray.rows import Completion, Generation


def answer_counters(
    used: Collection[Completion], asked: Collection[Completion], api: ApiConfig | None
) -> dict[str, float]:
    """Return the counters of the completions that a part used, and of those that were requested and paid for it.

    Args:
        used: one completion for each distinct request, from the store or new.
        asked: those of them that were requested for this part.
        api: endpoint whose prices apply; None where nothing is paid.

    Returns:
        requests, prompt_tokens, generated_tokens, cut (generations that reached their length limit), and where there
        are thoughts, thoughts (generations with one) and thought_tokens (within generated_tokens), over `used`;
        asked_now, asked_tokens, attempts (calls of the generator), and cost where there are prices, over `asked`.
    """
    counters: dict[str, float] = {
        "requests": len(used),
        "prompt_tokens": sum(each.prompt_tokens for each in used),
        "generated_tokens": _generated_tokens(used),
        "cut": sum(generation.finish_reason == "length" for generation in _generations(used)),
        "asked_now": len(asked),
        "asked_tokens": sum(each.prompt_tokens for each in asked) + _generated_tokens(asked),
        "attempts": sum(each.attempts for each in asked),
    }
    thoughts = [generation.thought_tokens for generation in _generations(used) if generation.thought_tokens]
    if thoughts:
        counters |= {"thoughts": len(thoughts), "thought_tokens": sum(thoughts)}
    if api is None:
        return counters
    prompt_tokens = sum(each.prompt_tokens for each in asked)
    paid = prompt_tokens * api.prompt_price + _generated_tokens(asked) * api.generated_price
    return {**counters, "cost": paid / 1_000_000}


def _generated_tokens(completions: Collection[Completion]) -> int:
    return sum(generation.num_tokens for generation in _generations(completions))


def _generations(completions: Collection[Completion]) -> list[Generation]:
    return [generation for completion in completions for generation in completion.generations]
