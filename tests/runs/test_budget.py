from pathlib import Path
from typing import Any

import pytest
from builders import run_config

from hydra_ray.config import RunConfig
from hydra_ray.errors import BudgetError
from hydra_ray.runs.budget import Spending, committed_counters, require_room, require_within, spending_of
from hydra_ray.runs.stage import Stage
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.stages.run import personalize
from hydra_ray.storage import write_part

COUNTERS = {"asked_tokens": 1000.0, "generator_seconds": 1800.0, "cost": 0.25, "prompt_tokens": 5000.0}


def config_of(root: str = "/nowhere", placement: dict[str, Any] | None = None, **budget: Any) -> RunConfig:
    return run_config(root, budget=budget, placement=placement or {})


def left() -> bool:
    return True


@pytest.mark.parametrize(
    ("placement", "expected"),
    [({}, 0.25 + 0.5 * 3), ({"generator_gpus": 2, "generator_actors": 4}, 0.25 + 0.5 * 2 * 3)],
)
def test_what_was_asked_is_paid_by_token_and_by_the_hour_of_what_its_copy_held(
    placement: dict[str, Any], expected: float
):
    spent = spending_of([COUNTERS], config_of(placement=placement, hour_price=3))
    assert spent == Spending(tokens=1000, cost=expected)


def test_parts_add_up_and_what_was_answered_before_costs_nothing():
    known = {"prompt_tokens": 5000.0, "generated_tokens": 100.0, "asked_tokens": 0.0}
    assert spending_of([COUNTERS, known, COUNTERS], config_of()) == Spending(tokens=2000, cost=0.5)


@pytest.mark.parametrize("budget", [{}, {"max_tokens": 1001}, {"max_cost": 0.26}])
def test_a_run_goes_on_below_its_limits(budget: dict[str, float]):
    require_within(config_of(**budget), Spending(tokens=1000, cost=0.25), left)


@pytest.mark.parametrize(("name", "limit", "used"), [("max_tokens", 1000, "1,000"), ("max_cost", 0.25, "0.25")])
def test_at_a_limit_the_error_says_what_was_used_and_what_to_change(name: str, limit: float, used: str):
    with pytest.raises(BudgetError, match=rf"used {used} of budget\.{name}={used} .* larger budget\.{name}"):
        require_within(config_of(**{name: limit}), Spending(tokens=1000, cost=0.25), left)


@pytest.mark.parametrize("budget", [{}, {"max_tokens": 3000}, {"max_cost": 0.75}])
def test_what_is_submitted_at_once_may_take_all_that_is_left(budget: dict[str, float]):
    require_room(config_of(**budget), Spending(tokens=1000, cost=0.25), Spending(tokens=2000, cost=0.5))


@pytest.mark.parametrize(("name", "limit", "needed"), [("max_tokens", 2999, "3,000"), ("max_cost", 0.74, "0.75")])
def test_what_may_take_more_than_is_left_is_refused_with_what_it_needs(name: str, limit: float, needed: str):
    with pytest.raises(BudgetError, match=rf"Nothing was submitted\. Raise budget\.{name} to {needed}"):
        require_room(config_of(**{name: limit}), Spending(tokens=1000, cost=0.25), Spending(tokens=2000, cost=0.5))


def test_a_stage_that_is_done_may_end_at_the_limit():
    require_within(config_of(max_tokens=1), Spending(tokens=1000, cost=0), lambda: False)


def test_counters_of_an_unfinished_stage_are_those_of_its_committed_parts(tmp_path: Path):
    import pyarrow as pa

    stages = [Stage(name=name, fingerprint="0", root=str(tmp_path), num_buckets=3) for name in ("probes", "drafts")]
    for stage, bucket in ((stages[0], 0), (stages[0], 2), (stages[1], 1)):
        write_part(stage.part(stage.name, bucket), pa.table({"x": [1]}), {"asked_tokens": 10.0 + bucket})
    stages[1].complete(1.0, {"asked_tokens": 99.0})
    found = committed_counters((stage, stage.name) for stage in stages)
    assert [each["asked_tokens"] for each in found] == [10, 12, 99]


def test_a_budget_names_no_stage():
    plain, limited = (plan_run(each) for each in (config_of(), config_of(max_tokens=5, hour_price=2)))
    assert [stage.fingerprint for stage in plain.stages()] == [stage.fingerprint for stage in limited.stages()]


def asked_tokens(plan: Plan) -> float:
    counters = committed_counters((each, each.name) for each in (plan.profiles, plan.probes, plan.drafts))
    return spending_of(counters, plan.config).tokens


# Third parties: what imports Ray uses what others have deprecated.
@pytest.mark.filterwarnings("default")
@pytest.mark.ray
@pytest.mark.usefixtures("without_ray")
def test_a_run_stops_between_parts_and_goes_on_where_the_budget_is_larger(tmp_path: Path, small_run: Plan):
    def limited(max_tokens: int) -> RunConfig:
        sections = {name: small_run.config.model_dump()[name] for name in ("reranker", "adapter")}
        return run_config(str(tmp_path), budget={"max_tokens": max_tokens}, **sections)

    plan = plan_run(limited(1))
    profiles = small_run.profiles.manifest()["counters"]["asked_tokens"]
    with pytest.raises(BudgetError, match=r"budget\.max_tokens=1 "):
        personalize(plan.config)
    assert len(plan.profiles.committed_buckets("profiles")) == 1
    assert 1 < asked_tokens(plan) < profiles
    with pytest.raises(BudgetError):
        personalize(limited(round(profiles) + 1))
    assert plan.profiles.is_complete()
    assert len(plan.probes.committed_buckets("probes")) == 1
    finished = personalize(limited(10**9))
    assert finished.is_complete()
    assert asked_tokens(finished) == asked_tokens(small_run)
