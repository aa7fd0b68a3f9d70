from dataclasses import replace

import pytest
from builders import user
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.forecast.counting import label_tokens, shared_prefix_tokens
from hydra_ray.forecast.user_sample import UserSample
from hydra_ray.generate.engines.fake import fake_tokenizer
from hydra_ray.lamp.tasks import TASKS

PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), max_size=8)


def cached(prompts: list[list[int]], block: int) -> int:
    """A prefix cache without a limit, as a set of blocks with all that comes before them."""
    blocks: set[tuple[int, ...]] = set()
    found = 0
    for prompt in sorted(prompts):
        ends = range(block, len(prompt) + 1, block)
        hits = 0
        for end in ends:
            if tuple(prompt[:end]) not in blocks or end == len(prompt):
                break
            hits = end
        found += hits
        blocks |= {tuple(prompt[:end]) for end in ends}
    return found


@given(PROMPTS, st.integers(1, 4))
def test_what_prompts_share_is_what_a_prefix_cache_would_find(prompts: list[list[int]], block: int):
    assert shared_prefix_tokens(prompts, block) == cached(prompts, block)


@pytest.mark.parametrize("outputs", [("comedy", "comedy", "psychology"), ()])
def test_labels_are_as_long_as_their_tokens_and_an_end_weighted_by_the_histories(outputs: tuple[str, ...]):
    someone = user(len(outputs))
    history = tuple(replace(each, output=output) for each, output in zip(someone.history, outputs, strict=True))
    sample = UserSample(users={0: [replace(someone, history=history)]}, counters={"users": 1})
    task = TASKS["planted"].model_copy(update={"labels": ("comedy", "psychology", "dark comedy film")})
    # The fake tokenizer counts words and the spaces between them.
    assert label_tokens(sample, task, fake_tokenizer()) == pytest.approx(2 if outputs else (2 + 2 + 6) / 3)
