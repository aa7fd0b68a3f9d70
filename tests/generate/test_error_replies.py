import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.generate.error_replies import read_error
from hydra_ray.rows import Message, Request

FIELDS = ("temperature", "n", "seed", "logprobs", "top_logprobs", "max_tokens")
SENT: dict[str, Any] = {"model": "m", "messages": [], **dict.fromkeys(FIELDS, 1)}
BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["error", "detail", "message", "msg", "loc", "param", "code", "type", "metadata", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


def request(*texts: str) -> Request:
    return Request(
        request_id="r",
        user_id="u",
        messages=tuple(Message(role="user", content=text) for text in texts),
        num_samples=1,
        temperature=0.5,
        max_tokens=4,
        choices=(),
        num_top_tokens=0,
        seed=0,
    )


def named(body: Any, *texts: str) -> str | None:
    return read_error(json.dumps(body), request(*texts), SENT).parameter


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "message",
    [
        "Unsupported parameter: '{}' is not supported with this model.",
        "Unrecognized request argument supplied: {}",
        "Unknown parameter: '{}'.",
        "Unsupported value: '{}' does not support 0.5 with this model. Only the default (1) value is supported.",
        "parameter {} is not allowed",
        "`{}` is not supported",
        "Invalid field: {}",
    ],
)
def test_a_refused_field_is_found_in_the_message(field: str, message: str):
    assert named({"error": {"message": message.format(field)}}) == field


@pytest.mark.parametrize("field", FIELDS)
def test_a_refused_field_is_found_where_it_is_told_apart(field: str):
    assert named({"error": {"message": "no", "param": field}}) == field
    assert named([{"error": {"message": "no", "param": field}}]) == field
    assert named({"detail": [{"loc": ["body", field], "type": "extra_forbidden", "msg": "no"}]}) == field
    assert named({"message": {"detail": [{"loc": ["body", field, 0], "msg": "no"}]}}) == field


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "the request failed"}},
        {"error": {"message": "no", "param": "other"}},
        {"error": {"message": "Invalid 'messages[0].content': string too long, reduce n", "param": "messages"}},
        {"detail": [{"loc": ["body", "messages", 0, "content"], "msg": "invalid"}]},
        {"error": {"message": "This model does not support this conversation"}},
        {"error": {"message": "flagged by moderation; the parameter 'seed' is not supported"}},
        {"error": {"message": "the seed of the story grows"}},
    ],
)
def test_an_error_about_the_prompt_names_no_field(body: Any):
    assert named(body) is None


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"message": "Missing required parameter: 'reasoning_format'."}, "reasoning_format"),
        ({"message": "`enable_thinking` is required"}, "enable_thinking"),
        ({"message": "parameter.enable_thinking must be set to false for non-streaming calls"}, "enable_thinking"),
        ({"message": "no", "param": "api-version"}, "api-version"),
        ({"detail": [{"type": "missing", "loc": ["query", "api-version"]}]}, "api-version"),
        ({"message": "a valid request is required"}, None),
        ({"message": "the diary-entry is long"}, None),
        ({"message": "please provide a shorter text"}, None),
        ({"message": "a non-empty list is required"}, None),
    ],
)
def test_what_a_request_lacks_is_found(body: Any, name: str | None):
    assert read_error(json.dumps(body), request("hello"), SENT).wanted == name


@given(st.sampled_from(FIELDS), st.text(max_size=10), st.text(max_size=10))
def test_a_prompt_that_the_endpoint_repeats_names_no_field(field: str, before: str, after: str):
    text = f"{before}Unsupported parameter: '{field}' is missing, x_y is required, flagged by the content policy{after}"
    for body in ({"error": {"message": f"no, not {text}"}}, {"detail": text}, {"error": f"{text}!"}):
        for written in (json.dumps(body), json.dumps(body, ensure_ascii=False)):
            told = read_error(written, request("hello", text), SENT)
            assert (told.parameter, told.wanted, told.is_flagged) == (None, None, False)


@given(BODIES | st.text())
def test_any_body_is_read_without_an_error_and_names_only_what_was_sent(body: Any):
    for text in (json.dumps(body), str(body)):
        told = read_error(text, request("hello"), SENT)
        assert told.parameter is None or told.parameter in SENT
        assert told.wanted is None or (len(told.wanted) <= 40 and told.wanted not in SENT)
        assert all(len(code) <= 64 for code in told.codes)


def test_a_body_that_is_nested_too_deeply_is_no_error():
    assert read_error("[" * 100_000, request("hello"), SENT).parameter is None
