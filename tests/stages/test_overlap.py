"""Stages that are made while the generator answers."""

import threading
from pathlib import Path
from typing import Any

import pytest
from builders import run_config

from hydra_ray.config import RunConfig
from hydra_ray.errors import HydraError, WorkerError
from hydra_ray.stages.overlap import MadeStage, overlapping
from hydra_ray.stages.plan import plan_run

SECONDS = 10


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Asked for room with these demands; there is always some."""
    asked: list[Any] = []

    def has_room(_: Any, demands: Any) -> bool:
        asked.append(demands)
        return True

    monkeypatch.setattr("hydra_ray.stages.overlap.has_room_beside", has_room)
    return asked


def made(config: RunConfig, name: str) -> MadeStage:
    return next(each for each in plan_run(config).made() if each[0].name == name)


def make_nothing(_: MadeStage) -> None:
    raise AssertionError("nothing is to be made")


def names_made(config: RunConfig) -> list[str]:
    """What is made while the generator answers, in order."""
    names: list[str] = []
    with overlapping(config, list(plan_run(config).made()), lambda each: names.append(each[0].name)) as overlap:
        overlap.begin()
        overlap.end()
    return names


def test_what_reads_nothing_that_the_generator_says_is_made_meanwhile(tmp_path: Path):
    assert names_made(run_config(str(tmp_path))) == ["adapter.labeller", "adapter.own", "adapter.codes"]


def test_nothing_is_made_where_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hydra_ray.stages.overlap.has_room_beside", lambda *_: False)
    assert names_made(run_config(str(tmp_path))) == []


def test_what_is_complete_is_not_made(tmp_path: Path, room: list[Any]):
    config = run_config(str(tmp_path))
    for name in ("adapter.labeller", "adapter.own", "adapter.codes"):
        made(config, name)[1].complete(1.0, {})
    assert names_made(config) == []
    assert not room


def test_a_stage_is_waited_for_where_it_is_needed_and_not_before(tmp_path: Path):
    config, goes_on, threads = run_config(str(tmp_path)), threading.Event(), set[int]()

    def make(_: MadeStage) -> None:
        threads.add(threading.get_ident())
        assert goes_on.wait(SECONDS)

    with overlapping(config, list(plan_run(config).made()), make) as overlap:
        assert not overlap.has_made(made(config, "adapter.labeller"))  # not begun
        overlap.begin()
        overlap.begin()
        assert not overlap.has_made(made(config, "drafts"))
        goes_on.set()
        assert overlap.has_made(made(config, "adapter.codes"))
    assert len(threads) == 1
    assert threads.isdisjoint({threading.get_ident()})


def test_a_stage_that_fails_ends_the_run_before_more_is_asked(tmp_path: Path):
    config = run_config(str(tmp_path))

    def fail(each: MadeStage) -> None:
        raise WorkerError(f"{each[0].name} failed")

    def run() -> None:
        with overlapping(config, list(plan_run(config).made()), fail) as overlap:
            overlap.begin()
            while True:  # the error is told by the first look after it
                assert not overlap.has_made(made(config, "drafts"))

    with pytest.raises(WorkerError, match=r"adapter\.labeller failed"):
        run()


def test_when_the_run_fails_nothing_is_at_work_any_more(tmp_path: Path):
    config, begun, ended = run_config(str(tmp_path)), threading.Event(), list[str]()

    def make(each: MadeStage) -> None:
        begun.set()
        assert not threading.Event().wait(0.05)
        ended.append(each[0].name)

    def run() -> None:
        with overlapping(config, list(plan_run(config).made()), make) as overlap:
            overlap.begin()
            assert begun.wait(SECONDS)
            raise HydraError("too dear")

    with pytest.raises(HydraError, match="too dear"):
        run()
    assert ended == ["adapter.labeller"]


def test_where_nothing_is_asked_a_stage_is_made_in_its_turn(tmp_path: Path):
    config = run_config(str(tmp_path))
    with overlapping(config, list(plan_run(config).made()), make_nothing) as overlap:
        assert not overlap.has_made(made(config, "adapter.labeller"))
