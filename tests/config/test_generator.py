import math
from typing import Any

import pytest
from pydantic import ValidationError

from hydra_ray.config import ApiConfig, GeneratorConfig, load_config
from hydra_ray.config.providers import PRESETS, ProviderName
from hydra_ray.shipped import FOLDER

API = {"base_url": "https://api.example.org/v1", "model": "small-1"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"base_url": "api.example.org/v1"}, "http"),
        ({"base_url": "ftp://api.example.org/v1"}, "http"),
        ({"base_url": "http://127.0.0.1:99999/v1"}, "a number from 1 to 65535"),
        ({"base_url": "http://127.0.0.1:abc/v1"}, "a number from 1 to 65535"),
        ({"base_url": "http://127.0.0.1:0/v1"}, "http"),
        ({"base_url": "http://a..b/v1"}, "host is a name or an address"),
        ({"base_url": "http://[::1/v1"}, "host is a name or an address"),
        ({"base_url": "https://ann:pass-word/x@api.example.org/v1"}, "host is a name or an address"),
        ({"base_url": "https://ann:pass-word@api.example.org/v1"}, "no credentials"),
        ({"base_url": "https://api.example.org/v1?key=pass-word"}, "no credentials"),
        ({"api_key_env": "sk-pass-word"}, "api_key_env"),
        ({"api_key": "pass-word"}, "api_key"),
        ({"breaker_seconds": 59}, "breaker_seconds"),
        ({"breaker_failures": 100, "max_concurrent_requests": 10}, "breaker_seconds"),
        ({"attempt_timeout_seconds": 90, "request_deadline_seconds": 60}, "request_deadline_seconds"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"base_url": ""}, "base_url is needed"),
        ({"provider": "no-such"}, "provider"),
        ({"provider": ["openai"]}, "provider"),
        ({"provider": "azure", "base_url": ""}, "azure has no fixed one"),
        ({"provider": "azure", "base_url": "https://x.openai.azure.com/openai/deployments/d"}, "extra_query"),
        ({"extra_headers": {"X-Api-Key": "pass-word"}}, "X-Api-Key looks like a secret"),
        ({"extra_headers": {"Cookie": "pass-word"}}, "Cookie looks like a secret"),
        ({"extra_headers": {"helicone-auth": "pass-word"}}, "helicone-auth looks like a secret"),
        ({"extra_headers": {"x": "Bearer pass-word"}}, "x looks like a secret"),
        ({"extra_query": {"key": "pass-word"}}, "key looks like a secret"),
        ({"extra_query": {"x": "sk-pass-word"}}, "x looks like a secret"),
        ({"extra_headers": {"x": "${A}sk-pass-word"}}, "x looks like a secret"),
        ({"extra_headers": {"Authorization": "Bearer ${A} sk-pass-word"}}, "Authorization looks like a secret"),
        ({"extra_body": {"a": [{"b": "sk-pass-word"}]}}, "extra_body holds what looks like a secret"),
        ({"api_key_header": "api-key"}, "set both or none"),
        ({"extra_headers": {"x": "$pass-word"}}, "not part of"),
        ({"extra_headers": {"x": "${pass-word}"}}, "not part of"),
        ({"extra_headers": {"x y": "z"}}, "extra_headers"),
        ({"extra_headers": {"x": "a\nb"}}, "extra_headers"),
        ({"extra_headers": {"X-A": "1", "x-a": "2"}}, "twice"),
        ({"extra_headers": {"Content-Type": "text/html"}}, "content-type"),
        ({"extra_headers": {"authorization": "${K}"}, "api_key_env": "K"}, "authorization"),
        ({"extra_body": {"stream": True}}, "must not have stream"),
        ({"extra_body": {"n": 3}, "omit_fields": ["n"]}, "must not have n"),
        ({"extra_body": {"temperature": 1}}, "omit_fields too"),
        ({"extra_body": {"seed": 1}}, "omit_fields too"),
        ({"extra_body": {"x": float("nan")}}, "finite number"),
        ({"extra_body": {"x": "\ud800"}}, "Unicode"),
        ({"omit_fields": ["messages"]}, "omit_fields"),
        ({"omit_fields": ["n"], "max_samples_per_call": 2}, "max_samples_per_call"),
        ({"is_thinking": False}, "documents no switch"),
    ],
)
def test_a_wrong_setting_of_an_endpoint_is_refused(settings: dict[str, Any], says: str):
    with pytest.raises(ValidationError, match=says) as error:
        ApiConfig.model_validate(API | settings)
    assert "pass-word" not in "".join(each["msg"] for each in error.value.errors())


