"""A whole run answered by an endpoint, in this process instead of Ray's: nothing is paid twice."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from builders import run_config
from fault_server import ANSWER, CUT_OFF, THOUGHT, FaultServer, Reply, thinking, without_usage

from hydra_ray.config import RunConfig
from hydra_ray.errors import BudgetError, EndpointError
from hydra_ray.generate.engines.fake import fake_tokenizer
from hydra_ray.generate.prompts import PROFILE_TOKENS
from hydra_ray.generate.rate_limits import Limiter
from hydra_ray.runs.stage import Stage
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.stages.run import personalize
from hydra_ray.storage import read_part

# Third parties: what imports Ray uses what others have deprecated.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module", autouse=True)
def without_models(without_ray: pytest.MonkeyPatch) -> None:
    without_ray.setattr("hydra_ray.generate.engines.limiter_actor.open_limiter", Limiter)
    for module in ("profiles", "probes", "drafts"):
        without_ray.setattr(f"hydra_ray.stages.{module}.open_tokenizer", lambda _: fake_tokenizer())


def config_of(root: Path, url: str, run: str = "test", **drafts: Any) -> RunConfig:
    api = {
        "base_url": url,
        "model": "m",
        "has_structured_outputs": True,
        # Whose turn a fault hits is chance: none may give up.
        "max_attempts": 100,
        "max_backoff_seconds": 0.02,
        "max_concurrent_requests": 4,
        "prompt_price": 3.0,
        "generated_price": 5.0,
    }
    scorer = {"base": {**run_config().adapter.base.model_dump(), "num_epochs": 0, "width": 0}}
    sections: dict[str, Any] = {"generator": {"engine": "openai", "api": api}, "reranker": scorer, "drafts": drafts}
    return run_config(str(root), **sections).model_copy(update={"run": run})


def asked(server: FaultServer) -> Counter[str]:
    """How often each call was made."""
    return Counter(repr(sorted(each.items(), key=lambda pair: pair[0])) for each in server.calls)


def tables(plan: Plan) -> list[Any]:
    """Everything that the generator had a part in."""
    return [read_part(location).to_pylist() for stage in asking(plan) for location in stage.parts(stage.name)]


def costs(plan: Plan) -> dict[str, float]:
    return {stage.name: stage.manifest()["counters"]["cost"] for stage in asking(plan)}


def asking(plan: Plan) -> list[Stage]:
    return [plan.profiles, plan.probes, plan.drafts]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Counter[str]]:
    with FaultServer() as server:
        plan = personalize(config_of(tmp_path_factory.mktemp("undisturbed"), server.url), until="drafts")
        return plan, asked(server)


def test_a_run_whose_endpoint_fails_now_and_then_comes_to_the_same_tables(
    undisturbed: tuple[Plan, Counter[str]], tmp_path: Path
):
    faults = [ANSWER, Reply(status=500), CUT_OFF, Reply(status=429, headers={"retry-after-ms": "5"}), ANSWER, ANSWER]
    with FaultServer(*faults * 40) as server:
        plan = personalize(config_of(tmp_path / "disturbed", server.url), until="drafts")
        calls = asked(server)
    assert tables(plan) == tables(undisturbed[0])
    assert set(calls) == set(undisturbed[1])
    assert server.num_answered == undisturbed[1].total()


def test_a_run_that_was_stopped_by_its_endpoint_pays_only_for_what_was_not_answered(
    undisturbed: tuple[Plan, Counter[str]], tmp_path: Path
):
    num_calls = undisturbed[1].total()
    with FaultServer(*[ANSWER] * (num_calls // 2), Reply(status=402)) as server:
        config = config_of(tmp_path / "stopped", server.url)
        with pytest.raises(EndpointError, match="status 402"):
            personalize(config, until="drafts")
        plan = personalize(config, until="drafts")
        calls = asked(server)
    assert tables(plan) == tables(undisturbed[0])
    # Those under way when the endpoint refused are asked again, at most as many as are asked at once.
    assert calls.total() - num_calls <= config.generator.api.max_concurrent_requests  # type: ignore[union-attr]
    assert costs(plan) == pytest.approx(costs(undisturbed[0]))


def test_another_run_under_the_same_root_pays_only_for_what_is_new(
    undisturbed: tuple[Plan, Counter[str]],
):
    with FaultServer() as server:
        root = Path(undisturbed[0].config.storage.root)
        prompts = ["zero_shot", "rag_1", "rag_k", "random_k"]
        plan = personalize(config_of(root, server.url, run="more", prompts=prompts), until="drafts")
        assert set(asked(server)).isdisjoint(undisturbed[1])
    counters = plan.drafts.manifest()["counters"]
    assert 0 < counters["asked_now"] == len(server.calls) < counters["requests"]
    assert plan_run(plan.config).completions == undisturbed[0].completions


def test_a_run_at_a_thinking_endpoint_has_answers_without_thoughts_and_counts_them(tmp_path: Path):
    with FaultServer(style=thinking) as server:
        config = config_of(tmp_path, server.url)
        generator = config.generator.model_copy(update={"thinking_tokens": 64})
        plan = personalize(config.model_copy(update={"generator": generator}), until="drafts")
        assert {call["max_tokens"] for call in server.calls} > {64 + PROFILE_TOKENS}
        assert min(call["max_tokens"] for call in server.calls) > 64
    assert THOUGHT[:10] not in repr(tables(plan))
    for stage in asking(plan):
        counters = stage.manifest()["counters"]
        assert counters.get("failed", 0) == 0
        assert 0 < counters["thoughts"] <= counters["thought_tokens"] < counters["generated_tokens"]


def test_a_budget_stops_a_run_whose_endpoint_tells_no_usage(tmp_path: Path):
    with FaultServer(style=without_usage) as server:
        config = config_of(tmp_path, server.url)
        config = config.model_copy(update={"budget": config.budget.model_copy(update={"max_cost": 1e-9})})
        with pytest.raises(BudgetError, match=r"budget.max_cost"):
            personalize(config, until="drafts")
        num_calls = len(server.calls)
    assert num_calls > 0
