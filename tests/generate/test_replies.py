import contextlib
import json
import math
from typing import Any

import pytest
from fault_server import completion_of
from hypothesis import given
from hypothesis import strategies as st
from reply_bodies import body_of, with_tokens

from hydra_ray.errors import ReplyError
from hydra_ray.generate.replies import Answered, Flaw, parse_reply, read_answers, without_broken_choices

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


def test_a_reply_of_nothing_optional_is_read_with_its_flaws():
    body = body_of({"content": "war"})
    del body["usage"], body["choices"][0]["logprobs"], body["choices"][0]["index"]
    answered = read_answers(body, 1, 20)
    assert answered.flaws == {Flaw.PROMPT_TOKENS, Flaw.GENERATED_TOKENS}
    (generation,) = answered.generations
    assert (generation.text, generation.num_tokens, generation.log_probability) == ("war", 1, None)


@pytest.mark.parametrize(
    "tokens", [None, -1, -(2**70), 10**9, 10**400, 1.5, float("nan"), float("inf"), True, "7", [7], {}], ids=repr
)
def test_an_absurd_number_of_tokens_is_a_flaw_and_costs_no_answer(tokens: Any):
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens}
    answered = read_answers(body_of({"content": "war and peace"}, usage=usage), 1, 0, count_tokens=len)
    assert answered.flaws == {Flaw.PROMPT_TOKENS, Flaw.GENERATED_TOKENS}
    assert (answered.prompt_tokens, answered.generations[0].num_tokens) == (0, len("war and peace"))


@pytest.mark.parametrize("usage", [None, [], "none", 0, {"prompt_tokens": 0, "completion_tokens": 0}])
def test_usage_that_tells_nothing_means_that_tokens_are_counted(usage: Any):
    answered = read_answers(body_of({"content": "war"}, {"content": "or love"}, usage=usage), 2, 0, count_tokens=len)
    assert answered.flaws == {Flaw.PROMPT_TOKENS, Flaw.GENERATED_TOKENS}
    assert [each.num_tokens for each in answered.generations] == [3, 7]


def test_whole_numbers_that_a_gateway_made_floats_are_numbers_of_tokens():
    answered = read_answers(body_of({"content": "war"}, usage={"prompt_tokens": 9.0, "completion_tokens": 2.0}), 1, 0)
    assert (answered.prompt_tokens, answered.generations[0].num_tokens, answered.flaws) == (9, 2, frozenset())


@pytest.mark.parametrize("text", ["\ud83d", "rain \ude00 again", "\udfff\ud800"])
def test_half_a_character_is_replaced_in_answer_thought_and_first_tokens(text: str):
    top = [{"token": text, "logprob": -1.0}]
    content = json.dumps(with_tokens(body_of({"content": text, "reasoning": None}), text, top=top)).encode()
    answered = read_answers(parse_reply(content), 1, 20)
    (generation,) = answered.generations
    assert Flaw.SURROGATES in answered.flaws
    assert generation.text == "".join("\N{REPLACEMENT CHARACTER}" if "\ud800" <= c <= "\udfff" else c for c in text)
    assert "\N{REPLACEMENT CHARACTER}" in generation.first_tokens[0].text


def test_a_whole_emoji_and_bytes_that_are_not_utf_8_are_read():
    content = json.dumps(body_of({"content": "\U0001f600 XX"})).encode().replace(b"XX", b"\xff")
    (generation,) = read_answers(parse_reply(content), 1, 0).generations
    assert generation.text == "\U0001f600 \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("value", [1000, 0.5, 1e308, float("inf"), float("nan"), -1e300, None, "x", True, [], 10**400])
def test_a_log_probability_that_is_none_is_left_out_and_costs_no_answer(value: Any):
    wrong_top = read_answers(
        with_tokens(body_of({"content": "war"}), "war", top=[{"token": "a", "logprob": value}]), 1, 20
    )
    body = with_tokens(body_of({"content": "war"}), "war")
    body["choices"][0]["logprobs"]["content"][0]["logprob"] = value
    wrong_token = read_answers(body, 1, 20)
    for answered in (wrong_top, wrong_token):
        assert (answered.generations[0].text, answered.generations[0].first_tokens) == ("war", ())
        assert answered.flaws == {Flaw.LOG_PROBABILITIES}
    assert wrong_token.generations[0].log_probability is None


