"""A run without a generator: records, label model and own heads answer a closed task."""

import json
from pathlib import Path

import in_process
import pytest
from builders import run_config

from hydra_ray.commands.update import update_config
from hydra_ray.config import RunConfig
from hydra_ray.errors import ConfigError
from hydra_ray.evaluate.text_report import report_text
from hydra_ray.forget.removal import forget_users
from hydra_ray.rows import User, UserLabelLogs, arrow_schema, from_table
from hydra_ray.runs.root import bucket_key_of
from hydra_ray.scorer.heads.store import HeadStore
from hydra_ray.stages.own_heads import LABELS, own_lineage
from hydra_ray.stages.plan import Plan, plan_recorded, plan_run
from hydra_ray.stages.run import personalize
from hydra_ray.storage import read_part

MADE = ["users", "adapter.labeller", "adapter.own", "adapter.codes", "answers", "report"]
SYSTEMS = {"constant", "majority", "text_only", "records_only", "own_heads"}
SYSTEMS |= {"hydra_shared", "hydra_personal", "hydra_shuffled", "hydra"}


def config_at(root: Path, **sections: dict) -> RunConfig:
    planted = {"num_train_users": 12, "num_new_users": 6, "num_records": 12}
    lamp = {"task": "planted", "planted": planted}
    return run_config(str(root), generator={"engine": "none", "model": ""}, **{"lamp": lamp, **sections})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    with pytest.MonkeyPatch.context() as patch:
        in_process.install(patch)
        return personalize(config_at(tmp_path_factory.mktemp("root")))


def labels_of(plan: Plan) -> list[UserLabelLogs]:
    stage = plan.stage("adapter.codes")
    parts = [read_part(location, arrow_schema(UserLabelLogs)) for location in stage.parts(LABELS)]
    return [row for part in parts for row in from_table(part, UserLabelLogs)]


def test_only_stages_that_ask_nothing_are_made(finished: Plan):
    assert [stage.name for stage in finished.stages()] == MADE
    assert finished.is_complete()


def test_every_system_without_a_generator_is_in_the_report(finished: Plan):
    metrics = json.loads(Path(finished.run_folder, "metrics.json").read_text())
    assert set(metrics["systems"]) == SYSTEMS
    assert "requests" not in metrics["totals"]
    assert "No generator" in report_text(metrics)


def test_pseudo_queries_and_queries_of_all_users_have_logs(finished: Plan):
    for row in labels_of(finished):
        assert {query.query_id.startswith("record:") for query in row.queries} == {False, True}
        for query in row.queries:
            assert bool(query.by_other) != query.query_id.startswith("record:")


def test_each_users_code_is_found_in_the_store(finished: Plan):
    store = HeadStore(
        stage=finished.stage("adapter.codes"),
        fold=0,
        bucket_key=bucket_key_of(finished.config),
        lineage=own_lineage(finished.planned),
    )
    for row in labels_of(finished):
        head = store.read_head(row.user_id)
        assert head is not None
        assert head.configuration.startswith("own-")
        assert len(head.code) == len(head.precision) == int(head.configuration.removeprefix("own-"))
        assert head.num_groups == sum(query.query_id.startswith("record:") for query in row.queries)


def test_targets_change_no_answer(finished: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    in_process.install(monkeypatch)
    users = [each for part in finished.users.parts("users") for each in users_of(part)]
    logs = []
    for name, target in (("right", None), ("wrong", "music")):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(json.dumps(as_row(each, target)) for each in users))
        lamp = {"task": "planted", "planted": None, "users_files": [str(file)]}
        logs.append(labels_of(personalize(config_at(tmp_path / name, lamp=lamp), until="answers")))
    assert logs[0] == logs[1]


def users_of(location: str) -> list[User]:
    return list(from_table(read_part(location, arrow_schema(User)), User))


def as_row(user: User, target: str | None) -> dict:
    return {
        "user_id": user.user_id,
        "is_new": user.is_new,
        "history": [{"id": each.record_id, "input": each.input, "output": each.output} for each in user.history],
        "queries": [
            {"id": each.query_id, "input": each.input, "target": target or each.target} for each in user.queries
        ],
    }


def test_users_are_added_and_forgotten(finished: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    in_process.install(monkeypatch)
    user = users_of(finished.users.parts("users")[0])[0]
    records = [{"input": each.input, "output": each.output} for each in user.history]
    row = {"user_id": "someone new", "is_new": True, "history": records}
    row["queries"] = [{"id": "q", "input": records[0]["input"], "target": records[0]["output"]}]
    file = tmp_path / "new.jsonl"
    file.write_text(json.dumps(row))
    added = personalize(update_config(finished.run_folder, [str(file)]))
    assert added.own_model.folder == finished.own_model.folder
    assert [each.user_id for each in labels_of(added)] == ["someone new"]
    summary = json.loads(Path(added.run_folder, "summary.json").read_text())
    assert summary["requests"] == 0
    (outcome,) = forget_users(finished.config.storage.root, ["someone new"])
    assert outcome.is_removed_now
    assert not [row for row in labels_of(plan_recorded(added.run_folder)) if row.user_id == "someone new"]


def test_a_task_whose_records_show_no_labels_needs_a_generator(tmp_path: Path):
    with pytest.raises(ConfigError, match="no records that show labels"):
        plan_run(config_at(tmp_path, lamp={"task": "LaMP_4", "planted": None, "root": "/nowhere"}))
