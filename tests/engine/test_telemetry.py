"""What is counted, under names that the dashboard asks for. How Ray exports it is tested with a cluster."""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hydra_ray.engine import telemetry
from hydra_ray.engine.telemetry import COUNTED, Telemetry
from hydra_ray.runs.logs import at_work

DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana" / "hydra_ray.json"


class Kept:
    """Stands for Ray's metrics: everything that was recorded, by name."""

    def __init__(self) -> None:
        self.records: list[tuple[str, float, Mapping[str, str]]] = []

    def metric(self, name: str, description: str) -> Any:
        assert description
        kept = self

        class Metric:
            def record(self, value: float, tags: Mapping[str, str]) -> None:
                kept.records.append((name, value, tags))

            inc = set = observe = record

        return Metric()

    def total(self, name: str) -> float:
        return sum(value for each, value, _ in self.records if each == name)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    made = Kept()
    for kind in ("_counter", "_gauge", "_histogram"):
        monkeypatch.setattr(telemetry, kind, made.metric)
    return made


def test_parts_and_their_counters_are_added_up_by_run_and_stage(kept: Kept):
    with at_work(run="demo"):
        told = Telemetry("probes", 3)
        told.advance(0, {"rows": 4, "generated_tokens": 30})
        told.advance(2, {"rows": 5, "unknown": 7})
    assert kept.total("hydra_parts_to_do") == 3
    assert (kept.total("hydra_parts"), kept.total("hydra_rows"), kept.total("hydra_generated_tokens")) == (2, 9, 30)
    assert {tuple(tags.items()) for _, _, tags in kept.records} == {(("run", "demo"), ("stage", "probes"))}
    assert not [name for name, _, _ in kept.records if "unknown" in name]


def test_every_part_is_in_the_finest_log_with_its_numbers(kept: Kept, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG, "hydra_ray.engine.telemetry")
    Telemetry("probes", 1).advance(5, {"rows": 4})
    (record,) = caplog.records
    assert record.__dict__["part"] == 5
    assert record.__dict__["rows"] == 4


def test_without_ray_a_stage_ends_quietly(kept: Kept, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(telemetry.sys.modules, "ray", raising=False)
    telemetry.stage_ended("users", 1.0)
    assert kept.records == []


def test_the_dashboard_asks_for_metrics_that_there_are():
    counters = {f"ray_hydra_{name}_total" for name in (*COUNTED, "parts")}
    known = counters | {"ray_hydra_parts_to_do", "ray_hydra_stage_seconds", "ray_hydra_part_seconds_bucket"}
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [each["query"] for each in dashboard["templating"]["list"]]
    names = {name for each in asked for name in re.findall(r"ray_hydra_\w+", each)}
    assert names <= known
    assert len(names) > 8


def test_the_dashboards_panels_do_not_overlap():
    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    taken = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
