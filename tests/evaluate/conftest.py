"""Tasks, a configuration, costs and synthetic answers for the tests of this folder."""

from collections.abc import Callable

import pytest
from synthetic import CLASSIFICATION, RATING, TEXT, Pairs, synthetic_answers, synthetic_config

from hydra_ray.config import RunConfig, Task
from hydra_ray.evaluate.report import StageCost


@pytest.fixture(scope="session", params=["classification", "rating", "text"])
def task(request: pytest.FixtureRequest) -> Task:
    return {"classification": CLASSIFICATION, "rating": RATING, "text": TEXT}[request.param]


@pytest.fixture(scope="session")
def config() -> RunConfig:
    return synthetic_config()


@pytest.fixture(scope="session")
def costs() -> list[StageCost]:
    return [
        StageCost(name="users", seconds=1.4, counters={"users": 180}, is_reused=True),
        StageCost(
            name="probes",
            seconds=96.2,
            counters={
                "requests": 1440,
                "failed": 17,
                "inexact": 60,
                "prompt_tokens": 262_000,
                "generated_tokens": 5_800,
            },
            is_reused=False,
        ),
        StageCost(name="reranker", seconds=41.0, counters={"groups": 300}, is_reused=False),
        StageCost(
            name="drafts",
            seconds=151.8,
            counters={
                "requests": 700,
                "answers": 3_100,
                "failed": 0,
                "prompt_tokens": 310_000,
                "generated_tokens": 21_000,
            },
            is_reused=False,
        ),
        StageCost(name="adapter", seconds=38.5, counters={"groups": 300}, is_reused=False),
        StageCost(name="answers", seconds=2.0, counters={"queries": 132}, is_reused=False),
    ]


@pytest.fixture(scope="session")
def make_answers() -> Callable[..., Pairs]:
    return synthetic_answers
