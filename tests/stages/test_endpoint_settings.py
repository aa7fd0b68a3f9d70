"""Settings of an endpoint: which of them name stages and kept answers, and what is checked before Ray starts."""

from typing import Any

import pytest
from builders import run_config

from hydra_ray.config import RunConfig
from hydra_ray.config.providers import PRESETS
from hydra_ray.errors import ConfigError
from hydra_ray.stages.plan import plan_run
from hydra_ray.stages.run import personalize

API: dict[str, Any] = {"base_url": "http://localhost/v1", "model": "m"}


def config_of(root: Any, chat_template_kwargs: dict[str, Any] | None = None, **api: Any) -> RunConfig:
    generator = {"engine": "openai", "api": API | api, "chat_template_kwargs": chat_template_kwargs or {}}
    return run_config(str(root), generator=generator)


def names(config: RunConfig) -> tuple[str, str]:
    """Names of the probes stage and of the store of kept answers."""
    plan = plan_run(config)
    return plan.probes.fingerprint, plan.completions.name


@pytest.mark.parametrize(
    "settings",
    [
        {"extra_headers": {"x-team": "blue"}},
        {"extra_query": {"api-version": "1"}},
        {"api_key_header": "api-key", "api_key_env": "OTHER"},
        {"provider": "openai", "length_field": "max_tokens"},
        {"omit_fields": []},
        {"choices_field": "regex"},
        {"is_thinking": True},
    ],
)
def test_what_decides_no_answer_renames_nothing(tmp_path: Any, settings: dict[str, Any]):
    assert names(config_of(tmp_path, **settings)) == names(config_of(tmp_path))


def test_what_decides_answers_names_stages_and_kept_answers(tmp_path: Any):
    configs = [
        config_of(tmp_path),
        config_of(tmp_path, extra_body={"top_p": 0.5}),
        config_of(tmp_path, extra_body={"top_p": 0.6}),
        config_of(tmp_path, omit_fields=["temperature"]),
        config_of(tmp_path, has_seed=False),
        config_of(tmp_path, provider="ollama", is_thinking=False),
        config_of(tmp_path, provider="deepseek"),
        config_of(tmp_path, {"enable_thinking": False}),
        config_of(tmp_path, has_structured_outputs=True),
        config_of(tmp_path, has_structured_outputs=True, choices_field="regex"),
    ]
    assert len({names(each) for each in configs}) == len(configs)
    stages, stores = zip(*map(names, configs), strict=True)
    assert len(set(stages)) == len(set(stores)) == len(configs)


@pytest.mark.parametrize("value", [None, "secret\n"])
@pytest.mark.parametrize("address", ["", "local"])
def test_a_key_that_cannot_be_sent_is_told_before_anything_starts(
    tmp_path: Any, value: str | None, address: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.delenv("HYDRA_TEST_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("HYDRA_TEST_KEY", value)
    for settings in ({"api_key_env": "HYDRA_TEST_KEY"}, {"extra_headers": {"x-key": "${HYDRA_TEST_KEY}"}}):
        with pytest.raises(ConfigError, match="HYDRA_TEST_KEY") as error:
            personalize(config_of(tmp_path, **settings))
        assert "secret" not in str(error.value)
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_every_preset_makes_a_run_that_can_be_planned(tmp_path: Any):
    for name in PRESETS:
        assert names(config_of(tmp_path, provider=name))
