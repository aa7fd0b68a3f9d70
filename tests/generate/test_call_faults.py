import json
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.config import ApiConfig
from hydra_ray.errors import EndpointError, ReplyError
from hydra_ray.generate import call_faults
from hydra_ray.generate.call_faults import Fault, fault_of, refusal_in
from hydra_ray.generate.failures import TRANSIENT, FailureKind
from hydra_ray.generate.refusals import Refusals
from hydra_ray.rows import Message, Request

API = ApiConfig(base_url="http://localhost/v1", model="m", api_key_env="KEY")
TEXT = "my diary: the seed is not supported, Insufficient Balance, model not found, context length"
REQUEST = Request(
    request_id="r",
    user_id="u",
    messages=(Message(role="user", content=TEXT),),
    num_samples=2,
    temperature=0.5,
    max_tokens=4,
    choices=(),
    num_top_tokens=0,
    seed=0,
)
SENT: dict[str, Any] = {"model": "m", "messages": [], "temperature": 0.5, "seed": 1, "n": 2, "max_tokens": 4}
MESSAGES = st.sampled_from(
    ["no", TEXT, f"no, not {TEXT}", "Unsupported parameter: 'seed'", "flagged", "Insufficient Balance", "too long"]
)
ERRORS = st.fixed_dictionaries(
    {},
    optional={
        "message": MESSAGES | st.none() | st.integers() | st.lists(MESSAGES, max_size=2),
        "code": st.sampled_from(["invalid_api_key", "content_filter", "rate_limit", TEXT, 400, None, []]),
        "type": st.sampled_from(["invalid_request_error", "insufficient_quota", None, {}]),
        "param": st.sampled_from(["seed", "messages", "api-version", TEXT, None, 7]),
        "loc": st.lists(st.sampled_from(["body", "seed", "messages", TEXT, 3]), max_size=3),
    },
)
BODIES = (
    ERRORS.map(lambda error: json.dumps({"error": error}))
    | ERRORS.map(lambda error: json.dumps({"detail": [error]}))
    | ERRORS.map(lambda error: json.dumps([error]))
    | st.sampled_from(["", "<html>", "null", "[[[", '"text"', f"<html>{TEXT}</html>"])
    | st.text(max_size=30)
)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "location"]), st.sampled_from(["1", "-1", "x", "1e400"])
)


def status_error(status: int, body: str, headers: dict[str, str] | None = None) -> openai.APIStatusError:
    """The client's exception of a reply."""
    request = httpx2.Request("POST", "http://localhost/v1/chat/completions")
    response = httpx2.Response(status, text=body, headers=headers, request=request)
    return openai.APIStatusError("no", response=response, body=None)


@given(st.integers(300, 599), BODIES, HEADERS, st.booleans())
def test_any_status_with_any_body_is_a_fault_or_stops_with_one_sentence(
    status: int, body: str, headers: dict[str, str], has_answered: bool
):
    refusals = Refusals(API)
    if has_answered:
        refusals.answered(SENT)
    fault, message = None, ""
    try:
        fault = fault_of(status_error(status, body, headers), API, REQUEST, SENT)
        if fault.is_final:
            refusals.refused(fault, SENT)
    except EndpointError as stop:
        message = str(stop)
    assert fault is not None or message
    for said in (message, "" if fault is None else fault.message):
        assert "diary" not in said
        assert len(said.splitlines()) <= 1
    if fault is not None:
        assert fault.is_final == (fault.kind not in TRANSIENT)
        # 460 and 499 are of a gateway that gave a call up, as 5xx are.
        assert fault.is_answered or status >= 500 or status in (460, 499)
        assert fault.retry_after is None or fault.retry_after >= 0


@given(st.sampled_from([408, 409, 425, 429, *range(500, 501), *range(502, 505), *range(506, 600)]), HEADERS)
def test_what_may_pass_never_stops_the_run(status: int, headers: dict[str, str]):
    fault = fault_of(status_error(status, "<html>busy</html>", headers), API, REQUEST, SENT)
    assert not fault.is_final
    assert fault.kind == FailureKind.UNAVAILABLE


@pytest.mark.parametrize(
    ("error", "kind", "is_final"),
    [
        (TimeoutError(), FailureKind.TIMEOUT, False),
        (openai.APITimeoutError(httpx2.Request("POST", "http://localhost")), FailureKind.TIMEOUT, False),
        (openai.APIConnectionError(request=httpx2.Request("POST", "http://x")), FailureKind.UNAVAILABLE, False),
        (UnicodeEncodeError("utf-8", TEXT, 0, 1, "no"), FailureKind.REFUSED, True),
        (ReplyError("got a number, expected an object"), FailureKind.UNAVAILABLE, False),
    ],
)
def test_what_is_no_status_is_a_fault_of_its_kind(error: Exception, kind: FailureKind, is_final: bool):
    fault = fault_of(error, API, REQUEST, SENT)
    assert isinstance(fault, Fault)
    assert (fault.kind, fault.is_final) == (kind, is_final)
    assert "diary" not in fault.message


@pytest.mark.parametrize("code", [402, "401", 400, 403])
def test_a_refusal_in_the_place_of_an_answer_is_one_of_its_status(code: Any):
    body = {"error": {"message": TEXT, "code": code}, "choices": None}
    refusal = refusal_in(body, API)
    assert refusal is not None
    assert (refusal.status_code, json.loads(refusal.response.text)) == (int(code), body)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": 429}},
        {"error": {"code": 502}},
        {"error": {"code": "rate_limit"}},
        {"error": {"code": [400]}},
        {"error": "no"},
        {"error": {"code": 400}, "choices": [{"message": {}}]},
        {"choices": []},
        [],
        None,
    ],
)
def test_what_may_pass_or_is_no_error_is_no_refusal(body: Any):
    assert refusal_in(body, API) is None


@pytest.mark.parametrize("body", [{"a": "\ud83d"}, {"a": float("nan")}, {"error": None}, [1], None])
def test_an_error_of_any_json_has_a_text(body: Any):
    assert call_faults.status_error(400, body, API).response.text.isascii()


def test_an_error_that_is_nested_too_deeply_has_no_text():
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert call_faults.status_error(400, {"error": {"code": 400, "a": deep}}, API).response.text == ""