def test_the_breaker_has_time_for_as_many_calls_as_it_counts():
    for failures in range(1, 40):
        rounds = math.ceil(failures / 8)
        limits = {"breaker_failures": failures, "max_concurrent_requests": 8, "attempt_timeout_seconds": 10}
        ApiConfig.model_validate(API | limits | {"breaker_seconds": 10 * rounds})
        with pytest.raises(ValidationError):
            ApiConfig.model_validate(API | limits | {"breaker_seconds": 10 * rounds - 1})


def test_an_endpoint_is_given_to_the_engine_that_asks_one_and_to_no_other():
    for settings in ({"engine": "openai"}, {"engine": "vllm", "api": API}):
        with pytest.raises(ValidationError, match=r"generator\.api"):
            GeneratorConfig.model_validate({"model": "m", **settings})


def test_the_shipped_configuration_of_an_endpoint_is_the_demo_but_for_who_answers():
    found = {name: load_config(FOLDER / f"{name}.yaml") for name in ("api", "demo")}
    changed = {"run", "generator", "placement"}
    demo, api = (found[name].model_dump(exclude=changed) for name in ("demo", "api"))
    assert api == demo
    assert found["api"].generator.api is not None
    assert found["api"].generator.api.api_key_env is None


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_given_goes_before_the_preset_and_survives_the_runs_record(name: ProviderName):
    given = {"base_url": API["base_url"], "api_key_env": "OTHER", "length_field": "max_tokens", "has_seed": False}
    api = ApiConfig.model_validate({"provider": name, "model": "m", **given})
    assert api.model_dump(include=set(given)) == given
    assert ApiConfig.model_validate(api.model_dump(mode="json")) == api
    others = {key: value for key, value in PRESETS[name].settings.items() if key not in given}
    assert api.model_dump(include=set(others)) == others


def test_fields_of_ones_own_join_the_switch_of_thinking_and_go_before_it():
    api = {"provider": "vllm", "model": "m", "is_thinking": False}
    own = {"chat_template_kwargs": {"a": 1}, "top_k": 2}
    joined = {"chat_template_kwargs": {"a": 1, "enable_thinking": False}, "top_k": 2}
    assert ApiConfig.model_validate({**api, "extra_body": own}).added_fields == joined
    own = {"chat_template_kwargs": {"enable_thinking": True}}
    assert ApiConfig.model_validate({**api, "extra_body": own}).added_fields == own
    assert ApiConfig.model_validate({**api, "extra_body": {"x": 1}, "is_thinking": True}).added_fields == {"x": 1}


def test_arguments_of_the_chat_template_go_only_to_providers_that_take_them():
    for name, preset in PRESETS.items():
        settings = {
            "engine": "openai",
            "model": "m",
            "api": {"provider": name, **API},
            "chat_template_kwargs": {"enable_thinking": False},
        }
        if preset.takes_template_arguments:
            GeneratorConfig.model_validate(settings)
        else:
            with pytest.raises(ValidationError, match=f"{name} documents no such field"):
                GeneratorConfig.model_validate(settings)
    doubled = {**API, "extra_body": {"chat_template_kwargs": {}}}
    with pytest.raises(ValidationError, match="give it once"):
        GeneratorConfig(engine="openai", model="m", api=ApiConfig(**doubled), chat_template_kwargs={"a": 1})


def test_room_for_thoughts_leaves_room_for_a_prompt():
    with pytest.raises(ValidationError, match="thinking_tokens must leave room"):
        GeneratorConfig(engine="fake", model="m", max_model_tokens=100, thinking_tokens=100)
    with pytest.raises(ValidationError):
        GeneratorConfig(engine="fake", model="m", thinking_tokens=-1)
