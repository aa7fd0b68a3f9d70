from pathlib import Path
from typing import Any

import pytest
from builders import ENCODER, run_config

from hydra_ray.forecast.durations import other_seconds
from hydra_ray.forecast.past_runs import (
    WRITTEN_SHARE,
    Observation,
    Written,
    fit_speed,
    past_observations,
    past_runs,
    past_written,
)
from hydra_ray.stages.plan import plan_run
from hydra_ray.storage import write_json


def observed(prompt_tokens: float, generated_tokens: float, noise: float = 1.0) -> Observation:
    seconds = (0.001 * prompt_tokens + 0.02 * generated_tokens) * noise
    return Observation(prompt_tokens=prompt_tokens, generated_tokens=generated_tokens, seconds=seconds)


def metrics_of(config: Any, seconds: float = 10, **counters: float) -> dict[str, Any]:
    usual = {"requests": 10, "asked_now": 10, "answers": 10, "prompt_tokens": 1000, "generated_tokens": 40}
    stages = [
        {"name": "users", "seconds": 1, "counters": {"users": 50}},
        {"name": "probes", "seconds": seconds, "counters": {**usual, "generator_seconds": 4, **counters}},
    ]
    return {"config": config.model_dump(mode="json"), "stages": stages}


def test_speed_is_found_where_observations_tell_both_kinds_of_tokens_apart():
    speed = fit_speed([observed(1000, 10, 1.02), observed(10_000, 20, 0.98), observed(500, 300)])
    assert speed is not None
    assert speed.prompt_seconds == pytest.approx(0.001, rel=0.1)
    assert speed.generated_seconds == pytest.approx(0.02, rel=0.1)
    assert speed.seconds(2000, 100) == pytest.approx(4, rel=0.1)


def test_one_observation_is_met_and_a_generated_token_taken_to_cost_more():
    speed = fit_speed([observed(1000, 50)])
    assert speed is not None
    assert speed.seconds(1000, 50) == pytest.approx(2, rel=0.02)
    assert speed.generated_seconds > 5 * speed.prompt_seconds > 0


def test_nothing_observed_is_no_speed():
    assert fit_speed([]) is None
    assert fit_speed([Observation(prompt_tokens=0, generated_tokens=0, seconds=3)]) is None


def test_what_is_not_known_is_a_share_of_the_limit_and_nothing_exceeds_it():
    written = Written(tokens={"probes": 40.0})
    assert written.of("probes", 64) == 40
    assert written.of("probes", 32) == 32
    assert written.of("drafts", 64) == WRITTEN_SHARE * 64


def test_runs_of_the_same_generator_are_looked_at_and_blindly_not_the_run_itself(tmp_path: Path):
    config = run_config(str(tmp_path))
    others = {
        "test": config,
        "same": run_config(str(tmp_path), probes={"num_records": 2}),
        "other-model": run_config(str(tmp_path), generator={"model": ENCODER}),
        "on-gpus": run_config(str(tmp_path), placement={"generator_gpus": 1}),
    }
    for name, each in others.items():
        write_json(f"{tmp_path}/runs/{name}/metrics.json", metrics_of(each, seconds=len(name)))
    found = {stages["probes"]["seconds"] for _, stages in past_runs(config, is_blind=False)}
    assert found == {4}
    assert len(past_runs(config, is_blind=False)) == 2
    assert len(past_runs(config, is_blind=True)) == 1


def test_of_a_past_run_only_what_it_asked_itself_tells_the_speed():
    config = run_config()
    runs = [
        (each["config"], {stage["name"]: stage for stage in each["stages"]})
        for each in (metrics_of(config), metrics_of(config, asked_now=5), metrics_of(config, asked_now=0))
    ]
    whole, half = past_observations(runs, ["probes", "drafts"])
    assert (whole.prompt_tokens, whole.generated_tokens, whole.seconds) == (1000, 40, 4)
    assert (half.prompt_tokens, half.generated_tokens, half.seconds) == (500, 20, 4)


def test_answers_are_as_long_as_in_past_runs_of_the_same_task():
    config, other = run_config(), run_config(lamp={"task": "LaMP_2N", "planted": None, "root": "/lamp"})
    runs = [
        (each["config"], {stage["name"]: stage for stage in each["stages"]})
        for each in (
            metrics_of(config),
            metrics_of(config, generated_tokens=60),
            metrics_of(other, generated_tokens=900),
        )
    ]
    assert past_written(runs, config) == {"probes": 5, "drafts": 5}
    assert past_written(runs, run_config(lamp={"task": "LaMP_3", "planted": None, "root": "/lamp"})) == {}


def test_past_runs_correct_how_long_stages_take_beside_the_generator():
    config = run_config()
    plan, stages = plan_run(config), {stage["name"]: stage for stage in metrics_of(config, seconds=604)["stages"]}
    table, corrected = other_seconds(plan, 50, []), other_seconds(plan, 50, [(config.model_dump(mode="json"), stages)])
    assert corrected["probes"] == pytest.approx(600)
    assert table["probes"] < 100
    assert {name: corrected[name] for name in corrected if name not in ("probes", "users")} == {
        name: table[name] for name in table if name not in ("probes", "users")
    }


def test_training_a_base_takes_longer_the_more_epochs_and_folds_it_has():
    def seconds(num_epochs: int, num_folds: int) -> float:
        base = {**run_config().reranker.base.model_dump(), "num_epochs": num_epochs}
        plan = plan_run(run_config(reranker={"base": base}, users={"num_folds": num_folds}))
        return other_seconds(plan, 100, [])["reranker.base"]

    assert seconds(0, 1) == seconds(0, 5) < seconds(1, 1) < seconds(3, 1) < seconds(3, 5)
