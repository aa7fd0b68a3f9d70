"""Forecasts of runs with the fake generator, against what these runs then took."""

from pathlib import Path

import pytest
import yaml
from builders import run_config

from hydra_ray import storage
from hydra_ray.cli import main
from hydra_ray.config import RunConfig
from hydra_ray.errors import InputError
from hydra_ray.forecast.calibration import NUM_REQUESTS, Calibration, CalibrationJob, measure
from hydra_ray.forecast.forecast import Forecast, StageForecast, make_forecast
from hydra_ray.forecast.forecast_text import comparison_lines, forecast_lines
from hydra_ray.forecast.past_runs import WRITTEN_SHARE, Observation
from hydra_ray.forecast.usage import compare_with_use
from hydra_ray.stages.plan import Plan

# Third parties: what imports torch and Ray uses what others have deprecated.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


def stage_of(forecast: Forecast, name: str) -> StageForecast:
    return next(stage for stage in forecast.stages if stage.name == name)


def used(plan: Plan, name: str) -> dict[str, float]:
    return next(stage for stage in plan.stages() if stage.name == name).manifest()["counters"]


def measured(job: CalibrationJob) -> Calibration:
    """A generator that writes ten tokens and takes a second for each stage's requests."""
    observations = tuple(
        Observation(prompt_tokens=1000, generated_tokens=100, seconds=1) for each in job.requests.values() if each
    )
    return Calibration(observations=observations, written=dict.fromkeys(job.requests, 10.0))