@pytest.mark.parametrize("top", [None, "none", 7, {}, [None], [{"token": None, "logprob": -1}], [[]]])
def test_top_tokens_of_any_other_form_cost_no_answer(top: Any):
    (generation,) = read_answers(with_tokens(body_of({"content": "war"}), "war", top=top), 1, 20).generations
    assert (generation.text, generation.first_tokens, generation.log_probability) == ("war", (), -0.25)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Rain"}], "Rain"),
        ([{"type": "text", "text": "Rain"}, {"type": "text", "text": " again"}], "Rain again"),
        ([{"type": "output_text", "text": "Rain"}, {"type": "image_url", "image_url": {"url": "x"}}], "Rain"),
        (["Rain", None, 7, [], {"type": "text", "text": None}], "Rain"),
        ({"type": "text", "text": "Rain"}, "Rain"),
        ([], ""),
        (None, ""),
    ],
)
def test_the_text_parts_of_a_content_are_the_answer(content: Any, text: str):
    assert read_answers(body_of({"content": content}), 1, 0).generations[0].text == text


@pytest.mark.parametrize(
    ("indices", "texts"),
    [([1, 0, 2], "bac"), ([0, 0, 0], "abc"), ([5, 6, 7], "abc"), ([None, "0", True], "abc"), ([0, 2, -1], "abc")],
)
def test_choices_whose_indices_are_no_order_keep_their_own(indices: list[Any], texts: str):
    body = body_of(*({"content": text} for text in "abc"))
    for choice, index in zip(body["choices"], indices, strict=True):
        choice["index"] = index
    assert "".join(each.text for each in read_answers(body, 3, 0).generations) == texts
    assert len(read_answers(body, 2, 0).generations) == 2


def test_no_choice_at_all_is_said():
    with pytest.raises(ReplyError, match="no choice"):
        read_answers(body_of(), 1, 0)


def test_too_few_choices_name_the_setting_that_helps():
    with pytest.raises(ReplyError, match=r"got 1 choices, expected 3: set generator.api.max_samples_per_call"):
        read_answers(body_of({"content": "war"}), 3, 0)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ({"message": "my diary", "code": 429}, r"an error \(429\)"),
        ({"message": "my diary", "code": "overloaded"}, r"an error \(overloaded\)"),
        ({"message": "my diary", "code": "my diary, page 1"}, "an error in"),
        ("my diary", "an error in"),
        (["my diary"], "an error in"),
    ],
)
def test_an_error_with_status_200_is_said_without_its_text(error: Any, says: str):
    with pytest.raises(ReplyError, match=says) as caught:
        read_answers({"error": error, "choices": None}, 1, 0)
    assert "diary" not in str(caught.value)


def test_a_choice_that_broke_off_by_an_error_is_no_answer():
    body = body_of({"content": "Rai"})
    body["choices"][0] |= {"finish_reason": "error", "error": {"code": 502}}
    with pytest.raises(ReplyError, match=r"a choice with an error \(502\)"):
        read_answers(body, 1, 0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><p>my diary", "a web page"),
        (b"my diary", "text that is not JSON"),
        (b"", "nothing"),
        (b"data: {}", "a stream of events"),
        (b": PROCESSING\n\ndata: {}", "a stream of events"),
        (b"[" * 100_000, "text that is not JSON"),
        (b'{"a":' * 100_000, "text that is not JSON"),
    ],
)
def test_what_is_not_json_is_named_and_the_setting_too(content: bytes, says: str):
    with pytest.raises(ReplyError, match=f"got {says}.*generator.api.base_url"):
        parse_reply(content)


def test_an_integer_of_thousands_of_digits_costs_no_answer():
    content = json.dumps(body_of({"content": "war"}, created=0)).replace('"created": 0', '"created": ' + "9" * 5000)
    assert read_answers(parse_reply(content.encode()), 1, 0).generations[0].text == "war"


