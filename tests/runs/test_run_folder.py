"""Stages that a child run takes from its parent, and parents that are refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from builders import run_config

from hydra_ray.config import RunConfig
from hydra_ray.errors import ConfigError, HydraError, InputError
from hydra_ray.runs.run_folder import read_config, record_stages, write_config
from hydra_ray.stages.plan import Plan, plan_recorded, plan_run
from hydra_ray.storage import read_json, write_json

FROZEN = {"reranker.base", "adapter.labeller", "adapter.own", "adapter.base"}


def record(config: RunConfig) -> Plan:
    """Leaves in the run's folder what a finished run does."""
    plan = plan_run(config)
    write_json(f"{plan.run_folder}/config.json", config.model_dump(mode="json"))
    record_stages(plan.run_folder, plan.stages())
    return plan


def later(config: RunConfig, tmp_path: Path, **sections: dict[str, Any]) -> RunConfig:
    """Return the configuration of a child run of `config`."""
    path = tmp_path / "june.jsonl"
    path.write_text("{}")
    settings = config.model_dump(mode="json")
    settings |= {"run": "test+june", "taught_by": "test"}
    settings["lamp"] |= {"planted": None, "users_files": [str(path)]}
    settings["users"] |= {"num_folds": 1}
    for name, section in sections.items():
        settings[name] |= section
    return RunConfig.model_validate(settings)


def test_a_child_run_shares_trained_stages_with_its_parent_and_has_its_own_rest(tmp_path: Path):
    config = run_config(str(tmp_path))
    taught, added = record(config), plan_run(later(config, tmp_path))
    own, theirs = ({stage.name: stage.folder for stage in plan.stages()} for plan in (added, taught))
    assert set(own) == set(theirs)
    assert {name for name in own if own[name] == theirs[name]} == FROZEN
    assert added.reranker.prior_heads.folder == taught.reranker.heads.folder
    assert added.adapter.prior_heads.folder == taught.adapter.heads.folder
    assert added.completions == taught.completions


@pytest.mark.parametrize(("num_epochs", "fold"), [(1, 0), (0, None)])
def test_a_cross_fitted_parent_is_used_by_its_first_fold(tmp_path: Path, num_epochs: int, fold: int | None):
    base = {**run_config().adapter.base.model_dump(), "num_epochs": num_epochs}
    config = run_config(str(tmp_path), users={"num_folds": 3}, adapter={"base": base})
    record(config)
    plan = plan_run(later(config, tmp_path))
    assert (plan.adapter.base_folds, plan.adapter.num_folds) == ((fold,), 1)


@pytest.mark.parametrize(
    ("sections", "stage"),
    [
        ({"generator": {"seed": 1}}, "profiles"),
        ({"probes": {"seed": 1}}, "probes"),
        ({"reranker": {"heads": {"ranks": [2]}}}, "reranker.heads"),
        ({"adapter": {"base": {**run_config().adapter.base.model_dump(), "width": 8}}}, "adapter.base"),
        ({"drafts": {"num_samples": 5}}, "drafts"),
        ({"answers": {"is_gated": False}}, "answers"),
    ],
)
def test_settings_that_differ_from_the_parents_are_refused(tmp_path: Path, sections: dict[str, Any], stage: str):
    config = run_config(str(tmp_path))
    record(config)
    with pytest.raises(ConfigError, match=rf"stage {stage} differs from that of the run test"):
        plan_run(later(config, tmp_path, **sections))


def test_a_stage_whose_code_has_changed_since_is_refused(tmp_path: Path):
    config = run_config(str(tmp_path))
    location = f"{record(config).run_folder}/stages.json"
    recorded = read_json(location)
    recorded["drafts"]["settings"]["version"] -= 2
    write_json(location, recorded)
    with pytest.raises(ConfigError, match="stage drafts differs from that of the run test in version"):
        plan_run(later(config, tmp_path))


def as_an_earlier_version_would(plan: Plan, **versions: int) -> dict[str, Any]:
    """Record a run as if earlier versions of stages had computed it; return what is recorded."""
    location = f"{plan.run_folder}/stages.json"
    recorded = read_json(location)
    for name, version in versions.items():
        recorded[name] = {
            "fingerprint": f"{version:016x}",
            "settings": recorded[name]["settings"] | {"version": version},
        }
    write_json(location, recorded)
    return recorded


