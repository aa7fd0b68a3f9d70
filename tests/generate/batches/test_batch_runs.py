"""Whole runs answered in batches, in this process instead of Ray's: paid once, resumed, forgotten, cancelled."""

from pathlib import Path
from typing import Any

import pytest
from batch_server import BatchServer, Rules
from builders import run_config
from fault_server import FaultServer

from hydra_ray.cli import main
from hydra_ray.commands.prune import prune, unneeded_files
from hydra_ray.commands.retry import clear_failures
from hydra_ray.commands.status import status_lines
from hydra_ray.commands.stop import stop_lines
from hydra_ray.config import RunConfig
from hydra_ray.errors import BudgetError, ConfigError, EndpointError
from hydra_ray.forecast.forecast import make_forecast
from hydra_ray.forecast.forecast_text import forecast_lines
from hydra_ray.forget.removal import forget_users
from hydra_ray.generate.batches.records import batches_of
from hydra_ray.generate.engines.fake import fake_tokenizer
from hydra_ray.generate.failures import TRANSIENT
from hydra_ray.generate.rate_limits import Limiter
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.stages.run import personalize
from hydra_ray.storage import list_tree, read_part

# Third parties: what imports Ray uses what others have deprecated.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

API = {"model": "m", "has_structured_outputs": True, "prompt_price": 3.0, "generated_price": 5.0}
QUICK = {"poll_seconds": 0.002, "max_poll_seconds": 0.01}
AT_ONCE = {**QUICK, "deadline_hours": 1e-7}


@pytest.fixture(scope="module", autouse=True)
def without_models(without_ray: pytest.MonkeyPatch) -> None:
    without_ray.setattr("hydra_ray.generate.engines.limiter_actor.open_limiter", Limiter)
    without_ray.setattr("hydra_ray.engine.batch_generation.batches_polled", lambda _: lambda _done, _all: None)
    for module in ("stages.profiles", "stages.probes", "stages.drafts", "forecast.forecast"):
        without_ray.setattr(f"hydra_ray.{module}.open_tokenizer", lambda _: fake_tokenizer())


def config_of(root: Path, url: str, engine: str = "openai_batch", **sections: Any) -> RunConfig:
    api = {**API, "base_url": url, "max_attempts": 3, "max_backoff_seconds": 0.01}
    scorer = {"base": {**run_config().adapter.base.model_dump(), "num_epochs": 0, "width": 0}}
    generator = {"engine": engine, "api": api, "batch": sections.pop("batch", QUICK)}
    return run_config(str(root), generator=generator, reranker=scorer, **sections)


def tables(plan: Plan) -> list[Any]:
    """Everything that the generator had a part in."""
    stages = (plan.profiles, plan.probes, plan.drafts)
    return [read_part(location).to_pylist() for stage in stages for location in stage.parts(stage.name)]


def cost(plan: Plan) -> float:
    return sum(each.manifest()["counters"]["cost"] for each in (plan.profiles, plan.probes, plan.drafts))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, int]:
    """The same run with an endpoint that is asked one by one, and the number of calls."""
    with FaultServer() as server:
        plan = personalize(config_of(tmp_path_factory.mktemp("live"), server.url, "openai"), until="drafts")
        return plan, len(server.calls)


def test_a_run_in_batches_comes_to_the_same_tables_at_half_the_price(
    live: tuple[Plan, int], server: BatchServer, tmp_path: Path
):
    plan = personalize(config_of(tmp_path, server.url), until="drafts")
    assert tables(plan) == tables(live[0])
    assert server.paid.total() == len(server.paid) == live[1]
    assert cost(plan) == pytest.approx(cost(live[0]) / 2)
    assert server.files == {}
    assert [each for each in list_tree(str(tmp_path)) if "/batches/" in each] == []
    assert [each.fingerprint for each in plan.stages("answers")] == [
        each.fingerprint for each in live[0].stages("answers")
    ]
    assert plan.completions.name == live[0].completions.name


def test_a_run_goes_over_from_batches_to_single_calls_and_back_and_pays_once(
    live: tuple[Plan, int], server: BatchServer, tmp_path: Path
):
    personalize(config_of(tmp_path, server.url), until="probes")
    with FaultServer() as single:
        plan = personalize(config_of(tmp_path, single.url, "openai"), until="drafts")
        assert server.paid.total() + len(single.calls) == live[1]
    assert tables(plan) == tables(live[0])
    again = personalize(config_of(tmp_path, server.url), until="drafts")
    assert tables(again) == tables(live[0])


