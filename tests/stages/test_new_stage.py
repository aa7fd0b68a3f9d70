"""A stage that is added as one module and one entry of the list is known everywhere."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import greetings
import in_process
import pytest
from builders import run_config
from greetings import GreetedUser

import hydra_ray.stages
from hydra_ray import storage
from hydra_ray.cluster.placement_plan import stage_needs
from hydra_ray.commands.prune import unneeded_files
from hydra_ray.commands.retry import clear_failures, failed_stages
from hydra_ray.commands.status import status_lines
from hydra_ray.config import RunConfig
from hydra_ray.forecast.forecast import make_forecast
from hydra_ray.forget.removal import forget_users
from hydra_ray.generate.completion_store import asker_of
from hydra_ray.generate.engine import Keep, keep_nowhere
from hydra_ray.generate.engines.fake import FakeEngine, complete
from hydra_ray.generate.failures import FailureKind
from hydra_ray.rows import Completion, Prompt, Request, arrow_schema, from_table
from hydra_ray.runs.run_folder import record_stages
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.stages.run import personalize

# Third parties: what imports Ray uses what others have deprecated.
pytestmark = pytest.mark.filterwarnings("default")

BEFORE = hydra_ray.stages.STAGE_NAMES


class Generator:
    """Knows what it was asked, and fails while it is told to."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.is_failing = False

    async def __call__(self, prompts: Sequence[Prompt], keep: Keep = keep_nowhere) -> list[Completion]:
        self.asked += [prompt.request for prompt in prompts]
        made = [complete(prompt.request) for prompt in prompts]
        if self.is_failing:
            failed = {"generations": (), "error": "no answer", "failure": FailureKind.TIMEOUT, "attempts": 3}
            made = [replace(each, **failed) for each in made]
        keep(made)
        return made


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Generator]:
    """A process in which the list of stages has the new one."""
    in_process.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "hydra_ray.stages.greetings", greetings)
    monkeypatch.setattr(hydra_ray.stages, "STAGE_NAMES", (*BEFORE[:1], "greetings", *BEFORE[1:]))
    generator = Generator()
    monkeypatch.setattr(FakeEngine, "answer", generator)
    return generator


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return run_config(str(tmp_path), generator={"max_failed_fraction": 1.0})


def run(config: RunConfig) -> Plan:
    return personalize(config, until="greetings")


def rows(plan: Plan) -> list[GreetedUser]:
    locations = plan.stage("greetings").parts("greetings")
    parts = (storage.read_part(each, arrow_schema(GreetedUser)) for each in locations)
    return [row for part in parts for row in from_table(part, GreetedUser)]


def test_a_new_stage_is_planned_and_no_other_is_renamed(config, generator, monkeypatch):
    planned = {stage.name: stage.fingerprint for stage in plan_run(config).stages()}
    monkeypatch.setattr(hydra_ray.stages, "STAGE_NAMES", BEFORE)
    before = {stage.name: stage.fingerprint for stage in plan_run(config).stages()}
    assert list(planned)[:2] == ["users", "greetings"]
    assert {name: found for name, found in planned.items() if name != "greetings"} == before


def test_a_new_stage_is_run_with_a_row_per_evaluated_user(config, generator):
    plan = run(config)
    assert {row.user_id for row in rows(plan)} == {request.user_id for request in generator.asked}
    assert len(rows(plan)) == 4
    assert all(row.greeting for row in rows(plan))
    assert plan.stage("greetings").manifest()["counters"]["answers"] == 4


def test_a_new_stage_is_resumed_without_asking_again(config, generator):
    plan = run(config)
    stage, made = plan.stage("greetings"), rows(plan)
    storage.remove_file(stage.manifest_location)
    storage.remove_file(stage.part("greetings", 0))
    generator.asked.clear()
    assert rows(run(config)) == made
    assert generator.asked == []


def test_a_new_stage_is_forecast_before_and_after_it_is_made(config, generator):
    forecasts = {each.name: each for each in make_forecast(config, None).stages}
    assert generator.asked == []
    run(config)
    after = {each.name: each for each in make_forecast(config, None).stages}
    volume = forecasts["greetings"].volume
    assert volume is not None
    assert (volume.all.requests.value, volume.new.requests.value, volume.is_exact) == (4, 4, True)
    assert forecasts["greetings"].other_seconds == pytest.approx(1 + 0.01 * 10)
    assert after["greetings"].is_complete
    assert after["greetings"].volume is not None
    assert after["greetings"].volume.new.requests.value == 0


def test_answers_of_a_new_stage_are_pruned_only_when_no_run_needs_them(config, generator):
    plan = run(config)
    root, asker = config.storage.root, asker_of("greetings", plan.stage("greetings").fingerprint)
    kept = [path for path in storage.list_tree(root) if asker in path]
    record_stages(plan.run_folder, plan.stages())
    assert kept
    assert unneeded_files(root) == []
    storage.remove_folder(plan.run_folder)
    assert {each.location for each in unneeded_files(root)} == {storage.join(root, path) for path in kept}


def test_failed_answers_of_a_new_stage_are_asked_again(config, generator):
    generator.is_failing = True
    plan = run(config)
    assert [row.greeting for row in rows(plan)] == [None] * 4
    assert [each.stage.name for each in failed_stages(plan)] == ["greetings"]
    generator.is_failing = False
    generator.asked.clear()
    clear_failures(plan, [FailureKind.TIMEOUT])
    assert all(row.greeting for row in rows(run(config)))
    assert len(generator.asked) == 4


def test_a_user_is_forgotten_in_the_table_of_a_new_stage(config, generator):
    plan = run(config)
    gone, *others = sorted(row.user_id for row in rows(plan))
    [outcome] = forget_users(config.storage.root, [gone])
    assert outcome.is_removed_now
    assert sorted(row.user_id for row in rows(plan)) == others


def test_a_new_stage_is_shown_by_status(config, generator):
    plan = run(config)
    shown = [line for line in status_lines(plan.run_folder) if line.split()[0] == "greetings"]
    assert len(shown) == 1
    assert "complete" in shown[0]
    storage.remove_file(plan.stage("greetings").manifest_location)
    storage.remove_file(plan.stage("greetings").part("greetings", 1))
    [left] = [line for line in status_lines(plan.run_folder) if line.split()[0] == "greetings"]
    assert "1 of 2 parts" in left


def test_a_new_stage_has_its_place_in_the_plan_of_a_cluster(config, generator):
    assert [need.work for need in stage_needs(config)["greetings"]] == ["steps", "generator"]


def test_a_stage_before_its_inputs_is_an_error_of_the_list(config, generator, monkeypatch):
    monkeypatch.setattr(hydra_ray.stages, "STAGE_NAMES", ("greetings", *BEFORE))
    with pytest.raises(ValueError, match=r"greetings is listed twice or before its inputs \['users'\]"):
        plan_run(config)
