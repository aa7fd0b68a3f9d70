"""The whole path with the fake generator: stages, commits, resumption. Real engines are tested in their own modules."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import run_config
from bytes_below import mentions
from ended_commands import end_when

from hydra_ray.commands.status import status_lines
from hydra_ray.commands.update import update_config
from hydra_ray.config import RunConfig
from hydra_ray.evaluate.systems import SYSTEMS
from hydra_ray.forget.file_kinds import Kind, artefacts
from hydra_ray.forget.removal import forget_users
from hydra_ray.rows import ScoredUser, arrow_schema, from_table
from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.heads.store import heads_table, scores_table
from hydra_ray.stages import STAGE_NAMES
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.stages.run import personalize
from hydra_ray.storage import read_part

NOT_REPORTED = {"mean_rating", "rag_2", "rag_cut"}
"""A system of ratings alone, one that is RAG with k records again, since k is 2 here, and one of texts alone."""
NUM_FOLDS = 3

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    # Third parties: Ray leaves sockets and processes to the interpreter's end and uses what others have deprecated.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A finished run."""
    return personalize(run_config(str(tmp_path_factory.mktemp("root"))))


@pytest.fixture(scope="module")
def crossed(finished: Plan) -> Plan:
    """A finished run under the same root in which everyone is new once; one scorer's bases are trained."""
    untrained = {**finished.config.reranker.base.model_dump(), "num_epochs": 0}
    config = run_config(finished.config.storage.root, users={"num_folds": NUM_FOLDS}, reranker={"base": untrained})
    return personalize(config.model_copy(update={"run": "crossed"}))


def scored_users(heads: Stage, fold: int) -> list[ScoredUser]:
    """Everybody's scores in a fold."""
    parts = [read_part(location, arrow_schema(ScoredUser)) for location in heads.parts(scores_table(fold))]
    return [row for part in parts for row in from_table(part, ScoredUser)]


def parts_of(plan: Plan) -> dict[Path, int]:
    """Every committed file with the time it was written."""
    return {path: path.stat().st_mtime_ns for path in (Path(plan.config.storage.root) / "stages").rglob("*.parquet")}


def metrics_of(plan: Plan) -> dict[str, Any]:
    return json.loads(Path(plan.run_folder, "metrics.json").read_text())


def predictions_of(plan: Plan) -> dict[str, str]:
    predictions = json.loads(Path(plan.run_folder, "predictions.json").read_text())
    assert predictions["task"] == "planted"
    return {gold["id"]: gold["output"] for gold in predictions["golds"]}


def test_a_run_reports_every_system_on_every_new_user(finished: Plan):
    metrics = metrics_of(finished)
    assert set(metrics["systems"]) == set(SYSTEMS) - NOT_REPORTED
    assert metrics["num_users"] == 4
    page = Path(finished.run_folder, "report.html").read_text()
    assert "HYDRA" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_cross_fitted_run_reports_every_system_on_everyone(crossed: Plan):
    metrics = metrics_of(crossed)
    assert set(metrics["systems"]) == set(SYSTEMS) - NOT_REPORTED
    assert metrics["num_users"] == 10
    assert len(predictions_of(crossed)) == 10


def test_in_each_fold_its_own_users_are_new_and_everyone_is_scored(crossed: Plan):
    folds: dict[str, list[int]] = {}
    for scorer in (crossed.reranker, crossed.adapter):
        for fold in range(NUM_FOLDS):
            rows = scored_users(scorer.heads, fold)
            assert len(rows) == 10
            for row in rows:
                folds.setdefault(row.user_id, []).extend([fold] * row.is_new)
    assert all(len(found) == 2 and len(set(found)) == 1 for found in folds.values())


def test_what_another_run_asked_is_not_asked_again(finished: Plan, crossed: Plan):
    first, second = (plan.probes.manifest()["counters"] for plan in (finished, crossed))
    assert first["asked_now"] == first["requests"] > 0
    assert (second["asked_now"], second["generator_seconds"]) == (0, 0)
    assert second["requests"] == first["requests"]
    drafts = crossed.drafts.manifest()["counters"]
    assert 0 < drafts["asked_now"] < drafts["requests"]


def test_predictions_are_in_lamps_format_for_every_evaluated_query(finished: Plan):
    predictions = predictions_of(finished)
    assert len(predictions) == 4
    assert set(predictions.values()) <= set(finished.task.labels)


@pytest.mark.parametrize("name", ["finished", "crossed"])
def test_a_second_run_does_no_work(name: str, request: pytest.FixtureRequest):
    plan: Plan = request.getfixturevalue(name)
    before = parts_of(plan)
    again = personalize(plan.config)
    assert again.is_complete()
    assert parts_of(again) == before