def test_batches_of_former_settings_that_nothing_asks_for_any_more_are_said(
    server: BatchServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    server.rules.num_polls = 99
    other = {"planted": {"num_train_users": 6, "num_new_users": 4, "num_records": 7}}
    for lamp, is_told in (({}, False), ({}, False), (other, True)):
        caplog.clear()
        with pytest.raises(EndpointError, match="run again to wait for them"):
            personalize(config_of(tmp_path, server.url, batch=AT_ONCE, lamp=lamp), until="drafts")
        assert ("of this run's former settings may be under way" in caplog.text) == is_told
    assert next(iter(server.batches)) in caplog.text


def test_single_calls_are_refused_while_their_batch_is_under_way(server: BatchServer, tmp_path: Path):
    server.rules.num_polls = 99
    with pytest.raises(EndpointError, match="run again to wait for them"):
        personalize(config_of(tmp_path, server.url, batch=AT_ONCE), until="drafts")
    with FaultServer() as single, pytest.raises(ConfigError, match="would be paid twice"):
        personalize(config_of(tmp_path, single.url, "openai"), until="drafts")
    assert single.calls == []


def test_batches_beyond_the_budget_are_not_submitted(server: BatchServer, tmp_path: Path):
    config = config_of(tmp_path, server.url, budget={"max_cost": 1e-5})
    with pytest.raises(BudgetError, match=r"Nothing was submitted\. Raise budget\.max_cost"):
        personalize(config, until="drafts")
    assert server.batches == {}


def test_status_and_stop_name_batches_under_way_and_cancel_keeps_what_was_answered(
    server: BatchServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    server.rules = Rules(num_polls=99, answered=lambda number: number < 3)
    with pytest.raises(EndpointError):
        personalize(config_of(tmp_path, server.url, batch=AT_ONCE), until="drafts")
    plan = plan_run(config_of(tmp_path, server.url))
    (name,) = server.batches
    assert any(f"batch {name} of " in line for line in status_lines(plan.run_folder))
    told = list(stop_lines(plan.run_folder, is_cancelling=False))
    assert told[0] == "no process works on the run"
    assert f"batch {name} of " in told[1]
    assert "goes on at" in told[1]
    assert main(["stop", plan.run_folder, "--cancel"]) == 0
    assert "has ended; what it answered is stored" in capsys.readouterr().out
    assert server.paid.total() == 3
    assert server.files == {}
    server.rules = Rules()
    personalize(plan.config, until="drafts")
    assert server.paid.total() == len(server.paid)
    assert list(stop_lines(plan.run_folder, is_cancelling=True))[1] == "no batches are under way"


def test_what_has_no_answer_in_the_end_is_a_failed_row_that_retry_repeats(
    live: tuple[Plan, int], server: BatchServer, tmp_path: Path
):
    server.rules = Rules(status="expired", answered=lambda number: number > 0)
    config = config_of(tmp_path, server.url, batch={**QUICK, "max_rounds": 1})
    plan = personalize(config, until="probes")
    failed = [
        row for bucket in plan.probes.buckets for row in read_part(plan.probes.part("errors", bucket)).to_pylist()
    ]
    assert [row["kind"] for row in failed] == ["timeout"]
    server.rules = Rules()
    assert clear_failures(plan, TRANSIENT)
    plan = personalize(config, until="drafts")
    assert tables(plan) == tables(live[0])
    assert server.paid.total() == len(server.paid)


def test_forgotten_users_are_in_no_batch_that_is_under_way(server: BatchServer, tmp_path: Path):
    server.rules.num_polls = 99
    with pytest.raises(EndpointError):
        personalize(config_of(tmp_path, server.url, batch=AT_ONCE), until="probes")
    plan = plan_run(config_of(tmp_path, server.url))
    folder = batches_of(plan.completions)
    ((key, users),) = [
        (each.key, [request.user_id for _, own in folder.requests(each.key) for request in own])
        for each in folder.records()
    ]
    (outcome,) = forget_users(str(tmp_path), [users[0]])
    assert outcome.receipt is not None
    assert any("/batches/" in each.path for each in outcome.receipt.removed)
    left = [request.user_id for _, own in folder.requests(key) for request in own]
    assert left == [each for each in users if each != users[0]]


def test_prune_removes_batches_that_no_run_waits_for_and_no_others(server: BatchServer, tmp_path: Path):
    server.rules.num_polls = 99
    with pytest.raises(EndpointError):
        personalize(config_of(tmp_path, server.url, batch=AT_ONCE), until="probes")
    plan = plan_run(config_of(tmp_path, server.url))
    assert unneeded_files(str(tmp_path)) == []
    (tmp_path / "runs" / plan.config.run / "config.json").unlink()
    assert {"batches that no unfinished run waits for" in each.reason for each in prune(str(tmp_path))} == {True}
    assert batches_of(plan.completions).records() == []


def test_a_forecast_has_the_price_of_batches_and_a_window_for_each_stage_that_asks(server: BatchServer, tmp_path: Path):
    config = config_of(tmp_path, server.url)
    batched, single = (make_forecast(each, None) for each in (config, config_of(tmp_path, server.url, "openai")))
    assert batched.cost is not None
    assert single.cost is not None
    assert batched.cost.value == pytest.approx(single.cost.value / 2)
    assert batched.waits_for == ("profiles", "probes", "drafts")
    assert batched.seconds is not None
    assert batched.seconds > 3 * 24 * 3600
    text = "\n".join(forecast_lines(batched))
    assert "up to 24h for the batches of each stage that asks (profiles, probes, drafts)" in text
    assert "by the price of batches" in text
    assert server.calls == []
