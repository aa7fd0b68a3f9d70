"""Trackers are told of a finished run once, and again only of another report."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import run_config

from hydra_ray import storage
from hydra_ray.forget.file_kinds import Kind, artefacts
from hydra_ray.stages import tracking
from hydra_ray.stages.plan import plan_run


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trackers in the order in which they were told; "mlflow" has no server."""
    found: list[str] = []

    def tell(tracker: str, _: object, folder: Path) -> None:
        if tracker == "mlflow":
            raise ConnectionError("no server")
        found.append(tracker)
        if tracker == "tensorboard":
            (folder / f"events.{len(found)}").write_text("figures")

    monkeypatch.setattr(tracking, "tell", tell)
    monkeypatch.setattr(tracking, "tracked_of", lambda _: None)
    return found


def plan_of(root: Path, trackers: list[str], fingerprint: str = "0123456789abcdef") -> Any:
    folder = root / "stages" / "report" / fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text("{}")
    return SimpleNamespace(
        run_folder=str(root / "runs" / "test"),
        config=run_config(str(root), report={"trackers": trackers}),
        report=SimpleNamespace(folder=str(folder), fingerprint=fingerprint),
    )


def test_each_is_told_once_of_a_report(tmp_path: Path, told: list[str]):
    for trackers in (["tensorboard"], ["tensorboard"], ["tensorboard", "wandb"]):
        tracking.tell_trackers(plan_of(tmp_path, trackers))
    assert told == ["tensorboard", "wandb"]
    tracking.tell_trackers(plan_of(tmp_path, ["tensorboard"], "fedcba9876543210"))
    assert told == ["tensorboard", "wandb", "tensorboard"]
    events = tmp_path / "runs" / "test" / tracking.EVENTS
    assert [each.name for each in events.iterdir()] == ["events.3"]


def test_one_that_fails_ends_no_run_and_is_told_the_next_time(
    tmp_path: Path, told: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    tracking.tell_trackers(plan_of(tmp_path, ["mlflow", "wandb"]))
    assert told == ["wandb"]
    assert "mlflow was not told of the run (ConnectionError: no server)" in caplog.text
    monkeypatch.setattr(tracking, "tell", lambda tracker, *_: told.append(tracker))
    tracking.tell_trackers(plan_of(tmp_path, ["mlflow", "wandb"]))
    assert told == ["wandb", "mlflow"]


def test_nothing_is_written_where_none_is_named(tmp_path: Path):
    tracking.tell_trackers(plan_of(tmp_path, []))
    assert not (tmp_path / "runs").exists()


def test_its_files_name_no_user_and_stop_no_removal(tmp_path: Path, told: list[str]):
    tracking.tell_trackers(plan_of(tmp_path, ["tensorboard"]))
    kinds = {each.path: each.kind for each in artefacts(str(tmp_path)) if each.path.startswith("runs/")}
    assert kinds == {"runs/test/trackers.json": Kind.RECORD, "runs/test/tensorboard/events.1": Kind.RECORD}
    assert json.loads(storage.read_bytes(str(tmp_path / "runs" / "test" / tracking.TRACKED)))["tensorboard"]


def test_naming_one_makes_no_report_anew(tmp_path: Path):
    plans = [plan_run(run_config(str(tmp_path), report={"trackers": each})) for each in ([], ["wandb"])]
    assert plans[0].report.fingerprint == plans[1].report.fingerprint