def test_users_are_added_to_a_run_whose_answers_an_earlier_version_parsed(tmp_path: Path):
    config = run_config(str(tmp_path))
    as_an_earlier_version_would(record(config), probes=3, drafts=3)
    plan = plan_run(later(config, tmp_path))
    assert plan.parent is not None
    assert (plan.probes.settings["version"], plan.parent.stages["probes"].settings["version"]) == (4, 3)
    as_an_earlier_version_would(plan_run(config), probes=2)
    with pytest.raises(ConfigError, match="stage probes differs from that of the run test in version"):
        plan_run(later(config, tmp_path))


def test_a_finished_run_is_opened_with_the_stages_that_it_recorded(tmp_path: Path):
    plan = record(run_config(str(tmp_path)))
    recorded = as_an_earlier_version_would(plan, probes=3, drafts=3, answers=2)
    opened = plan_recorded(plan.run_folder)
    assert {stage.name: stage.fingerprint for stage in opened.stages()} == {
        name: each["fingerprint"] for name, each in recorded.items()
    }
    assert opened.drafts.settings["version"] == 3
    assert opened.completions == plan.completions


def test_an_unfinished_run_is_opened_with_the_stages_that_it_will_have(tmp_path: Path):
    plan = record(run_config(str(tmp_path)))
    Path(plan.run_folder, "stages.json").unlink()
    opened = plan_recorded(plan.run_folder)
    assert opened.planned == plan.planned


@pytest.mark.parametrize("section", [{"placement": {"generator_actors": 2}}, {"report": {"seed": 1}}])
def test_where_it_runs_and_what_is_reported_may_differ(tmp_path: Path, section: dict[str, Any]):
    config = run_config(str(tmp_path))
    record(config)
    assert plan_run(later(config, tmp_path, **section)).parent is not None


def test_a_finished_run_opens_and_teaches_also_when_its_raw_files_are_gone(tmp_path: Path):
    path = tmp_path / "users.jsonl"
    path.write_text("{}")
    config = run_config(str(tmp_path), lamp={"planted": None, "users_files": [str(path)]})
    plan = record(config)
    path.unlink()
    opened = plan_recorded(plan.run_folder)
    assert [each.fingerprint for each in opened.stages()] == [each.fingerprint for each in plan.stages()]
    assert plan_run(later(config, tmp_path)).parent is not None


def test_a_run_that_is_missing_unfinished_or_a_child_is_no_parent(tmp_path: Path):
    config = run_config(str(tmp_path))

    def mistake() -> HydraError:
        with pytest.raises(HydraError) as caught:
            plan_run(later(config, tmp_path))
        return caught.value

    assert isinstance(mistake(), InputError)
    assert "no run at" in str(mistake())
    folder = plan_run(config).run_folder
    write_json(f"{folder}/config.json", config.model_dump(mode="json"))
    assert isinstance(mistake(), InputError)
    assert "is not finished" in str(mistake())
    write_json(f"{folder}/config.json", {**config.model_dump(mode="json"), "taught_by": "first"})
    assert isinstance(mistake(), ConfigError)
    assert "itself a child run of first" in str(mistake())


@pytest.mark.parametrize("users", [{"num_buckets": 3}, {"bucket_key": "other"}])
def test_users_are_added_to_the_parents_own_buckets(tmp_path: Path, users: dict[str, Any]):
    config = run_config(str(tmp_path))
    record(config)
    with pytest.raises(ConfigError, match="bucket_key must be those of the run test"):
        plan_run(later(config, tmp_path, users=users))


def test_a_runs_configuration_is_read_back_from_its_folder(tmp_path: Path):
    config = run_config(str(tmp_path))
    assert read_config(record(config).run_folder) == config


def test_the_root_of_a_run_is_that_of_its_folder_after_the_root_was_copied(tmp_path: Path):
    write_config(f"{tmp_path}/first/runs/test", run_config(f"{tmp_path}/first"))
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    for name in ("first", "copy"):
        assert read_config(f"{tmp_path}/{name}/runs/test").storage.root == f"{tmp_path}/{name}"