def test_a_changed_setting_recomputes_only_what_depends_on_it(finished: Plan):
    before = parts_of(finished)
    drafts = finished.config.drafts.model_copy(update={"num_samples": 2})
    changed = plan_run(finished.config.model_copy(update={"drafts": drafts, "run": "changed"}))
    complete = {stage.name for stage in changed.stages() if stage.is_complete()}
    steps = {f"reranker.{step}" for step in ("examples", "base", "features", "heads")}
    steps |= {"adapter.labeller", "adapter.own", "adapter.codes"}
    assert complete == {"users", "profiles", "probes", *steps}
    personalize(changed.config, until="drafts")
    assert {path: parts_of(changed)[path] for path in before} == before


def test_every_file_of_finished_runs_is_of_a_kind_that_users_can_be_forgotten_from(
    finished: Plan, crossed: Plan, tmp_path: Path
):
    root = str(tmp_path / "copy")
    shutil.copytree(finished.config.storage.root, root)
    known = {each.kind for each in artefacts(root)}
    assert known == set(Kind) - {Kind.UNFINISHED, Kind.LEASE}
    new = [row.user_id for row in scored_users(finished.adapter.heads, 0) if row.is_new]
    gone, stays = new[0].removeprefix("dev:"), new[1].removeprefix("dev:")
    assert len(mentions(root, gone)) > 10
    (outcome,) = forget_users(root, [f"dev:{gone}"])
    assert outcome.is_removed_now
    assert mentions(root, gone) == {}
    assert len(mentions(root, stays)) > 10


def test_status_tells_every_stage(finished: Plan):
    lines = list(status_lines(finished.run_folder))
    for name in {*STAGE_NAMES} - {"candidates"}:
        assert any(line.strip().startswith(name) and "complete" in line for line in lines)


def test_a_new_users_head_is_stored_with_its_configuration(finished: Plan):
    new = [row for row in scored_users(finished.adapter.heads, 0) if row.is_new]
    assert len(new) == 4
    assert {row.head for row in new} <= {"shared", "lowrank-16"}


def test_a_user_who_comes_later_is_answered_and_the_run_stays_as_it_is(finished: Plan, tmp_path: Path):
    before = {path: path.read_bytes() for path in Path(finished.run_folder).iterdir()} | parts_of(finished)
    history = [{"input": f"A story built on comedy and {word}.", "output": "comedy"} for word in ("romance", "music")]
    row = {"user_id": "later", "history": history, "queries": [{"input": "It begins with comedy and nature."}]}
    (tmp_path / "june.jsonl").write_text(json.dumps(row))
    added = personalize(update_config(finished.run_folder, [str(tmp_path / "june.jsonl")]))
    (bucket,) = added.users.buckets
    (head,) = read_part(added.adapter.heads.part(heads_table(0), bucket)).to_pylist()
    assert head["user_id"] == "later"
    assert list(predictions_of(added)) == ["later/0"]
    after = {path: path.read_bytes() for path in Path(finished.run_folder).iterdir()} | parts_of(finished)
    assert {path: after[path] for path in before} == before


def test_a_run_killed_in_the_middle_of_probes_resumes_to_the_same_answers(tmp_path: Path):
    # What trains resumes in tests of its own; here nothing is trained before the kill.
    untrained = {"base": {**run_config().adapter.base.model_dump(), "num_epochs": 0, "width": 8}}

    def config(root: str) -> RunConfig:
        scorers = {"reranker": untrained, "adapter": untrained}
        return run_config(root, users={"num_buckets": 8}, drafts={"num_samples": 2}, **scorers)

    undisturbed = personalize(config(str(tmp_path / "undisturbed")))
    plan = plan_run(config(str(tmp_path / "killed")))
    settings = tmp_path / "config.yaml"
    settings.write_text(yaml.safe_dump(plan.config.model_dump(mode="json")))
    ended = end_when(["probes: ", "/8 parts"], ["run", str(settings)], signal.SIGKILL)
    assert ended.status == -signal.SIGKILL
    assert not plan.probes.is_complete()
    committed = {
        Path(location): os.stat(location).st_mtime_ns
        for location in plan.probes.parts("probes")
        if Path(location).exists()
    }
    assert committed
    personalize(plan.config)
    assert {path: path.stat().st_mtime_ns for path in committed} == committed
    predictions = [Path(each.run_folder, "predictions.json").read_bytes() for each in (plan, undisturbed)]
    assert predictions[0] == predictions[1]
