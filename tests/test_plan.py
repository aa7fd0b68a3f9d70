from pathlib import Path

import pytest
from builders import run_config

from hydra_ray.config import RunConfig
from hydra_ray.errors import ConfigError
from hydra_ray.plan import plan_run


def fingerprints(config: RunConfig) -> dict[str, str]:
    return {stage.name: stage.fingerprint for stage in plan_run(config).stages()}


BEFORE = fingerprints(run_config())


def changed_stages(config: RunConfig) -> set[str]:
    return {name for name, value in fingerprints(config).items() if value != BEFORE[name]}


SCORER = ("examples", "base", "features", "heads")
AFTER_RERANKER = {"drafts", *(f"adapter.{step}" for step in SCORER), "answers", "report"}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"report": {"seed": 1}}, {"report"}),
        ({"adapter": {"heads": {"ranks": [2]}}}, {"adapter.heads", "answers", "report"}),
        ({"drafts": {"temperature": 0.5}}, AFTER_RERANKER),
        ({"reranker": {"heads": {"ranks": [2]}}}, {"reranker.heads", *AFTER_RERANKER}),
        ({"probes": {"seed": 1}}, set(BEFORE) - {"users"}),
        ({"generator": {"seed": 1}}, set(BEFORE) - {"users"}),
        ({"users": {"bucket_key": "other"}}, set(BEFORE)),
        ({"placement": {"generator_actors": 2}}, {"report"}),
    ],
)
def test_a_setting_changes_only_the_stages_that_depend_on_it(
    sections: dict[str, dict[str, object]], expected: set[str]
):
    assert changed_stages(run_config(**sections)) == expected


def test_stages_are_in_the_order_they_run():
    order = [name.split(".")[0] for name in BEFORE]
    assert list(dict.fromkeys(order)) == ["users", "probes", "reranker", "drafts", "adapter", "answers", "report"]


def test_a_relative_root_is_refused():
    with pytest.raises(ConfigError, match=r"storage\.root is the relative path"):
        plan_run(run_config("outputs"))


def test_another_encoder_in_the_same_folder_changes_what_is_retrieved(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    retrieve = {"retrieve": {"method": "dense", "encoder": str(tmp_path)}}
    before = fingerprints(run_config(**retrieve))
    assert before == fingerprints(run_config(**retrieve))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    after = fingerprints(run_config(**retrieve))
    assert before["users"] == after["users"]
    assert before["probes"] != after["probes"]
