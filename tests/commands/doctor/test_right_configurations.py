from pathlib import Path

import in_process
import pytest

from hydra_ray.api import configured
from hydra_ray.cli import main
from hydra_ray.stages.run import personalize


@pytest.mark.ray  # without Ray, but half a minute
def test_what_the_doctor_finds_right_runs_to_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    overrides = [f"storage.root={tmp_path}", "report.num_resamples=200"]
    assert main(["doctor", "tour", *overrides]) == 0
    assert "PROBLEM" not in capsys.readouterr().out
    in_process.install(monkeypatch)
    plan = personalize(configured("tour", overrides))
    assert Path(plan.run_folder, "report.html").exists()
