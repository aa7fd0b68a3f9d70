from dataclasses import replace

import pytest

from hydra_ray.config import ApiConfig
from hydra_ray.generate.costs import answer_counters
from hydra_ray.rows import Completion, Generation

API = ApiConfig(base_url="http://localhost/v1", model="m", prompt_price=2.0, generated_price=8.0)


def completion(number: int, prompt_tokens: int, *generated_tokens: int) -> Completion:
    return Completion(
        request_id=str(number),
        user_id="u",
        prompt_tokens=prompt_tokens,
        generations=tuple(Generation(text="x", num_tokens=each, finish_reason="stop") for each in generated_tokens),
        error=None,
        attempts=number,
    )


USED = [completion(1, 100, 5), completion(2, 300, 7, 9), completion(4, 1000, 50)]


def test_tokens_of_all_answers_are_counted_and_only_what_was_asked_is_paid():
    counters = answer_counters(USED, USED[:2], API)
    assert (counters["requests"], counters["prompt_tokens"], counters["generated_tokens"]) == (3, 1400, 71)
    assert (counters["asked_now"], counters["attempts"]) == (2, 3)
    assert counters["cost"] == pytest.approx((400 * 2.0 + 21 * 8.0) / 1e6)


def test_a_generator_of_ones_own_costs_nothing():
    assert "cost" not in answer_counters(USED, USED, None)


def test_answers_that_reached_their_largest_length_are_counted():
    (whole,) = completion(1, 10, 4).generations
    cut = replace(USED[0], generations=(whole, replace(whole, finish_reason="length")))
    assert answer_counters([cut, *USED[1:]], [], None)["cut"] == 1


def test_tokens_of_batches_are_paid_at_their_share_of_the_price():
    counters = answer_counters(USED, USED[:1], API, USED[1:2], 0.5)
    assert (counters["asked_now"], counters["asked_tokens"]) == (2, 421)
    assert counters["cost"] == pytest.approx((100 * 2.0 + 5 * 8.0 + 0.5 * (300 * 2.0 + 16 * 8.0)) / 1e6)
