import math
from typing import Any

import pytest
from fault_server import completion_of

from hydra_ray.errors import ReplyError
from hydra_ray.generate.replies import Answered, read_answers

MESSAGES = [{"role": "user", "content": "a story of war and peace"}]


def response(**changes: object) -> dict[str, Any]:
    body = completion_of({"model": "m", "max_tokens": 12, "n": 2, "temperature": 1.0, "messages": MESSAGES})
    return body | changes


def test_answers_come_back_in_the_order_of_their_samples_with_what_they_took():
    told = response()
    told["choices"].reverse()
    answered = read_answers(told, 2, 0)
    assert answered == read_answers(response(), 2, 0)
    assert answered.prompt_tokens == told["usage"]["prompt_tokens"]
    assert sum(each.num_tokens for each in answered.generations) == told["usage"]["completion_tokens"]


@pytest.mark.parametrize("tokens", [1, 2, 7, 8])
def test_generated_tokens_that_are_not_told_by_answer_are_shared_out(tokens: int):
    usage = {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens}
    lengths = [each.num_tokens for each in read_answers(response(usage=usage), 2, 0).generations]
    assert sum(lengths) == tokens
    assert max(lengths) - min(lengths) <= 1


def told(*tokens: tuple[str, float], top: list[tuple[str, float]] | None = None) -> Answered:
    """What is read of one answer whose tokens' log-probabilities are told."""
    body = completion_of({"model": "m", "max_tokens": 12, "temperature": 0, "messages": MESSAGES})
    alternatives = [{"token": text, "logprob": log} for text, log in top or []]
    body["choices"][0]["logprobs"] = {
        "content": [{"token": text, "logprob": log, "top_logprobs": alternatives} for text, log in tokens]
    }
    return read_answers(body, 1, len(alternatives))


def test_a_texts_log_probability_is_the_sum_over_its_tokens():
    (generation,) = told(("dark", -0.5), (" comedy", -0.25)).generations
    assert generation.log_probability == -0.75


def test_likely_first_tokens_are_told_without_those_that_were_impossible():
    (generation,) = told(("war", -0.1), ("", -1.0), top=[("war", -0.1), ("love", -3.0), ("!", -9999.0)]).generations
    assert [(each.text, each.log_probability) for each in generation.first_tokens] == [("war", -0.1), ("love", -3.0)]
    assert all(math.isfinite(each.log_probability) for each in generation.first_tokens)


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_why_an_answer_ended_is_recorded_as_it_was_told(reason: str):
    body = completion_of({"model": "m", "max_tokens": 12, "temperature": 0, "messages": MESSAGES}, reason)
    (generation,) = read_answers(body, 1, 0).generations
    assert generation.finish_reason == reason
    assert (generation.text == "") == (reason == "content_filter")


def test_a_refusal_is_no_answer():
    body = completion_of({"model": "m", "max_tokens": 12, "temperature": 0, "messages": MESSAGES})
    body["choices"][0]["message"] = {"role": "assistant", "content": None, "refusal": "I cannot say that."}
    (generation,) = read_answers(body, 1, 0).generations
    assert (generation.text, generation.finish_reason) == ("", "content_filter")


@pytest.mark.parametrize(
    "body",
    [
        "<html>",
        None,
        {},
        {"choices": None},
        {"choices": []},
        {"choices": [{"index": 0}]},
        {"choices": [{"index": 0, "message": None}, {"index": 1, "message": {"content": 7}}]},
    ],
)
def test_what_is_no_completion_is_an_error(body: Any):
    with pytest.raises(ReplyError, match="got"):
        read_answers(body, 2, 0)
