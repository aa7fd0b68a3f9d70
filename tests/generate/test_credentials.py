import os
import string
from typing import Any

import pytest
from answering import answered
from fault_server import FaultServer
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.config import ApiConfig, GeneratorConfig
from hydra_ray.errors import ConfigError
from hydra_ray.generate.credentials import require_credentials, variables_of, wrong_value
from hydra_ray.generate.engines.openai import OpenAiEngine
from hydra_ray.generate.rate_limits import Limiter
from hydra_ray.rows import Message, Request

SECRET = "sk-secret"
REQUEST = Request(
    request_id="r",
    user_id="u",
    messages=(Message(role="user", content="a story"),),
    num_samples=1,
    temperature=0.0,
    max_tokens=4,
    choices=(),
    num_top_tokens=0,
    seed=0,
)


def api_of(url: str = "http://localhost/v1", **settings: Any) -> ApiConfig:
    return ApiConfig(base_url=url, model="m", **settings)


@pytest.mark.parametrize("setting", ["api_key_env", "extra_headers"])
@pytest.mark.parametrize(
    "value", [None, "", f"{SECRET}\n", f" {SECRET}", f"{SECRET}\r\n", "se\x07cret", "schlüssel", "a\nb"]
)
def test_a_variable_that_no_header_can_hold_is_named_and_not_shown(
    setting: str, value: str | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HYDRA_TEST_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("HYDRA_TEST_KEY", value)
    given = {"api_key_env": "HYDRA_TEST_KEY", "extra_headers": {"x-team-token": "Token ${HYDRA_TEST_KEY}"}}
    api = api_of(**{setting: given[setting]})
    with pytest.raises(ConfigError, match=rf"generator\.api\.{setting} .*HYDRA_TEST_KEY") as error:
        require_credentials(api)
    assert not value or value.strip() not in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError):
        OpenAiEngine(GeneratorConfig(engine="openai", model="t", api=api), api, Limiter(api))


@given(st.text(max_size=20))
def test_a_value_is_right_exactly_if_a_header_can_hold_it(value: str):
    printable = set(string.printable) - set(string.whitespace) | {" "}
    assert (wrong_value(value) is None) == (bool(value) and value == value.strip() and set(value) <= printable)


def test_variables_are_those_of_the_key_and_of_all_headers():
    api = api_of(
        api_key_env="KEY",
        extra_headers={"a": "${ONE} and ${TWO}", "b": "${ONE}", "c": "plain"},
        extra_query={"q": "${SIX}"},
    )
    expected = {"KEY": "api_key_env", "ONE": "extra_headers", "TWO": "extra_headers", "SIX": "extra_query"}
    assert variables_of(api) == expected


def test_headers_query_and_fields_are_sent_with_each_call(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HYDRA_TEST_KEY", SECRET)
    monkeypatch.setenv("HYDRA_TEST_TEAM", "blue")
    with FaultServer() as server:
        api = api_of(
            server.url,
            api_key_env="HYDRA_TEST_KEY",
            api_key_header="api-key",
            extra_headers={"X-Team": "the ${HYDRA_TEST_TEAM} one"},
            extra_query={"api-version": "2024-10-21", "key": "${HYDRA_TEST_KEY}"},
            extra_body={"top_k": 5},
        )
        answered(OpenAiEngine(GeneratorConfig(engine="openai", model="t", api=api), api, Limiter(api)), [REQUEST])
        assert "authorization" not in server.headers[0]
        assert (server.headers[0]["api-key"], server.headers[0]["x-team"]) == (SECRET, "the blue one")
        assert server.queries == [{"api-version": "2024-10-21", "key": SECRET}]
        assert server.calls[0]["top_k"] == 5
    assert os.environ["HYDRA_TEST_KEY"] not in api.model_dump_json()
    assert "blue" not in api.model_dump_json()


def test_a_header_of_ones_own_may_authorize_where_there_is_no_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HYDRA_TEST_KEY", SECRET)
    with FaultServer() as server:
        api = api_of(server.url, extra_headers={"authorization": "Basic ${HYDRA_TEST_KEY}"})
        answered(OpenAiEngine(GeneratorConfig(engine="openai", model="t", api=api), api, Limiter(api)), [REQUEST])
        assert server.keys == [f"Basic {SECRET}"]
