"""Profiles: summaries of users by the generator (PAG, Richardson et al. 2023, arXiv 2310.20081), input of a baseline.

Only evaluated users have one. It sums up the whole history, so no pseudo-query may see it: its own target is in there.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hydra_ray.config import GeneratorConfig, Task
from hydra_ray.generate.parsing import text_error
from hydra_ray.generate.prompts import PROFILE_TOKENS, profile_messages
from hydra_ray.generate.requests import make_request, rendering_of
from hydra_ray.rows import Asked, Completion, ProfiledUser, User

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def profile_requests(
    users: Sequence[User], task: Task, tokenizer: "PreTrainedTokenizerBase", config: GeneratorConfig
) -> Iterator[Asked]:
    """Yield one greedy request for each evaluated user with a history."""
    for user in users:
        if user.is_evaluated() and user.history:
            request = make_request(
                user_id=user.user_id,
                messages=profile_messages(task, user.history, tokenizer, config),
                max_tokens=PROFILE_TOKENS,
                config=config,
                rendering=rendering_of(tokenizer, config),
            )
            yield Asked(key=user.user_id, request=request)


def written_profiles(users: Sequence[User], completions: Mapping[str, Completion]) -> Iterator[ProfiledUser]:
    """Yield rows of the profiles table.

    Args:
        completions: completions by key, for every request of `profile_requests` on the same users.
    """
    for user in users:
        completion = completions.get(user.user_id)
        if completion is None:
            yield ProfiledUser(user_id=user.user_id, profile=None, error=None)
            continue
        error = completion.error or text_error(completion.generations[0])
        profile = completion.generations[0].text.strip() if error is None else None
        yield ProfiledUser(user_id=user.user_id, profile=profile, error=error)
