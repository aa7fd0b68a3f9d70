"""The process of a run is asked to end, and is waited for."""

import multiprocessing
import signal
import time
from pathlib import Path

import pytest
from builders import run_config

from hydra_ray.commands.stop import stop_lines
from hydra_ray.errors import InputError, StorageError
from hydra_ray.runs.lease import Owner, lease, live_owners, run_lease
from hydra_ray.stages.outline import write_outline
from hydra_ray.stages.plan import plan_run
from hydra_ray.storage import join, write_json

ELSEWHERE = Owner(name="n", host="far", pid=7, machine="", started="")
_PROCESSES = multiprocessing.get_context("forkserver")


def work_for_ever(location: str) -> None:
    with lease(location, "a run"):
        time.sleep(3600)


def started_run(root: Path) -> str:
    """The folder of a run that has begun."""
    plan = plan_run(run_config(str(root)))
    write_json(join(plan.run_folder, "config.json"), plan.config.model_dump(mode="json"))
    write_outline(plan)
    return plan.run_folder


@pytest.mark.integration
def test_stop_ends_the_process_of_a_run(tmp_path: Path):
    folder = started_run(tmp_path)
    location = run_lease(str(tmp_path), "test")
    process = _PROCESSES.Process(target=work_for_ever, args=(location,))
    process.start()
    while not live_owners([location]):
        pass
    told = list(stop_lines(folder, is_cancelling=False))
    process.join()
    assert process.exitcode == -signal.SIGTERM
    assert f"process {process.pid} on" in told[0]
    assert told[0].endswith("has ended")
    assert told[1:] == ["no batches are under way"]


def test_batches_are_not_cancelled_while_another_machine_works_on_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = started_run(tmp_path)
    monkeypatch.setattr("hydra_ray.commands.stop.live_owners", lambda paths: dict.fromkeys(paths, ELSEWHERE))
    told = stop_lines(folder, is_cancelling=True)
    assert next(told) == "process 7 on far works on the run: stop it there (`ray job stop`, or SIGTERM)"
    with pytest.raises(StorageError, match="No batch was cancelled"):
        next(told)


def test_stop_without_a_process_changes_nothing(tmp_path: Path):
    told = list(stop_lines(started_run(tmp_path), is_cancelling=True))
    assert told == ["no process works on the run", "no batches are under way"]


def test_stop_of_no_run_is_an_input_error(tmp_path: Path):
    with pytest.raises(InputError, match=r"there is no config\.json"):
        list(stop_lines(str(tmp_path / "runs" / "none"), is_cancelling=False))
