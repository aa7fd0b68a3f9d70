"""The configuration of an update of a finished run, and what is told of it."""

from pathlib import Path
from typing import Any

import pytest
from builders import run_config

from hydra_ray.cli import main
from hydra_ray.commands.update import Updated, update_config, updated_text
from hydra_ray.config import RunConfig, UpdateConfig
from hydra_ray.errors import ConfigError, InputError
from hydra_ray.runs.run_folder import record_stages, write_config
from hydra_ray.stages.plan import plan_run
from hydra_ray.stages.update_summary import update_summary
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


@pytest.fixture
def june(tmp_path: Path) -> str:
    (tmp_path / "june.jsonl").write_text("{}")
    return str(tmp_path / "june.jsonl")


def begun(config: RunConfig, *, is_finished: bool) -> None:
    """Leave an update as far as a run of it would have come."""
    folder = f"{config.storage.root}/runs/{config.run}"
    write_config(folder, config)
    if is_finished:
        users = plan_run(run_config(config.storage.root)).users
        record_stages(folder, [users])


def test_it_is_the_finished_runs_but_for_who_is_read(config: RunConfig, run_folder: str, june: str, tmp_path: Path):
    (tmp_path / "july.jsonl").write_text("{}")
    updated = update_config(run_folder, [june, f"{tmp_path}/july.jsonl"])
    assert (updated.run, updated.taught_by) == ("test+june", "test")
    assert updated.lamp.users_files == (june, f"{tmp_path}/july.jsonl")
    assert (updated.lamp.root, updated.lamp.task) == (None, "planted")
    assert (updated.users.num_folds, updated.users.max_users) == (1, None)
    assert (updated.users.num_buckets, updated.users.bucket_key) == (config.users.num_buckets, config.users.bucket_key)
    own = {"run", "taught_by", "update", "lamp", "users"}
    assert updated.model_dump(exclude=own) == config.model_dump(exclude=own)


def test_the_first_follows_the_finished_run_and_the_next_follows_it(run_folder: str, june: str, tmp_path: Path):
    first = update_config(run_folder, [june])
    assert first.update is not None
    assert first.update.follows == ("test",)
    begun(first, is_finished=True)
    (tmp_path / "july.jsonl").write_text("{} ")
    second = update_config(run_folder, [f"{tmp_path}/july.jsonl"])
    assert second.update is not None
    assert second.update.follows == ("test+june",)
    assert second.update.handed_in != first.update.handed_in


def test_users_whom_an_earlier_version_added_come_before_the_first(run_folder: str, june: str):
    for name, is_finished in (("a", True), ("b", False)):
        former = update_config(run_folder, [june]).model_copy(update={"run": f"test+{name}", "update": None})
        write_config(f"{former.storage.root}/runs/{former.run}", former)
        if is_finished:
            stage = plan_run(run_config(former.storage.root)).users
            stage.complete(1, {})
            record_stages(f"{former.storage.root}/runs/{former.run}", [stage])
    found = update_config(run_folder, [june]).update
    assert found is not None
    assert found.follows == ("test", "test+a")


@pytest.mark.parametrize("is_finished", [True, False])
def test_the_same_content_is_the_same_update_whatever_its_name(
    run_folder: str, june: str, tmp_path: Path, is_finished: bool
):
    first = update_config(run_folder, [june])
    begun(first, is_finished=is_finished)
    (tmp_path / "copy.jsonl").write_bytes(Path(june).read_bytes())
    again = update_config(run_folder, [f"{tmp_path}/copy.jsonl"], "other")
    assert (again.run, again.update) == (first.run, first.update)


def test_other_content_under_the_same_name_is_another_update(run_folder: str, june: str):
    begun(update_config(run_folder, [june]), is_finished=True)
    for number in (2, 3):
        Path(june).write_text("{}" + number * " ")
        config = update_config(run_folder, [june])
        assert config.run == f"test+june-{number}"
        begun(config, is_finished=True)


def test_of_a_lamp_folder_only_the_runs_new_split_is_read(run_folder: str, tmp_path: Path):
    later = tmp_path / "later"
    later.mkdir()
    (later / "test_questions.json").write_text("[]")
    lamp = update_config(run_folder, [str(later)]).lamp
    assert (lamp.root, lamp.users_files, lamp.train_split, lamp.new_split) == (str(later), (), None, "test")


