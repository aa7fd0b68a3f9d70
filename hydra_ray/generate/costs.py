"""Requests, tokens and cost of a part, as its counters."""

from collections.abc import Collection

from hydra_ray.config import ApiConfig
from hydra_ray.rows import Completion, Generation


def answer_counters(
    used: Collection[Completion],
    asked: Collection[Completion],
    api: ApiConfig | None,
    batched: Collection[Completion] = (),
    price_factor: float = 1.0,
) -> dict[str, float]:
    """Return the counters of the completions that a part used, and of those that were requested and paid for it.

    Args:
        used: one completion for each distinct request, from the store or new.
        asked: those of them that were requested for this part, one call at a time.
        api: endpoint whose prices apply; None where nothing is paid.
        batched: those of them that were requested for this part in batches.
        price_factor: price of a token in a batch, as a share of that of a call.

    Returns:
        requests, prompt_tokens, generated_tokens, cut (generations that reached their length limit), and where there
        are thoughts, thoughts (generations with one) and thought_tokens (within generated_tokens), over `used`;
        asked_now, asked_tokens, attempts (calls of the generator), and cost where there are prices, over `asked`
        and `batched`.
    """
    paid = [*asked, *batched]
    counters: dict[str, float] = {
        "requests": len(used),
        "prompt_tokens": sum(each.prompt_tokens for each in used),
        "generated_tokens": _generated_tokens(used),
        "cut": sum(generation.finish_reason == "length" for generation in _generations(used)),
        "asked_now": len(paid),
        "asked_tokens": sum(each.prompt_tokens for each in paid) + _generated_tokens(paid),
        "attempts": sum(each.attempts for each in paid),
    }
    thoughts = [generation.thought_tokens for generation in _generations(used) if generation.thought_tokens]
    if thoughts:
        counters |= {"thoughts": len(thoughts), "thought_tokens": sum(thoughts)}
    if api is None:
        return counters
    return {**counters, "cost": _price(asked, api) + _price(batched, api) * price_factor}


def _price(completions: Collection[Completion], api: ApiConfig) -> float:
    prompt_tokens = sum(each.prompt_tokens for each in completions)
    return (prompt_tokens * api.prompt_price + _generated_tokens(completions) * api.generated_price) / 1_000_000


def _generated_tokens(completions: Collection[Completion]) -> int:
    return sum(generation.num_tokens for generation in _generations(completions))


def _generations(completions: Collection[Completion]) -> list[Generation]:
    return [generation for completion in completions for generation in completion.generations]
