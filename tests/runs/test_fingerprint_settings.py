"""Settings that are added later rename no stage while they are at their defaults."""

from typing import Any

import pytest
from builders import run_config
from pydantic import BaseModel, create_model

from hydra_ray.config import RunConfig
from hydra_ray.runs.settings import settings_of
from hydra_ray.stages.plan import plan_run

SECTIONS = [
    name for name, value in run_config() if isinstance(value, BaseModel) and name not in ("storage", "placement")
]


def fingerprints(config: RunConfig) -> dict[str, str]:
    return {stage.name: stage.fingerprint for stage in plan_run(config).stages()}


def extended(config: RunConfig, section: str, **values: Any) -> RunConfig:
    """Return the configuration with settings in a section that this version does not have."""
    kept: BaseModel = getattr(config, section)
    kind = create_model(type(kept).__name__, __base__=type(kept), later=(int, 3), later_list=(list[int], [1]))
    own = kind.model_validate({**kept.model_dump(), **values})
    return config.model_copy(update={section: own})


@pytest.mark.parametrize("section", SECTIONS)
def test_a_later_setting_at_its_default_renames_no_stage(tmp_path, section):
    config = run_config(str(tmp_path))
    assert fingerprints(extended(config, section)) == fingerprints(config)


@pytest.mark.parametrize(
    ("section", "first"), [("users", "users"), ("probes", "probes"), ("drafts", "drafts"), ("answers", "answers")]
)
def test_a_later_setting_with_a_value_renames_what_depends_on_it(tmp_path, section, first):
    config = run_config(str(tmp_path))
    before, after = fingerprints(config), fingerprints(extended(config, section, later=4))
    changed = [name for name in before if before[name] != after[name]]
    assert changed[0] == first
    assert changed[-1] == "report"


def test_a_first_setting_enters_at_its_default_too():
    config = run_config()
    assert settings_of(config.probes) == config.probes.model_dump(mode="json")
    later_of_base = {"max_epoch_groups", "interaction", "pooling", "warmup_fraction", "training_heads"}
    later: dict[str, Any] = {
        "generator": {"batch", "chat_template_kwargs", "engine_args", "is_batch_invariant", "thinking_tokens"},
        "lamp": {"columns", "metric"},
        "placement": {"encoder_gpus", "encoder_labels", "encoder_resources"},
        "report": {"trackers"},
        "storage": {"compact_after"},
        "reranker": {"base": later_of_base, "labels": True, "plain_features": True},
        "adapter": {"base": later_of_base, "labels": True, "has_own_heads": True, "plain_features": True},
        "answers": {"has_expected_ratings"},
    }
    dumped = config.model_dump(mode="json", exclude={"budget": True, "update": True, "refresh": True} | later)
    dumped["placement"]["max_concurrent_sequences"] = 64  # the former default
    assert settings_of(config, exclude={"budget"}) == dumped


@pytest.mark.parametrize(("given", "enters"), [(None, 64), (64, 64), (128, 128)])
def test_a_setting_whose_default_was_another_enters_with_the_former_one(given: int | None, enters: int):
    config = run_config(placement={"max_concurrent_sequences": given})
    assert settings_of(config.placement)["max_concurrent_sequences"] == enters


def test_a_later_setting_of_a_section_in_a_section_is_left_out_at_its_default():
    config = run_config()
    base = config.adapter.base
    later = create_model("BaseConfig", __base__=type(base), later=(int, 3))
    adapter = config.adapter.model_copy(update={"base": later.model_validate(base.model_dump())})
    assert settings_of(adapter) == settings_of(config.adapter)
    told = config.adapter.model_copy(update={"base": later.model_validate({**base.model_dump(), "later": 4})})
    assert settings_of(told)["base"]["later"] == 4
