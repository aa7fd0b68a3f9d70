"""All runs below a root, their progress shown until nobody works on them, and both for other programs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import run_config

from hydra_ray import storage
from hydra_ray.cli import main
from hydra_ray.commands.run_state import state_of
from hydra_ray.commands.runs import Unreadable, runs_below, runs_lines
from hydra_ray.commands.status import watch
from hydra_ray.errors import InputError
from hydra_ray.runs.lease import lease, run_lease
from hydra_ray.stages.outline import write_outline
from hydra_ray.stages.plan import Plan, plan_run


def started(root: Path, run: str = "test") -> Plan:
    """A run of which nothing is done yet."""
    plan = plan_run(run_config(str(root)).model_copy(update={"run": run}))
    storage.write_json(storage.join(plan.run_folder, "config.json"), plan.config.model_dump(mode="json"))
    write_outline(plan)
    return plan


def finish(plan: Plan) -> None:
    for stage in plan.stages():
        stage.complete(2.0, {"requests": 3, "prompt_tokens": 10, "generated_tokens": 5, "failed": 1})


def test_runs_are_told_by_what_is_done_and_who_is_at_work(tmp_path: Path):
    finish(started(tmp_path, "b-finished"))
    working, _ = started(tmp_path, "a-working"), started(tmp_path, "c-stopped")
    with lease(run_lease(str(tmp_path), working.config.run), "it"):
        states = runs_below(str(tmp_path))
    assert [(state.run, state.state) for state in states if not isinstance(state, Unreadable)] == [
        ("a-working", "at work"),
        ("b-finished", "finished"),
        ("c-stopped", "stopped"),
    ]


@pytest.mark.parametrize("below", ["", "/", "/runs", "/runs/test"])
def test_a_root_may_be_given_by_what_is_in_it(tmp_path: Path, below: str):
    started(tmp_path)
    assert [each.folder for each in runs_below(f"{tmp_path}{below}")] == [f"{tmp_path}/runs/test"]


def test_a_root_without_runs_is_an_error_that_says_what_a_root_is(tmp_path: Path):
    with pytest.raises(InputError, match=r"give a storage\.root"):
        runs_below(str(tmp_path))


def test_a_run_that_cannot_be_read_hides_no_other(tmp_path: Path):
    started(tmp_path, "good")
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "config.json").write_text("[]")
    bad, good = runs_below(str(tmp_path))
    assert isinstance(bad, Unreadable)
    lines = list(runs_lines([bad, good]))
    assert lines[0].startswith("bad   cannot be told: ")
    assert lines[1].startswith("good  stopped    0 of ")
    assert "users: 0 of 2 parts" in lines[2]


def test_totals_are_those_of_complete_stages(tmp_path: Path):
    plan = started(tmp_path)
    finish(plan)
    totals, number = state_of(plan.run_folder).totals(), len(list(plan.stages()))
    assert (totals["requests"], totals["failed"], totals["seconds"]) == (3 * number, number, 2.0 * number)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_run_is_watched_until_nobody_works_on_it(tmp_path: Path, is_terminal: bool):
    plan = started(tmp_path)
    shown: list[str] = []
    holding = lease(run_lease(str(tmp_path), plan.config.run), "it")
    holding.__enter__()

    def work(_: float) -> None:
        if plan.users.is_complete():
            holding.__exit__(None, None, None)
        plan.users.complete(1.0, {"rows": 10})

    assert watch(plan.run_folder, 1, shown.append, is_terminal=is_terminal, sleep=work) == 1
    if is_terminal:
        assert all("\n  users" in text and text.startswith("\x1b[") for text in shown)
    else:
        assert sum(text.count("  probes ") for text in shown) == 1, "a line is told again when it has changed"
        assert sum(text.count("  users ") for text in shown) == 2


def test_a_finished_run_is_watched_once(tmp_path: Path):
    plan = started(tmp_path)
    finish(plan)
    assert watch(plan.run_folder, 1, lambda _: None, is_terminal=False) == 0


def test_status_and_runs_are_one_json_document_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plan = started(tmp_path)
    plan.users.complete(1.5, {"rows": 10})
    assert main(["status", "--json", plan.run_folder]) == 0
    state = json.loads(capsys.readouterr().out)
    assert state["stages"][0] == {
        "name": "users",
        "is_complete": True,
        "num_done": 2,
        "num_parts": 2,
        "seconds": 1.5,
        "counters": {"rows": 10},
    }
    assert main(["runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [state]


@pytest.mark.integration
def test_a_reader_that_has_enough_ends_a_command_quietly(tmp_path: Path):
    for number in range(3):
        started(tmp_path, f"run-{number}")
    code = f"import sys; from hydra_ray.cli import main; sys.exit(main(['runs', {str(tmp_path)!r}]))"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], check=False, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