@pytest.fixture(scope="module")
def before(small_run: Plan, tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    """The forecast of the same run under a root where nothing is."""
    return make_forecast(elsewhere(small_run, tmp_path_factory.mktemp("before")), None)


def elsewhere(plan: Plan, root: Path) -> RunConfig:
    """The same run under another root."""
    sections = {name: plan.config.model_dump()[name] for name in ("reranker", "adapter")}
    return run_config(str(root), **sections)


def test_profiles_and_probes_are_known_to_the_token_before_anything_is_asked(before: Forecast, small_run: Plan):
    for name in ("profiles", "probes"):
        volume = stage_of(before, name).volume
        assert volume is not None
        assert volume.is_exact
        assert (volume.new.requests.value, volume.new.prompt_tokens.value) == (
            used(small_run, name)["asked_now"],
            used(small_run, name)["prompt_tokens"],
        )


def test_drafts_are_estimated_before_the_reranker_has_chosen_and_exact_afterwards(before: Forecast, small_run: Plan):
    guessed, exact = (stage_of(each, "drafts").volume for each in (before, make_forecast(small_run.config, None)))
    counters = used(small_run, "drafts")
    assert guessed is not None
    assert exact is not None
    assert not guessed.is_exact
    assert guessed.all.prompt_tokens.value == pytest.approx(counters["prompt_tokens"], rel=0.15)
    assert guessed.new.requests.value == pytest.approx(counters["asked_now"], rel=0.15)
    assert exact.is_exact
    assert exact.all.requests.value == counters["requests"]
    assert exact.all.prompt_tokens.value == counters["prompt_tokens"]
    assert exact.all.generated_tokens.value == counters["generated_tokens"]


def test_thoughts_are_in_the_generated_tokens_of_a_plan(before: Forecast, small_run: Plan, tmp_path: Path):
    config = elsewhere(small_run, tmp_path)
    generator = config.generator.model_copy(update={"thinking_tokens": 100})
    after = make_forecast(config.model_copy(update={"generator": generator}), None)
    for name in ("profiles", "probes", "drafts"):
        plain, thinking = stage_of(before, name).volume, stage_of(after, name).volume
        assert plain is not None
        assert thinking is not None
        more = thinking.new.generated_tokens.value - plain.new.generated_tokens.value
        assert more >= WRITTEN_SHARE * 100 * thinking.new.requests.value * 0.99


def test_of_a_finished_run_nothing_is_left_to_ask(small_run: Plan):
    forecast = make_forecast(small_run.config, None)
    assert all(stage.is_complete for stage in forecast.stages)
    assert forecast.seconds == forecast.unit_hours == 0
    assert [volume.new.requests.value for volume in forecast.volumes] == [0, 0, 0]
    assert "there already: everything" in list(forecast_lines(forecast))


def test_where_nothing_tells_the_speed_no_time_is_told(before: Forecast):
    assert before.seconds is None
    assert any(line.startswith("time: not known") for line in forecast_lines(before))


def test_a_calibration_tells_speed_and_lengths(small_run: Plan, tmp_path: Path):
    config = elsewhere(small_run, tmp_path)
    config = config.model_copy(update={"budget": config.budget.model_copy(update={"hour_price": 36.0})})
    forecast = make_forecast(config, measured)
    volumes = {volume.name: volume for volume in forecast.volumes}
    assert volumes["probes"].new.generated_tokens.value == 10 * volumes["probes"].new.requests.value
    asking = sum(stage.asking_seconds or 0 for stage in forecast.stages)
    tokens = sum(volume.new.tokens.value for volume in volumes.values())
    assert asking == pytest.approx(tokens / 1100, rel=0.5)
    assert forecast.cost is not None
    assert forecast.cost.value == pytest.approx(asking * 36 / 3600)


def test_a_calibration_asks_a_few_requests_of_each_stage_and_keeps_nothing(small_run: Plan, tmp_path: Path):
    jobs: list[CalibrationJob] = []

    def told(job: CalibrationJob) -> Calibration:
        jobs.append(job)
        return measure(job)

    config = elsewhere(small_run, tmp_path)
    make_forecast(config, told)
    (job,) = jobs
    assert {name: 0 < len(requests) <= NUM_REQUESTS for name, requests in job.requests.items()} == dict.fromkeys(
        small_run.asking(), True
    )
    assert storage.list_tree(f"{tmp_path}/completions") == []


def test_a_few_users_tell_the_tokens_of_all_within_their_interval(small_run: Plan, before: Forecast, tmp_path: Path):
    sampled = make_forecast(elsewhere(small_run, tmp_path), None, max_users=6)
    assert sampled.num_sampled == 6
    for few, everybody in zip(sampled.volumes, before.volumes, strict=True):
        assert not few.is_exact
        if few.name != "profiles":  # few users have one
            assert few.new.prompt_tokens.low < everybody.new.prompt_tokens.value < few.new.prompt_tokens.high


def test_the_forecast_of_a_finished_run_ignores_it_and_is_compared_with_its_use(small_run: Plan):
    comparison = compare_with_use(small_run.config, measured)
    by_name = {stage.name: stage for stage in comparison.stages}
    counters = used(small_run, "probes")
    assert by_name["probes"].used_tokens == counters["prompt_tokens"] + counters["generated_tokens"]
    assert by_name["probes"].expected_tokens == counters["prompt_tokens"] + 10 * counters["requests"]
    assert not any(stage.is_complete for stage in comparison.forecast.stages)
    assert by_name["adapter.heads"].used_seconds == small_run.adapter.heads.manifest()["seconds"]
    text = "\n".join(comparison_lines(comparison))
    assert "tokens: " in text
    assert "time: " in text


def test_a_run_that_is_not_finished_cannot_be_compared(small_run: Plan, tmp_path: Path):
    with pytest.raises(InputError, match="is not finished"):
        compare_with_use(elsewhere(small_run, tmp_path), None)


def test_the_command_prints_a_forecast_and_compares_a_finished_run_with_it(
    small_run: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(elsewhere(small_run, tmp_path).model_dump(mode="json")))
    assert main(["plan", str(path), "--no-calibration", "budget.hour_price=2"]) == 0
    told = capsys.readouterr().out
    assert "run test: 10 users, 4 of them evaluated; 80 records, 10 queries" in told
    assert "there already: users\n" in told
    assert main(["plan", small_run.run_folder, "--no-calibration"]) == 0
    assert "expected without looking at what it has computed, and used" in capsys.readouterr().out
