import math

import pytest
from fault_server import completion_of
from openai.types.chat import ChatCompletion

from hydra_ray.config import ApiConfig
from hydra_ray.generate.calls import Answered, call_arguments, expected_tokens, read_answers
from hydra_ray.rows import Message, Request

API = ApiConfig(base_url="http://localhost/v1", model="small-1")
REQUEST = Request(
    request_id="r",
    user_id="ann@example.org",
    messages=(Message(role="system", content="Name the topic."), Message(role="user", content="a story " * 40)),
    num_samples=4,
    temperature=0.7,
    max_tokens=12,
    choices=("war", "love"),
    num_top_tokens=0,
    seed=2**63 - 1,
)
GREEDY = {"temperature": 0.0, "num_samples": 1, "num_top_tokens": 20}


def request(**changes: object) -> Request:
    return Request(**{name: getattr(REQUEST, name) for name in REQUEST.__slots__} | changes)  # type: ignore[arg-type]


def arguments(
    asked: Request = REQUEST, api: ApiConfig = API, samples: range = range(4), *, is_constrained: bool = False
):
    return call_arguments(asked, api, samples, is_constrained=is_constrained)


def response(**changes: object) -> ChatCompletion:
    body = completion_of({"model": "m", "max_tokens": 12, "n": 2, "temperature": 1.0, "messages": MESSAGES})
    return ChatCompletion.model_validate(body | changes)


MESSAGES = [{"role": "user", "content": "a story of war and peace"}]


def test_a_call_asks_for_the_exact_messages_and_all_samples_at_once():
    sent = arguments()
    assert sent["messages"] == [{"role": each.role, "content": each.content} for each in REQUEST.messages]
    assert (sent["model"], sent["n"], sent["temperature"], sent["max_tokens"]) == ("small-1", 4, 0.7, 12)


def test_no_user_id_is_sent():
    assert REQUEST.user_id not in repr(arguments())


def test_each_sample_has_the_seed_that_it_would_have_in_one_call_of_all():
    together = arguments()["seed"]
    alone = [arguments(samples=range(place, place + 1)) for place in range(4)]
    assert [each["seed"] for each in alone] == [together + place for place in range(4)]
    assert all("n" not in each for each in alone)
    assert 0 <= together < together + 3 < 2**31


def test_a_greedy_call_has_no_seed_and_tells_its_likely_first_tokens():
    sent = arguments(request(**GREEDY), samples=range(1))
    assert "seed" not in sent
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 20)


def test_what_an_endpoint_does_not_take_is_not_sent():
    plain = ApiConfig(
        base_url="http://localhost/v1", model="m", has_log_probabilities=False, length_field="max_completion_tokens"
    )
    sent = arguments(request(**GREEDY), plain, range(1))
    assert not {"logprobs", "top_logprobs", "max_tokens", "extra_body"} & set(sent)
    assert sent["max_completion_tokens"] == 12


def test_choices_bind_only_where_the_endpoint_can_hold_them():
    assert arguments(is_constrained=True)["extra_body"] == {"structured_outputs": {"choice": ["war", "love"]}}
    assert "extra_body" not in arguments()
    assert "extra_body" not in arguments(request(choices=()), is_constrained=True)


def test_a_call_is_expected_to_take_all_tokens_that_its_answers_may_have():
    assert expected_tokens(REQUEST, 4) - expected_tokens(REQUEST, 1) == 3 * 12
    assert expected_tokens(REQUEST, 1) > len("Name the topic." + "a story " * 40) / 4


def test_answers_come_back_in_the_order_of_their_samples_with_what_they_took():
    told = response()
    told.choices.reverse()
    answered = read_answers(told, 2, 0)
    assert answered == read_answers(response(), 2, 0)
    assert told.usage is not None
    assert answered.prompt_tokens == told.usage.prompt_tokens
    assert sum(each.num_tokens for each in answered.generations) == told.usage.completion_tokens


@pytest.mark.parametrize("tokens", [0, 1, 7, 8])
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
    return read_answers(ChatCompletion.model_validate(body), 1, len(alternatives))


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
    (generation,) = read_answers(ChatCompletion.model_validate(body), 1, 0).generations
    assert generation.finish_reason == reason
    assert (generation.text == "") == (reason == "content_filter")


def test_a_refusal_is_no_answer():
    body = completion_of({"model": "m", "max_tokens": 12, "temperature": 0, "messages": MESSAGES})
    body["choices"][0]["message"] = {"role": "assistant", "content": None, "refusal": "I cannot say that."}
    (generation,) = read_answers(ChatCompletion.model_validate(body), 1, 0).generations
    assert (generation.text, generation.finish_reason) == ("", "content_filter")


@pytest.mark.parametrize(
    "body",
    [
        "<html>",
        None,
        ChatCompletion.construct(),
        ChatCompletion.construct(choices=None),
        ChatCompletion.construct(choices=[]),
        ChatCompletion.construct(choices=[{"index": 0}]),
        ChatCompletion.construct(choices=[{"index": 0, "message": None}, {"index": 1, "message": {"content": 7}}]),
    ],
)
def test_what_is_no_completion_is_an_error(body: ChatCompletion):
    with pytest.raises(ValueError, match="got"):
        read_answers(body, 2, 0)
