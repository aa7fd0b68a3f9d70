"""Runs of sets: a real report each, whose systems can be given other qualities."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from bars import SetRuns
from synthetic import CLASSIFICATION, RATING, TEXT, synthetic_answers, synthetic_config, with_quality

from hydra_ray.config import Task
from hydra_ray.evaluate.report import StageCost, build_report

NUM_USERS = 40
TASKS = {"news": CLASSIFICATION, "stars": RATING, "films": RATING, "titles": TEXT}
"""Tasks of sets by name; two sets share one."""
COSTS = [
    StageCost(name=name, seconds=seconds, counters={}, is_reused=False)
    for name, seconds in (("probes", 60.0), ("reranker.base", 5.0), ("reranker.heads", 7.0))
]

MakeReport = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def make_report() -> MakeReport:
    """The metrics.json of a run; users and answers are the same in all runs of a task."""

    def make(task: Task, run: str, **sections: dict[str, Any]) -> dict[str, Any]:
        config = synthetic_config(task, run, **sections)
        return build_report(task, synthetic_answers(task, NUM_USERS), COSTS, config)

    return make


@pytest.fixture(scope="session")
def reports(make_report: MakeReport) -> dict[str, dict[str, Any]]:
    """By set, the run of HYDRA's own configuration."""
    return {name: make_report(task, name) for name, task in TASKS.items()}


@pytest.fixture(scope="session")
def make_sets(reports: dict[str, dict[str, Any]]) -> Callable[..., list[SetRuns]]:
    """Sets whose systems have the given qualities; RAG is the best prompt-based one and has 0.4 as all rivals have."""

    def make(**qualities: Sequence[float]) -> list[SetRuns]:
        rivals = {name: [0.4] for name in ("rag_k", "hydra_routed", "hydra_shared", "hydra_shuffled")}
        return [
            SetRuns(
                name=name,
                default=with_quality({**report, "best_prompt_baseline": "rag_k"}, **{**rivals, **qualities}),
                paper=with_quality({**report, "run": f"{name}-paper"}, hydra=[0.4], hydra_routed=[0.4]),
            )
            for name, report in reports.items()
        ]

    return make