@pytest.mark.parametrize(
    ("reason", "read"),
    [
        ("MAX_TOKENS", "length"),
        ("model_length", "length"),
        ("SAFETY", "content_filter"),
        (None, ""),
        (7, ""),
        ("a b", ""),
    ],
)
def test_other_names_of_how_an_answer_ended_are_known(reason: Any, read: str):
    body = body_of({"content": "war"})
    body["choices"][0]["finish_reason"] = reason
    assert read_answers(body, 1, 0).generations[0].finish_reason == read


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["choices", "message", "content", "usage", "error", "index", "type", "text", "logprobs", "logprob"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_answers_or_a_reply_error(body: Any):
    with contextlib.suppress(ReplyError):
        assert len(read_answers(body, 1, 20).generations) == 1
    with contextlib.suppress(ReplyError):
        assert (
            len(
                read_answers(
                    {"choices": [{"message": {"content": body, "reasoning": body}, "logprobs": body}]}, 1, 20
                ).generations
            )
            == 1
        )


def test_alternatives_that_are_likelier_than_1_together_are_left_out():
    top = [{"token": each, "logprob": -0.1} for each in ("war", "love")]
    answered = read_answers(with_tokens(body_of({"content": "war"}), "war", top=top), 1, 20)
    assert (answered.generations[0].first_tokens, answered.flaws) == ((), {Flaw.LOG_PROBABILITIES})


def test_an_answer_of_a_book_is_cut():
    (generation,) = read_answers(body_of({"content": "a" * 1_000_001}), 1, 0).generations
    assert (len(generation.text), generation.finish_reason) == (1_000_000, "length")


@pytest.mark.parametrize(
    "reason", ["insufficient_system_resource", "network_error", "abort", "load", "ERROR", "error", "time-limit"]
)
@pytest.mark.parametrize("text", ["", "war or"])
def test_an_answer_that_the_server_broke_off_is_none(reason: str, text: str):
    told = body_of({"content": text})
    told["choices"][0]["finish_reason"] = reason
    with pytest.raises(ReplyError, match="got a choice with an error"):
        read_answers(told, 1, 0)


@pytest.mark.parametrize("reason", ["content_filter", "SAFETY", "sensitive", "content-filter", "guardrail_intervened"])
@pytest.mark.parametrize("message", [None, {}, {"role": "assistant"}, {"content": ""}])
def test_a_filtered_choice_is_filtered_with_a_message_and_without(reason: str, message: Any):
    told = body_of({})
    told["choices"][0] |= {"finish_reason": reason, "message": message}
    (generation,) = read_answers(told, 1, 0).generations
    assert (generation.text, generation.finish_reason) == ("", "content_filter")


def test_a_filtered_choice_without_the_field_message_is_filtered():
    told = body_of({})
    told["choices"][0]["finish_reason"] = "content_filter"
    del told["choices"][0]["message"]
    assert read_answers(told, 1, 0).generations[0].finish_reason == "content_filter"


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": {"value": "war", "annotations": []}}],
        [None, {"type": None, "text": "war"}],
        [{"type": "reference", "reference_ids": [1]}, {"type": "text", "text": "war"}],
        {"text": "war"},
        {"content": "war"},
    ],
)
def test_parts_of_other_forms_are_the_answer_too(content: Any):
    assert read_answers(body_of({"content": content}), 1, 0).generations[0].text == "war"


@pytest.mark.parametrize("content", [{"label": "war"}, [{"type": "audio", "data": "x"}], [[["war"]]], [7]])
def test_a_content_of_unknown_parts_is_no_empty_answer(content: Any):
    with pytest.raises(ReplyError, match="parts of unknown kinds"):
        read_answers(body_of({"content": content}), 1, 0)


def test_a_part_that_refuses_is_no_answer():
    told = body_of({"content": [{"type": "refusal", "refusal": "no"}]})
    assert read_answers(told, 1, 0).generations[0].finish_reason == "content_filter"


@pytest.mark.parametrize(
    "thought",
    [
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]},
        {"reasoning_text": "hm"},
        {"reasoning_content": ["hm"]},
        {"reasoning": {"content": "hm"}},
    ],
)
def test_thoughts_apart_from_the_text_are_found_in_all_their_forms(thought: Any):
    (generation,) = read_answers(body_of({"content": None, **thought}), 1, 0).generations
    assert (generation.text, generation.thought_tokens) == ("", generation.num_tokens)


@pytest.mark.parametrize(("text", "details"), [("", None), (None, None), ("maybe war since", {"reasoning_tokens": 8})])
def test_what_was_cut_before_any_answer_is_a_thought(text: str | None, details: Any):
    usage = {"prompt_tokens": 9, "completion_tokens": 8, "completion_tokens_details": details}
    told = body_of({"content": text}, usage=usage)
    told["choices"][0]["finish_reason"] = "length"
    (generation,) = read_answers(told, 1, 0).generations
    assert (generation.text, generation.thought_tokens) == ("", 8)


def test_broken_choices_cost_no_whole_ones():
    told = body_of({"content": "war"}, {"content": "half"}, {"content": 7}, {"content": "love"})
    told["choices"][1]["error"] = {"code": 502}
    whole, broken = without_broken_choices(told)
    assert broken == {1, 2}
    assert [each.text for each in read_answers(whole, 2, 0).generations] == ["war", "love"]


def test_a_reply_of_broken_choices_alone_keeps_its_reason():
    told = body_of({"content": 7}, {"content": 8})
    assert without_broken_choices(told) == (told, frozenset())
    assert without_broken_choices([told]) == ([told], frozenset())
