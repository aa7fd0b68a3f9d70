from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import run_config

from hydra_ray.stages.plan import plan_run
from hydra_ray.sweep.config import Sweep, SweepConfig
from hydra_ray.sweep.space import grid_points
from hydra_ray.sweep.stage_reuse import Trial, make_trial, stage_bounds, stage_uses

SPACE = {"probes.num_records": [2, 3], "drafts.num_records": [1, 2], "adapter.heads.prior_scale": [0.5, 1.0, 2.0]}
MakeSweep = Callable[..., Sweep]


@pytest.fixture
def make_sweep(tmp_path: Path) -> MakeSweep:
    def make(**changes: Any) -> Sweep:
        config = {"sweep": "s", "base": "none", "space": SPACE, **changes}
        base = run_config(str(tmp_path)).model_dump(mode="json")
        return Sweep(config=SweepConfig.model_validate(config), base=base)

    return make


def trials_of(sweep: Sweep) -> list[Trial]:
    return [make_trial(sweep, point) for point in grid_points(sweep.config.space)]


@pytest.mark.parametrize("judged_on", ["history", "queries"])
def test_distinct_stage_results_are_as_many_as_folders_that_the_trials_runs_have(make_sweep: MakeSweep, judged_on: str):
    trials = trials_of(make_sweep(judged_on=judged_on))
    uses = stage_uses([trial.stages for trial in trials])
    folders = {stage.folder for trial in trials for stage in plan_run(trial.config).stages()}
    if judged_on == "history":
        folders = {folder for folder in folders if "/answers/" not in folder and "/report/" not in folder}
    assert sum(use.distinct for use in uses) == len(folders)
    assert {use.wanted for use in uses} == {12}
    assert {use.name: use.distinct for use in uses}.items() >= {
        "users": 1,
        "probes": 2,
        "drafts": 4,
        "adapter.base": 4,
        "adapter.heads": 12,
    }.items()


def test_complete_results_are_counted_once_for_all_trials_that_share_them(make_sweep: MakeSweep):
    trials = trials_of(make_sweep())
    for stage in (trials[0].stages[0], trials[-1].stages[-1]):
        stage.complete(0, {})
    complete = {use.name: use.complete for use in stage_uses([trial.stages for trial in trials]) if use.complete}
    assert complete == {"users": 1, trials[-1].stages[-1].name: 1}


def test_a_trial_is_named_by_its_settings_and_by_what_it_answers(make_sweep: MakeSweep):
    first, second = trials_of(make_sweep())[:2]
    assert first.run != second.run
    again = make_sweep(
        space={"drafts.num_records": [1, 2, 9], **{key: SPACE[key] for key in SPACE if key != "drafts.num_records"}}
    )
    assert make_trial(again, dict(reversed(first.settings.items()))).run == first.run
    another_base = Sweep(config=again.config, base={**again.base, "generator": {**again.base["generator"], "seed": 7}})
    assert make_trial(another_base, first.settings).run != first.run


def test_bounds_of_trials_that_are_not_known_yet_hold_for_the_whole_grid(make_sweep: MakeSweep):
    sweep = make_sweep(search="optuna", num_trials=100)
    uses = stage_uses([trial.stages for trial in trials_of(sweep)])
    bounds = stage_bounds(sweep, 100)
    assert bounds.per_trial == bounds.lowest == len(uses)
    assert bounds.highest == sum(use.distinct for use in uses)
    assert stage_bounds(sweep, 1).highest == len(uses)


def test_a_range_is_bounded_by_the_number_of_trials(make_sweep: MakeSweep):
    space = {"adapter.heads.prior_scale": {"low": 0.1, "high": 10.0, "log": True}}
    sweep = make_sweep(search="optuna", num_trials=5, space=space)
    num_stages, num_affected = len(make_trial(sweep, {"adapter.heads.prior_scale": 1.0}).stages), 2  # heads and gate
    assert stage_bounds(sweep, 5).highest == num_stages + num_affected * 4


def test_impossible_points_bound_nothing(make_sweep: MakeSweep):
    space = {"probes.num_records": [1, 2, 3], "drafts.num_records": [2, 3]}
    sweep = make_sweep(search="optuna", num_trials=9, space=space)
    possible = [make_trial(sweep, point) for point in grid_points(space) if sweep.is_possible(point)]
    uses = stage_uses([trial.stages for trial in possible])
    assert len(possible) == 3
    assert stage_bounds(sweep, 9).highest >= sum(use.distinct for use in uses)
