"""Each preset against a simulated server of its provider's documented rules."""

import json
import re
from typing import Any

import pytest
from answering import answered
from provider_servers import KEY, PROVIDERS, ProviderServer

from hydra_ray.config import ApiConfig, GeneratorConfig
from hydra_ray.config.providers import PRESETS
from hydra_ray.errors import EndpointError
from hydra_ray.generate.calls import call_arguments, call_body
from hydra_ray.generate.engines.openai import OpenAiEngine
from hydra_ray.generate.rate_limits import Limiter
from hydra_ray.rows import Completion, Message, Request

LABELS = ("war (civil)", 'a "quote"', "a\\b")
FORBIDDEN_WITHOUT = {"openai": "length_field", "mistral": "has_seed", "deepseek": "has_seed"}
"""Setting that the error names where the provider is asked without its preset; others ignore what they do not know."""


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for preset in PRESETS.values():
        if "api_key_env" in preset.settings:
            monkeypatch.setenv(str(preset.settings["api_key_env"]), KEY)


def request(place: int, **changes: Any) -> Request:
    fields: dict[str, Any] = {
        "request_id": f"r{place}",
        "user_id": "u",
        "messages": (Message(role="user", content=f"a story {place}"),),
        "num_samples": 1,
        "temperature": 0.0,
        "max_tokens": 16,
        "choices": (),
        "num_top_tokens": 1,
        "seed": 1000 * place,
    }
    return Request(**fields | changes)


REQUESTS = [
    request(0),
    request(1, num_samples=3, temperature=0.7, num_top_tokens=0),
    request(2, choices=LABELS),
]


def api_of(server: ProviderServer, **settings: Any) -> ApiConfig:
    return ApiConfig(base_url=server.url, model="small-1", extra_query=dict(server.rules.query), **settings)


def generate(server: ProviderServer, api: ApiConfig, **settings: Any) -> dict[str, Completion]:
    config = GeneratorConfig(engine="openai", model="tokenizer", api=api, **settings)
    found = answered(OpenAiEngine(config, api, Limiter(api)), REQUESTS)
    return {each.request_id: each for each in found}


@pytest.mark.parametrize("name", PROVIDERS)
def test_requests_are_answered_with_the_preset_alone(name: str):
    with ProviderServer(PROVIDERS[name]) as server:
        found = generate(server, api_of(server, provider=name))
        assert server.refused == 0
    assert [each.error for each in found.values()] == [None] * len(REQUESTS)
    assert {each: len(found[each].generations) for each in found} == {"r0": 1, "r1": 3, "r2": 1}
    assert all(generation.text for each in found.values() for generation in each.generations)
    has_any = any(each.log_probability is not None for each in found["r0"].generations)
    assert has_any == PROVIDERS[name].has_log_probabilities
    for call in server.calls:
        assert set(call) <= PROVIDERS[name].fields, "what it does not document is not sent"
    if PRESETS[name].settings.get("has_seed", True):
        field = str(PRESETS[name].settings.get("seed_field", "seed"))
        sampled = [call for call in server.calls if call["temperature"]]
        assert all(call[field] >= 1000 for call in sampled)


@pytest.mark.parametrize(("name", "setting"), FORBIDDEN_WITHOUT.items())
def test_without_its_preset_the_error_names_the_field_and_the_setting(name: str, setting: str):
    key = PRESETS[name].settings["api_key_env"]
    kept: list[Completion] = []
    with ProviderServer(PROVIDERS[name]) as server:
        api = api_of(server, api_key_env=key, has_log_probabilities=PROVIDERS[name].has_log_probabilities)
        engine = OpenAiEngine(GeneratorConfig(engine="openai", model="t", api=api), api, Limiter(api))
        field = {"length_field": "max_tokens", "has_seed": "seed"}[setting]
        with pytest.raises(EndpointError, match=rf"does not take the field {field} .*{setting}"):
            answered(engine, [request(place, temperature=0.5) for place in range(40)], kept.extend)
    assert kept == []
    assert len(server.calls) <= api.max_concurrent_requests