def test_folders_of_parts_and_patterns_are_users_own_files(run_folder: str, tmp_path: Path):
    (tmp_path / "june").mkdir()
    for name in ("june/part-0.json.gz", "a.csv", "july.jsonl.gz"):
        (tmp_path / name).write_bytes(b"")
    given = [f"{tmp_path}/june", f"{tmp_path}/*.csv", f"{tmp_path}/july.jsonl.gz"]
    for users in (given, given[:1]):
        found = update_config(run_folder, users, "june")
        assert (found.lamp.users_files, found.lamp.root) == (tuple(users), None)
    assert update_config(run_folder, given[2:]).run == "test+july"


def test_names_and_settings_can_be_given(run_folder: str, june: str):
    updated = update_config(run_folder, [june], "week-23", ["placement.generator_actors=4"])
    assert (updated.run, updated.placement.generator_actors) == ("test+week-23", 4)


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
        update_config(run_folder, users, name)


def test_an_update_is_no_run_to_update(run_folder: str, june: str):
    first = update_config(run_folder, [june])
    begun(first, is_finished=True)
    with pytest.raises(InputError, match="give test instead"):
        update_config(f"{first.storage.root}/runs/{first.run}", [june])


def test_an_update_is_of_a_finished_run(config: RunConfig):
    update = UpdateConfig(follows=("other",), handed_in="x")
    with pytest.raises(ValueError, match="update needs taught_by"):
        RunConfig.model_validate({**config.model_dump(mode="json"), "update": update.model_dump(mode="json")})


def test_no_run_is_a_mistake_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(InputError, match="no run at /no/such"):
        update_config("/no/such", ["/in/june.jsonl"])
    for command in ("update", "fit-users"):
        assert main([command, str(tmp_path), "--users", "june.jsonl", "placement.train_threads=1"]) == 2
        assert f"error: no run at {tmp_path}" in capsys.readouterr().err


def test_a_run_never_teaches_itself_nor_folds_of_others(config: RunConfig):
    for changes in ({"taught_by": "test"}, {"taught_by": "other"}):
        with pytest.raises(ValueError, match="taught_by names another run"):
            RunConfig.model_validate({**config.model_dump(mode="json"), **changes})


def test_a_summary_counts_only_what_was_made_for_the_update(tmp_path: Path):
    taught = plan_run(run_config(str(tmp_path)))
    write_json(f"{taught.run_folder}/config.json", taught.config.model_dump(mode="json"))
    record_stages(taught.run_folder, taught.stages())
    (tmp_path / "june.jsonl").write_text("{}")
    added = plan_run(update_config(taught.run_folder, [str(tmp_path / "june.jsonl")]))
    heads = {"rows": 3, "new.shared": 1, "new.lowrank-16": 2}
    counters: dict[str, dict[str, Any]] = {
        "users": {
            "users": 3,
            "queries": 4,
            "rejected": 1,
            "returning_users": 2,
            "added_records": 9,
            "changed_records": 0,
            "feedback": 5,
            "judged_answers": 4,
            "preferred_answers": 3,
        },
        "probes": {"requests": 20, "asked_now": 15},
        "drafts": {"requests": 30, "asked_now": 30},
        "reranker.heads": heads,
        "adapter.heads": {"rows": 3, "training.shared": 7, "new.shared": 3},
    }
    theirs = {stage.folder for stage in taught.stages()}
    for stage in added.stages():
        is_theirs = stage.folder in theirs
        stage.complete(1000.0 if is_theirs else 2.0, {"requests": 7} if is_theirs else counters.get(stage.name, {}))
    summary = update_summary(added)
    num_own = sum(stage.folder not in theirs for stage in added.stages())
    assert num_own < len(list(added.stages()))
    assert summary == {
        "run": "test+june",
        "taught_by": "test",
        "num_users": 3,
        "num_queries": 4,
        "num_rejected": 1,
        "returning_users": 2,
        "added_records": 9,
        "changed_records": 0,
        "feedback": 5,
        "judged_answers": 4,
        "preferred_answers": 3,
        "heads": {"reranker": {"lowrank-16": 2, "shared": 1}, "adapter": {"shared": 3}},
        "requests": 50,
        "asked_now": 45,
        "seconds": 2.0 * num_own,
    }
    text = updated_text(Updated(plan=added, is_made_now=True), summary)
    assert text.startswith(
        "test+june: 2 users came back, 1 new user, 9 new records, 0 records replaced or deleted, 4 q"
    )
    assert "the answer given was preferred in 3 of 4 cases (75%)" in text
    assert "nothing is changed" in updated_text(Updated(plan=added, is_made_now=False), summary)
