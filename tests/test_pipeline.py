"""The whole path with the fake generator: stages, commits, resumption. Real engines are tested in their own modules."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from builders import run_config

from hydra_ray.config import STAGE_NAMES, RunConfig
from hydra_ray.pipeline import personalize
from hydra_ray.plan import Plan, plan_run
from hydra_ray.records import ScoredUser, arrow_schema, from_table
from hydra_ray.status import status_lines
from hydra_ray.storage import read_part

SYSTEMS = {"zero_shot", "rag_1", "rag_k", "majority", "vote", "hydra", "hydra_shared", "hydra_shuffled", "oracle"}

pytestmark = [
    pytest.mark.ray,
    # Third parties: Ray leaves sockets and processes to the interpreter's end and uses what others have deprecated.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A finished run."""
    return personalize(run_config(str(tmp_path_factory.mktemp("root"))))


def parts_of(plan: Plan) -> dict[Path, int]:
    """Every committed file with the time it was written."""
    return {path: path.stat().st_mtime_ns for path in (Path(plan.config.storage.root) / "stages").rglob("*.parquet")}


def test_a_run_reports_every_system_on_every_new_user(finished: Plan):
    metrics = json.loads(Path(finished.run_folder, "metrics.json").read_text())
    assert set(metrics["systems"]) == SYSTEMS
    assert metrics["num_users"] == 4
    page = Path(finished.run_folder, "report.html").read_text()
    assert "HYDRA" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_predictions_are_in_lamps_format_for_every_evaluated_query(finished: Plan):
    predictions = json.loads(Path(finished.run_folder, "predictions.json").read_text())
    assert predictions["task"] == "planted"
    assert len({gold["id"] for gold in predictions["golds"]}) == 4
    assert all(gold["output"] in finished.task.labels for gold in predictions["golds"])


def test_a_second_run_does_no_work(finished: Plan):
    before = parts_of(finished)
    again = personalize(finished.config)
    assert again.is_complete()
    assert parts_of(again) == before


def test_a_changed_setting_recomputes_only_what_depends_on_it(finished: Plan):
    before = parts_of(finished)
    drafts = finished.config.drafts.model_copy(update={"num_samples": 2})
    changed = plan_run(finished.config.model_copy(update={"drafts": drafts, "run": "changed"}))
    complete = {stage.name for stage in changed.stages() if stage.is_complete()}
    assert complete == {"users", "probes", *(f"reranker.{step}" for step in ("examples", "base", "features", "heads"))}
    personalize(changed.config, until="drafts")
    assert {path: parts_of(changed)[path] for path in before} == before


def test_status_tells_every_stage(finished: Plan):
    lines = list(status_lines(finished.run_folder))
    for name in STAGE_NAMES:
        assert any(line.strip().startswith(name) and "complete" in line for line in lines)


def test_a_new_users_head_is_stored_with_its_configuration(finished: Plan):
    heads = set()
    for location in finished.adapter.heads.parts("scores"):
        part = read_part(location, arrow_schema(ScoredUser))
        heads |= {row.head for row in from_table(part, ScoredUser) if row.is_new}
    assert heads <= {"shared", "lowrank-16"}


def test_a_run_killed_in_the_middle_of_probes_resumes_to_the_same_answers(tmp_path: Path):
    def config(root: str) -> RunConfig:
        return run_config(root, users={"num_buckets": 8}, drafts={"num_samples": 2})

    undisturbed = personalize(config(str(tmp_path / "undisturbed")))
    plan = plan_run(config(str(tmp_path / "killed")))
    settings = tmp_path / "config.yaml"
    settings.write_text(yaml.safe_dump(plan.config.model_dump(mode="json")))
    command = [sys.executable, "-m", "hydra_ray.cli", "run", str(settings)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "probes: " in line and "/8 parts" in line:
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
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