@pytest.mark.parametrize("name", [name for name, rules in PROVIDERS.items() if not rules.knows_n])
def test_without_its_preset_a_provider_without_n_is_told(name: str):
    given = {**PRESETS[name].settings, "max_samples_per_call": None}
    given.pop("base_url")
    with ProviderServer(PROVIDERS[name]) as server:
        api = api_of(server, **{"provider": name, **given})
        engine = OpenAiEngine(GeneratorConfig(engine="openai", model="t", api=api), api, Limiter(api))
        asked = [request(place, num_samples=2, temperature=0.5) for place in range(40)]
        with pytest.raises(EndpointError, match=r"max_samples_per_call"):
            answered(engine, asked)
    assert len(server.calls) <= 2 * api.max_concurrent_requests


def test_without_its_preset_azure_refuses_the_key():
    with ProviderServer(PROVIDERS["azure"]) as server:
        api = api_of(server, api_key_env="AZURE_OPENAI_API_KEY")
        engine = OpenAiEngine(GeneratorConfig(engine="openai", model="t", api=api), api, Limiter(api))
        with pytest.raises(EndpointError, match="Check the key"):
            answered(engine, REQUESTS)


@pytest.mark.parametrize("name", PROVIDERS)
def test_thinking_is_switched_off_as_the_provider_documents_it(name: str):
    rules = PROVIDERS[name]
    with ProviderServer(rules) as server:
        found = generate(server, api_of(server, provider=name, is_thinking=False))
        assert server.refused == 0
    assert all(each.error is None for each in found.values())
    for field, value in PRESETS[name].without_thinking.items():
        assert field in rules.fields
        assert {json.dumps(call[field]) for call in server.calls} == {json.dumps(value)}


@pytest.mark.parametrize("name", ["vllm", "sglang", "llama_cpp"])
def test_arguments_of_the_chat_template_are_sent_with_the_switch(name: str):
    arguments: dict[str, Any] = {"custom": [1, {"a": None}]}
    with ProviderServer(PROVIDERS[name]) as server:
        generate(server, api_of(server, provider=name, is_thinking=False), chat_template_kwargs=arguments)
    assert {json.dumps(call["chat_template_kwargs"], sort_keys=True) for call in server.calls} == {
        json.dumps({"custom": [1, {"a": None}], "enable_thinking": False}, sort_keys=True)
    }


def test_choices_take_the_form_that_each_local_server_documents():
    def sent(name: str) -> Any:
        api = ApiConfig.model_validate({"provider": name, "model": "m"})
        body = call_body(call_arguments(REQUESTS[2], api, range(1), is_constrained=True))
        return body[api.choices_field]

    assert sent("vllm") == {"choice": list(LABELS)}
    pattern = re.compile(sent("sglang"))
    assert all(pattern.fullmatch(label) for label in LABELS)
    assert not any(pattern.fullmatch(text) for text in ("", "war", "war civil", "a\\", "war (civil)x"))
    assert sent("llama_cpp") == r'root ::= "war (civil)" | "a \"quote\"" | "a\\b"'


def test_the_grammar_and_the_pattern_of_choices_are_what_another_engine_takes_them_for():
    xgrammar = pytest.importorskip("xgrammar")
    testing = pytest.importorskip("xgrammar.testing")
    labels = (*LABELS, "naïve-café/x", "5 [stars]", "{a}", "a.b+c*?^$|", "日本", "new\nline")
    asked = request(0, choices=labels)

    def sent(name: str) -> str:
        api = ApiConfig.model_validate({"provider": name, "model": "m"})
        return call_body(call_arguments(asked, api, range(1), is_constrained=True))[api.choices_field]

    for grammar in (
        xgrammar.Grammar.from_ebnf(sent("llama_cpp")),
        xgrammar.Grammar.from_regex(sent("sglang")),
    ):
        assert [text for text in labels if not testing._is_grammar_accept_string(grammar, text)] == []
        others = ("", "war", "war civil", "a\\", "axb+c", "5 [stars]5 [stars]")
        assert [text for text in others if testing._is_grammar_accept_string(grammar, text)] == []
