from typing import Any

import pytest

from hydra_ray.config import ApiConfig
from hydra_ray.generate.calls import call_arguments, call_body, expected_tokens
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


@pytest.mark.parametrize(
    ("settings", "without"),
    [
        ({"omit_fields": ["temperature"]}, {"temperature"}),
        ({"omit_fields": ["logprobs"]}, {"logprobs", "top_logprobs"}),
        ({"omit_fields": ["top_logprobs"]}, {"top_logprobs"}),
        ({"omit_fields": ["seed"]}, {"seed"}),
        ({"omit_fields": ["seed"], "seed_field": "random_seed"}, {"seed", "random_seed"}),
        ({"has_seed": False}, {"seed"}),
        ({"omit_fields": ["max_tokens"]}, {"max_tokens"}),
    ],
)
def test_fields_that_an_endpoint_refuses_are_left_out(settings: dict[str, Any], without: set[str]):
    asked = request(num_top_tokens=5)
    usual = set(call_body(arguments(asked)))
    sent = set(call_body(arguments(asked, API.model_validate({**API.model_dump(), **settings}))))
    assert sent == usual - without


def test_added_fields_join_the_others_and_a_fixed_one_takes_the_place_of_an_omitted_one():
    api = ApiConfig(
        base_url="http://localhost/v1",
        model="m",
        extra_body={"temperature": 1, "top_k": 3},
        omit_fields=["temperature"],
    )
    body = call_body(arguments(api=api))
    assert (body["temperature"], body["top_k"]) == (1, 3)
    assert "extra_body" not in body


def test_a_provider_with_another_name_for_the_seed_gets_the_same_seed():
    other = ApiConfig(base_url="http://localhost/v1", model="m", seed_field="random_seed")
    assert call_body(arguments(api=other))["random_seed"] == call_body(arguments())["seed"]


def test_choices_bind_only_where_the_endpoint_can_hold_them():
    assert arguments(is_constrained=True)["extra_body"] == {"structured_outputs": {"choice": ["war", "love"]}}
    assert "extra_body" not in arguments()
    assert "extra_body" not in arguments(request(choices=()), is_constrained=True)


def test_a_call_is_expected_to_take_all_tokens_that_its_answers_may_have():
    assert expected_tokens(REQUEST, 4) - expected_tokens(REQUEST, 1) == 3 * 12
    assert expected_tokens(REQUEST, 1) > len("Name the topic." + "a story " * 40) / 4
