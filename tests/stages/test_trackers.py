"""Trackers are told the report's own figures; TensorBoard's events are read again, those of others are recorded."""

import struct
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from synthetic import CLASSIFICATION, synthetic_answers, synthetic_config
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from hydra_ray.evaluate.report import StageCost, build_report
from hydra_ray.stages.trackers import PAGE, Tracked, tell, tracked_of


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    costs = [
        StageCost(name="probes", seconds=96.2, counters={"requests": 14, "generated_tokens": 58}, is_reused=False),
        StageCost(name="drafts", seconds=151.8, counters={"requests": 7, "generated_tokens": 210}, is_reused=False),
    ]
    return build_report(CLASSIFICATION, synthetic_answers(CLASSIFICATION, 30), costs, synthetic_config())


@pytest.fixture(scope="module")
def tracked(report: dict[str, Any]) -> Tracked:
    return tracked_of(report)


def test_figures_are_those_of_the_report(report: dict[str, Any], tracked: Tracked):
    rival = report["best_prompt_baseline"]
    difference = report["differences"]["hydra"][rival]["accuracy"]
    figures = tracked.figures
    assert [figures[f"headline/{name}"] for name in ("difference", "low", "high")] == [
        difference[name] for name in ("value", "low", "high")
    ]
    for name, system in report["systems"].items():
        assert figures[f"quality/{name}"] == system["quality"]["value"]
        assert figures[f"macro_f1/{name}"] == system["metrics"]["macro_f1"]["value"]
    assert figures["seconds/probes"] == 96.2
    assert figures["costs/generated_tokens"] == 268
    assert tracked.settings["drafts.num_records"] == str(report["config"]["drafts"]["num_records"])


def test_neither_ids_nor_texts_of_users_are_told(report: dict[str, Any], tracked: Tracked):
    told = f"{tracked.page} {tracked.settings} {tracked.figures}"
    assert report["examples"]
    for example in report["examples"]:
        assert example["user_id"] not in told
        assert example["input"] not in told
    assert "hydra" in tracked.page.casefold()


def events_of(folder: Path) -> list[Event]:
    """Events in the only file of a folder: records of a length, its check value, an event and its check value."""
    (file,) = folder.iterdir()
    content, found = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[12 + length + 4 :]
    return found


def test_tensorboard_reads_them(tracked: Tracked, tmp_path: Path):
    tell("tensorboard", tracked, tmp_path)
    values = [value for event in events_of(tmp_path) for value in event.summary.value]
    scalars = {value.tag: value.simple_value for value in values if value.HasField("simple_value")}
    assert scalars == {name: pytest.approx(value, rel=1e-6) for name, value in tracked.figures.items()}
    texts = {
        value.tag.split("/")[0]: value.tensor.string_val[0].decode() for value in values if value.HasField("tensor")
    }
    assert texts["headline"] == tracked.headline
    assert all(f"| {name} | {value} |" in texts["settings"] for name, value in tracked.settings.items() if value)


class Recorder(ModuleType):
    """Stands for a tracker's package: records the calls of its functions."""

    def __init__(self, name: str):
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.pages: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*given: Any, **named: Any) -> Any:
            self.calls.append((name, given, named))
            if name in ("log_artifact", "add_file") and isinstance(given[0], str):
                self.pages.append(Path(given[0]).read_text(encoding="utf-8"))
            return nullcontext(self) if name in ("start_run", "init") else self

        return call

    @property
    def summary(self) -> "Recorder":
        return self

    def named(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(given, named) for each, given, named in self.calls if each == name]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Recorder]:
    def install(name: str) -> Recorder:
        recorder = Recorder(name)
        monkeypatch.setitem(sys.modules, name, recorder)
        return recorder

    return install


def test_mlflow_is_told_in_batches_that_it_takes(tracked: Tracked, package: Callable[[str], Recorder], tmp_path: Path):
    mlflow = package("mlflow")
    tell("mlflow", tracked, tmp_path)
    assert mlflow.named("set_experiment") == [((tracked.experiment,), {})]
    assert mlflow.named("start_run")[0][1]["run_name"] == tracked.run
    batches = [given[0] for given, _ in mlflow.named("log_params")]
    assert max(map(len, batches)) <= 100
    assert {name: value for each in batches for name, value in each.items()} == tracked.settings
    assert mlflow.named("log_metrics") == [((dict(tracked.figures),), {})]
    assert mlflow.pages == [tracked.page]
    assert Path(mlflow.named("log_artifact")[0][0][0]).name == PAGE


def test_wandb_is_told(tracked: Tracked, package: Callable[[str], Recorder], tmp_path: Path):
    wandb = package("wandb")
    tell("wandb", tracked, tmp_path)
    ((_, named),) = wandb.named("init")
    assert named["config"] == tracked.settings
    assert named["name"] == tracked.run
    assert " " not in named["project"]
    assert wandb.named("update") == [((dict(tracked.figures),), {})]
    assert wandb.named("Artifact") == [((tracked.run,), {"type": "report"})]
    assert wandb.pages == [tracked.page]
    assert wandb.named("log_artifact")


def test_mlflow_itself_keeps_what_it_is_told(tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mlflow = pytest.importorskip("mlflow", reason="the package mlflow is not installed")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    tell("mlflow", tracked, tmp_path)
    (run,) = mlflow.search_runs(experiment_names=[tracked.experiment], output_format="list")
    assert run.info.run_name == tracked.run
    assert run.data.params == tracked.settings
    assert run.data.metrics == pytest.approx(dict(tracked.figures))
    page = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=PAGE)
    assert Path(page).read_text(encoding="utf-8") == tracked.page


def test_wandb_itself_keeps_what_it_is_told(tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb", reason="the package wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    tell("wandb", tracked, tmp_path)
    # Messages of protobuf in blocks of 32 KiB, whose borders may cut a few names. A process of its own writes them.
    names = [tracked.run, tracked.headline, *tracked.settings, *tracked.figures]
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    missing, end = len(names), time.monotonic() + 60
    while missing > path.stat().st_size // 2**15 + 1 and time.monotonic() < end:
        time.sleep(0.1)
        missing = sum(name.encode() not in path.read_bytes() for name in names)
    assert missing <= path.stat().st_size // 2**15 + 1
