"""The configuration of a run that adds users to a finished one, and what is told of it."""

from pathlib import Path
from typing import Any

import pytest
from builders import run_config

from hydra_ray.cli import main
from hydra_ray.commands.fit_users import added_config, summary_text
from hydra_ray.config import RunConfig
from hydra_ray.errors import ConfigError, InputError
from hydra_ray.runs.run_folder import record_stages
from hydra_ray.stages.added_users import addition_summary
from hydra_ray.stages.plan import plan_run
from hydra_ray.storage import write_json


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Of a run that was cross-fitted on a part of a LaMP set."""
    lamp = {"task": "planted", "planted": None, "root": "/lamp", "new_split": "test"}
    return run_config(str(tmp_path), lamp=lamp, users={"num_folds": 3, "max_users": 10})


@pytest.fixture
def run_folder(config: RunConfig, tmp_path: Path) -> str:
    folder = f"{tmp_path}/runs/test"
    write_json(f"{folder}/config.json", config.model_dump(mode="json"))
    return folder


def test_it_is_the_finished_runs_but_for_who_is_read(config: RunConfig, run_folder: str):
    added = added_config(run_folder, ["/in/june.jsonl", "/in/july.parquet"])
    assert (added.run, added.taught_by) == ("test+june", "test")
    assert added.lamp.users_files == ("/in/june.jsonl", "/in/july.parquet")
    assert (added.lamp.root, added.lamp.task) == (None, "planted")
    assert (added.users.num_folds, added.users.max_users) == (1, None)
    assert (added.users.num_buckets, added.users.bucket_key) == (config.users.num_buckets, config.users.bucket_key)
    own = {"run", "taught_by", "lamp", "users"}
    assert added.model_dump(exclude=own) == config.model_dump(exclude=own)


def test_of_a_lamp_folder_only_the_runs_new_split_is_read(run_folder: str):
    lamp = added_config(run_folder, ["/in/later"]).lamp
    assert (lamp.root, lamp.users_files, lamp.train_split, lamp.new_split) == ("/in/later", (), None, "test")


def test_folders_of_parts_and_patterns_are_users_own_files(run_folder: str, tmp_path: Path):
    (tmp_path / "june").mkdir()
    (tmp_path / "june" / "part-0.json.gz").write_bytes(b"")
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "test_questions.json.gz").write_bytes(b"")
    given = [f"{tmp_path}/june", "/in/*.csv", "/in/july.jsonl.gz"]
    for users in (given, given[:1]):
        (tmp_path / "june" / "part-0.json.gz").touch()
        added = added_config(run_folder, users, "june")
        assert (added.lamp.users_files, added.lamp.root) == (tuple(users), None)
    assert added_config(run_folder, ["/in/july.jsonl.gz"]).run == "test+july"
    assert added_config(run_folder, [f"{tmp_path}/late"]).lamp.root == f"{tmp_path}/late"


def test_names_and_settings_can_be_given(run_folder: str):
    added = added_config(run_folder, ["/in/users.jsonl"], "week-23", ["placement.generator_actors=4"])
    assert (added.run, added.placement.generator_actors) == ("test+week-23", 4)


@pytest.mark.parametrize(
    ("users", "name", "message"),
    [
        (["/in/june.jsonl", "/in/folder"], None, "one folder of LaMP files"),
        (["/in/june 2026.jsonl"], None, "run: expected letters, digits and any of"),
        (["/in/june.jsonl"], "a/b", "run: expected letters, digits and any of"),
    ],
)
def test_what_cannot_be_read_or_named_is_refused(run_folder: str, users: list[str], name: str | None, message: str):
    with pytest.raises(ConfigError, match=message):
        added_config(run_folder, users, name)


def test_no_run_is_a_mistake_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(InputError, match="no run at /no/such"):
        added_config("/no/such", ["/in/june.jsonl"])
    assert main(["fit-users", str(tmp_path), "--users", "june.jsonl", "placement.train_threads=1"]) == 2
    assert f"error: no run at {tmp_path}" in capsys.readouterr().err


def test_a_run_never_teaches_itself_nor_folds_of_others(config: RunConfig):
    for changes in ({"taught_by": "test"}, {"taught_by": "other"}):
        with pytest.raises(ValueError, match="taught_by names another run"):
            RunConfig.model_validate({**config.model_dump(mode="json"), **changes})


def test_a_summary_counts_only_what_was_made_for_the_added_users(tmp_path: Path):
    taught = plan_run(run_config(str(tmp_path)))
    write_json(f"{taught.run_folder}/config.json", taught.config.model_dump(mode="json"))
    record_stages(taught.run_folder, taught.stages())
    (tmp_path / "june.jsonl").write_text("{}")
    added = plan_run(added_config(taught.run_folder, [str(tmp_path / "june.jsonl")]))
    heads = {"rows": 3, "new.shared": 1, "new.lowrank-16": 2}
    counters: dict[str, dict[str, Any]] = {
        "users": {"users": 3, "queries": 4, "rejected": 1},
        "probes": {"requests": 20, "asked_now": 15},
        "drafts": {"requests": 30, "asked_now": 30},
        "reranker.heads": heads,
        "adapter.heads": {"rows": 3, "training.shared": 7, "new.shared": 3},
    }
    theirs = {stage.folder for stage in taught.stages()}
    for stage in added.stages():
        is_theirs = stage.folder in theirs
        stage.complete(1000.0 if is_theirs else 2.0, {"requests": 7} if is_theirs else counters.get(stage.name, {}))
    summary = addition_summary(added)
    num_own = sum(stage.folder not in theirs for stage in added.stages())
    assert num_own < len(list(added.stages()))
    assert summary == {
        "run": "test+june",
        "taught_by": "test",
        "num_users": 3,
        "num_queries": 4,
        "num_rejected": 1,
        "heads": {"reranker": {"lowrank-16": 2, "shared": 1}, "adapter": {"shared": 3}},
        "requests": 50,
        "asked_now": 45,
        "seconds": 2.0 * num_own,
    }
    assert "3 users added to test as test+june" in summary_text(summary)
