"""Runs of sets: what is kept of a real report each, whose systems can be given other qualities."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from bars import SetRuns
from quality_pieces import run_piece
from synthetic import CLASSIFICATION, RATING, TEXT, synthetic_answers, synthetic_config, with_systems

from hydra_ray.config import Task
from hydra_ray.evaluate.report import StageCost, build_report

NUM_USERS = 40
TASKS = {"news": CLASSIFICATION, "stars": RATING, "films": RATING, "titles": TEXT}
"""Tasks of sets by name; two sets share one."""
COSTS = [
    StageCost(name=name, seconds=seconds, counters={}, is_reused=False)
    for name, seconds in (("probes", 60.0), ("reranker.base", 5.0), ("reranker.heads", 7.0))
]
MEASURED = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)

MakePiece = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def make_report() -> Callable[..., dict[str, Any]]:
    """The metrics.json of a run; users and answers are the same in all runs of a task."""

    def make(task: Task, run: str, **sections: dict[str, Any]) -> dict[str, Any]:
        config = synthetic_config(task, run, **sections)
        return build_report(task, synthetic_answers(task, NUM_USERS), COSTS, config)

    return make


@pytest.fixture(scope="session")
def make_piece(make_report: Callable[..., dict[str, Any]]) -> MakePiece:
    """What is kept of such a run."""

    def make(task: Task, run: str, **sections: dict[str, Any]) -> dict[str, Any]:
        config = synthetic_config(task, run, **sections)
        return run_piece(make_report(task, run, **sections), config, MEASURED, None)

    return make


@pytest.fixture(scope="session")
def pieces(make_piece: MakePiece) -> dict[str, dict[str, Any]]:
    """By set, what is kept of the run of HYDRA's own configuration."""
    return {name: make_piece(task, name) for name, task in TASKS.items()}


@pytest.fixture(scope="session")
def make_sets(pieces: dict[str, dict[str, Any]]) -> Callable[..., list[SetRuns]]:
    """Sets whose systems have the given qualities; rivals have 0.4, HYDRA's own systems 0.5, and the oracle 0.8."""

    def make(**qualities: Sequence[float]) -> list[SetRuns]:
        usual = {
            **{name: [0.4] for name in ("rag_k", "records_only")},
            **{name: [0.5] for name in ("hydra", "hydra_shared", "hydra_personal", "own_heads")},
            "oracle": [0.8],
        }
        published = {"hydra": [0.4], "hydra_routed": [0.4]}
        return [
            SetRuns(
                name=name,
                own=with_systems(piece, **{**usual, **qualities}),
                published=with_systems({**piece, "run": f"{name}-paper"}, **published),
                published_greedy=with_systems({**piece, "run": f"{name}-paper-greedy"}, **published),
                published_on_drafts=with_systems({**piece, "run": f"{name}-paper-drafts"}, **published),
                is_closed=TASKS[name].is_closed,
            )
            for name, piece in pieces.items()
        ]

    return make


@pytest.fixture
def make_own_heads() -> Callable[..., dict[str, Any]]:
    """What is kept of own heads without a generator."""

    def figure(value: float, width: float = 0.004) -> dict[str, float]:
        return {"value": value, "low": value - width, "high": value + width, "p_value": 0.01}

    def make(gain: float = 0.008, predicted: float = 0.008, rise: float = 0.004, is_on: bool = True) -> dict[str, Any]:
        figures = [
            {
                "asked": asked,
                "records": "all",
                "num_texts": 100,
                "own": 0.8,
                "rivals": {name: figure(gain) for name in ("shared", "routed", "another's", "own on 5 records")},
                "loss": figure(-0.01),
            }
            for asked in ("held-out records", "queries")
        ]
        return {
            "measured": "2026-11-30 12:00 UTC",
            "machine": "a processor",
            "seconds": 90.0,
            "settings_digest": "0",
            "num_taught": 60,
            "num_new": 50,
            "quality_title": "accuracy",
            "predicted_gain": {
                "num_users": 60,
                "num_records": 600,
                "loss": figure(0.01),
                "quality": figure(predicted),
            },
            "is_on": is_on,
            "figures": figures,
            "rise": figure(rise),
        }

    return make
