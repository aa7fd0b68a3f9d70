"""Shipped configurations are found by name, from any folder."""

import os
from pathlib import Path

import pytest

from hydra_ray.cli import main
from hydra_ray.config import RunConfig, load_config
from hydra_ray.errors import ConfigError
from hydra_ray.shipped import FOLDER, find_configuration, is_configuration, shipped_names
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.storage import write_bytes
from hydra_ray.sweep.config import load_sweep

JOBS = Path(__file__).parents[1] / "jobs" / "configs"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every test is in a folder without a checkout."""
    monkeypatch.chdir(tmp_path)


def test_what_is_shipped_is_what_people_submit():
    assert FOLDER.resolve() == JOBS
    schemas = {JOBS / "configuration.schema.json", JOBS / "sweep.schema.json"}
    assert shipped_names() == sorted(path.stem for path in {*JOBS.iterdir()} - schemas)


@pytest.mark.parametrize("name", [name for name in shipped_names() if name != "sweep"])
def test_a_name_loads_the_configuration(name: str):
    assert load_config(name) == load_config(JOBS / f"{name}.yaml")


def test_a_sweep_and_its_base_are_found_by_name():
    assert load_sweep("sweep") == load_sweep(JOBS / "sweep.yaml")


def test_a_file_of_the_name_wins_and_a_folder_does_not():
    Path("tour").mkdir()
    assert find_configuration("tour") == FOLDER / "tour.yaml"
    Path("tour").rmdir()
    Path("tour").write_text("run: mine")
    assert find_configuration("tour") == Path("tour")


@pytest.mark.parametrize("given", ["tuor", "sub/demo", "demo.yml", "/no/such.yaml", "."])
def test_what_is_neither_is_an_error_that_lists_the_names(given: str):
    with pytest.raises(ConfigError, match=f"cannot read the configuration {given}.*api, batches, demo, .*, tour"):
        find_configuration(given)


@pytest.mark.parametrize(
    ("given", "is_one"),
    [
        ("tour", True),
        ("x/run.yaml", True),
        ("run.yml", True),
        ("outputs/runs/tour", False),
        ("s3://b/runs/tour", False),
    ],
)
def test_a_configuration_is_told_from_a_runs_folder(given: str, is_one: bool):
    assert is_configuration(given) == is_one
    Path("tour").mkdir()
    assert not is_configuration("tour")


@pytest.mark.parametrize("command", [["run"], ["plan", "--no-calibration"], ["sweep", "--dry"]])
def test_every_command_that_takes_a_configuration_lists_the_names(
    command: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main([*command, "tuor"]) == 2
    assert "the name of a shipped configuration: api, batches, demo," in capsys.readouterr().err


def test_outputs_of_a_shipped_configuration_are_in_the_working_directory(tmp_path: Path):
    assert main(["run", "tour", "--until", "users"]) == 0
    assert list((tmp_path / "outputs" / "stages" / "users").iterdir())


def test_the_demo_is_run_with_the_seed_and_its_report_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    made: list[Plan] = []

    def personalized(config: RunConfig) -> Plan:
        made.append(plan_run(config))
        write_bytes(f"{made[0].run_folder}/report.html", b"")
        return made[0]

    monkeypatch.setattr("hydra_ray.stages.run.personalize", personalized)
    assert main(["demo", "--seed", "3"]) == 0
    (plan,) = made
    asked = load_config("demo", ["lamp.planted.seed=3", "generator.seed=3", f"storage.root={tmp_path / 'outputs'}"])
    assert plan.config == asked
    assert capsys.readouterr().out == f"report: {tmp_path}/outputs/runs/demo/report.html\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_configuration_in_a_folder_that_may_not_be_entered_is_refused(nobodys: Path):
    with pytest.raises(ConfigError, match="enter the folders above it"):
        find_configuration(nobodys / "closed" / "run.yaml")


@pytest.mark.parametrize("given", ["9" * 6000, "/no/\ud83d", "a\nb", "nul\0"])
def test_any_text_in_the_place_of_a_path_is_told_on_one_short_line(given: str):
    with pytest.raises(ConfigError) as caught:
        find_configuration(given)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 800
