"""A whole run on preferences, without a generator and without Ray."""

import json
from pathlib import Path

import in_process
import pytest
from builders import run_config
from planted_preferences import PREFERENCE, preferences

from hydra_ray.commands.update import update_config
from hydra_ray.config import RunConfig
from hydra_ray.errors import ConfigError
from hydra_ray.evaluate.report_page import render_page
from hydra_ray.evaluate.text_report import report_text
from hydra_ray.forget.removal import forget_users
from hydra_ray.rows import AnsweredUser, UserLabelLogs, arrow_schema, from_table
from hydra_ray.runs.root import bucket_key_of
from hydra_ray.scorer.heads.store import HeadStore
from hydra_ray.stages.own_heads import LABELS, own_lineage
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.stages.run import personalize
from hydra_ray.storage import read_part

SYSTEMS = {"constant", "text_only", "records_only", "own_heads", "hydra_shared", "hydra_personal", "hydra_shuffled"}
ROWS = [*preferences(36, 8, 1, seed=0, is_new=False), *preferences(40, 4, 6, seed=1, is_new=True)]
EXAMPLE = Path(__file__).parents[2] / "docs" / "preferences.jsonl"


def config_at(root: Path, rows: list[dict], **sections: dict) -> RunConfig:
    root.mkdir(exist_ok=True)
    file = root.parent / f"{root.name}.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    lamp = {"task": PREFERENCE.model_dump(exclude_defaults=True), "planted": None, "users_files": [str(file)]}
    return run_config(str(root), generator={"engine": "none", "model": ""}, **{"lamp": lamp, **sections})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    with pytest.MonkeyPatch.context() as patch:
        in_process.install(patch)
        return personalize(config_at(tmp_path_factory.mktemp("preferences"), ROWS))


def answers_of(plan: Plan) -> list[AnsweredUser]:
    parts = [read_part(location, arrow_schema(AnsweredUser)) for location in plan.answers.parts("answers")]
    return [row for part in parts for row in from_table(part, AnsweredUser)]


def test_own_heads_beat_the_shared_head_and_anothers(finished: Plan):
    metrics = json.loads(Path(finished.run_folder, "metrics.json").read_text())
    assert set(metrics["systems"]) == {*SYSTEMS, "hydra"}
    for rival in ("hydra_shared", "hydra_shuffled"):
        assert metrics["differences"]["hydra_personal"][rival]["accuracy"]["low"] > 0
    assert metrics["systems"]["hydra"]["metrics"]["accuracy"]["value"] > 0.7
    assert "accuracy" in report_text(metrics)
    assert "generator would" not in report_text(metrics)
    assert "First candidate" in render_page(metrics)


def test_answers_are_candidates_of_their_queries(finished: Plan):
    candidates = {
        (row["user_id"], str(place)): query["candidates"] for row in ROWS for place, query in enumerate(row["queries"])
    }
    answered = [(user.user_id, query) for user in answers_of(finished) for query in user.queries]
    assert len(answered) == 40 * 6
    for user_id, query in answered:
        assert {answer.value for answer in query.answers} <= {*candidates[user_id, query.query_id]}


def test_targets_change_no_answer(finished: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    in_process.install(monkeypatch)
    turned = [
        {
            **row,
            "queries": [
                {**query, "target": next(each for each in query["candidates"] if each != query["target"])}
                for query in row["queries"]
            ],
        }
        for row in ROWS
    ]
    other = personalize(config_at(tmp_path / "turned", turned), until="answers")
    assert answers_of(other) == answers_of(finished)


def test_people_come_back_and_are_forgotten(finished: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    in_process.install(monkeypatch)
    old, new = ROWS[-1], {**ROWS[-2], "user_id": "someone new"}
    rated = {"candidates": ["a robot", "a pirate", "a horse", "a wedding"], "ratings": [5, 5, 3, 1]}
    more = {"user_id": old["user_id"], "history": [{"id": "more", "chosen": "a robot", "rejected": "a horse"}, rated]}
    file = tmp_path / "today.jsonl"
    file.write_text(
        "\n".join(map(json.dumps, [{**more, "queries": [{"id": "n", "candidates": ["a", "b", "c"]}]}, new]))
    )
    updated = personalize(update_config(finished.run_folder, [str(file)]))
    assert updated.own_model.folder == finished.own_model.folder
    assert {user.user_id for user in answers_of(updated)} == {old["user_id"], "someone new"}
    stage = updated.stage("adapter.codes")
    store = HeadStore(
        stage=stage, fold=0, bucket_key=bucket_key_of(updated.config), lineage=own_lineage(updated.planned)
    )
    head = store.read_head(old["user_id"])
    assert head is not None
    assert head.num_groups == len(old["history"]) + 1 + 3  # a rated list tells a choice for each but the worst
    (outcome,) = forget_users(finished.config.storage.root, [old["user_id"]])
    assert outcome.is_removed_now
    left = [read_part(part, arrow_schema(UserLabelLogs)) for part in stage.parts(LABELS)]
    assert {row for part in left for row in part["user_id"].to_pylist()} == {"someone new"}


def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    in_process.install(monkeypatch)
    rows = [json.loads(line) for line in EXAMPLE.read_text().splitlines()]
    plan = personalize(config_at(tmp_path / "example", rows, users={"max_rejected_fraction": 0.0}))
    assert [user.user_id for user in answers_of(plan)] == [row["user_id"] for row in rows if row.get("is_new", True)]


def test_lamps_files_are_refused(tmp_path: Path):
    lamp = {"task": PREFERENCE.model_dump(exclude_defaults=True), "planted": None, "root": "/nowhere"}
    with pytest.raises(ConfigError, match=r"lamp\.users_files"):
        plan_run(run_config(str(tmp_path), generator={"engine": "none", "model": ""}, lamp=lamp))
