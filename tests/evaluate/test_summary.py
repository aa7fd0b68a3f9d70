import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hydra_ray.config import ReportConfig, RunConfig, Task
from hydra_ray.errors import InputError
from hydra_ray.evaluate.report import build_report
from hydra_ray.evaluate.significance import holm
from hydra_ray.evaluate.summary import Pair, compare_runs, compare_systems, summarize, summary_table, summary_text

MakeAnswers = Callable[..., list[Any]]
BOOTSTRAP = ReportConfig(num_resamples=2000, seed=1)


def pair(first: list[float], second: list[float], num_queries: list[float] | None = None, task: str = "t") -> Pair:
    return Pair(
        task=task,
        first="HYDRA",
        second="RAG",
        first_U=np.array(first),
        second_U=np.array(second),
        num_queries_U=np.array(num_queries or [1.0] * len(first)),
    )


def test_a_relative_gain_is_of_means_over_queries() -> None:
    (gain,) = summarize([pair([0.9, 0.3], [0.6, 0.2], [1, 3])], BOOTSTRAP).gains
    assert gain.first == pytest.approx((0.9 + 3 * 0.3) / 4)
    assert gain.second == pytest.approx((0.6 + 3 * 0.2) / 4)
    assert (gain.relative.value, gain.relative.low, gain.relative.high) == pytest.approx((0.5, 0.5, 0.5))


def test_the_average_weighs_tasks_alike_with_an_interval_of_independent_tasks() -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for num_users in (60, 200):
        second_U = rng.uniform(0.2, 0.8, num_users)
        pairs.append(pair(list(second_U + rng.normal(0.1, 0.2, num_users)), list(second_U), task=str(num_users)))
    summary = summarize(pairs, BOOTSTRAP)
    means = [gain.relative.value for gain in summary.gains]
    assert summary.average.value == pytest.approx(sum(means) / 2)
    assert summary.average.low is not None
    assert summary.average.high is not None
    # An oracle of its own: resampling by plain loops.
    draws = []
    for _ in range(2000):
        relative = []
        for each in pairs:
            chosen = rng.integers(0, len(each.first_U), len(each.first_U))
            relative.append(each.first_U[chosen].mean() / each.second_U[chosen].mean() - 1)
        draws.append(sum(relative) / 2)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert summary.average.low == pytest.approx(low, abs=0.12 * (high - low))
    assert summary.average.high == pytest.approx(high, abs=0.12 * (high - low))


def test_a_share_of_the_room_is_of_what_the_oracle_is_better() -> None:
    pairs = [
        dataclasses.replace(pair([0.5, 0.7], [0.4, 0.6]), oracle_U=np.array([0.9, 0.8])),  # .1 of .35
        dataclasses.replace(pair([0.5, 0.7], [0.4, 0.6]), oracle_U=np.array([0.4, 0.6])),  # no room
        pair([0.5, 0.7], [0.4, 0.6]),
    ]
    summary = summarize(pairs, BOOTSTRAP)
    first, *others = [gain.room for gain in summary.gains]
    assert first is not None
    assert first.value == pytest.approx(0.1 / 0.35)
    assert (first.low, first.high) == pytest.approx((0.1 / 0.5, 0.1 / 0.2))  # of one user or the other
    assert others == [None, None]
    assert summary.average_room == first
    assert summarize(pairs[1:], BOOTSTRAP).average_room is None


def test_p_values_are_corrected_over_the_tasks() -> None:
    chance = random.Random(0)
    pairs = [
        pair([float(chance.random() < 0.7) for _ in range(80)], [float(chance.random() < 0.5) for _ in range(80)])
        for _ in range(3)
    ]
    gains = summarize(pairs, BOOTSTRAP).gains
    assert {gain.test for gain in gains} == {"exact McNemar"}
    assert [gain.adjusted_p_value for gain in gains] == holm([gain.p_value for gain in gains])


def test_systems_of_a_run_are_compared_as_in_its_report(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    report = build_report(task, make_answers(task, 40, num_queries=2), [], config)
    rival = report["best_prompt_baseline"]
    (gain,) = summarize([compare_systems(report)], BOOTSTRAP).gains
    hydra, other = (report["systems"][name]["quality"]["value"] for name in ("hydra", rival))
    assert gain.pair.second == report["systems"][rival]["title"]
    assert gain.relative.value == pytest.approx((hydra - other) / other, abs=1e-3)
    assert gain.p_value == pytest.approx(report["significance"]["hydra"][rival]["p_value"], rel=0.02)
    assert compare_systems(report, "hydra_personal", "hydra_shared").first == "HYDRA, personal heads"


def test_runs_are_compared_user_by_user_whatever_their_order(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    pairs = make_answers(task, 40)
    first = build_report(task, pairs, [], config)
    second = build_report(task, pairs[::-1], [], config.model_copy(update={"run": "other"}))
    (gain,) = summarize([compare_runs(first, second)], BOOTSTRAP).gains
    assert (gain.difference.value, gain.difference.low, gain.difference.high) == (0, 0, 0)
    assert (gain.pair.first, gain.pair.second) == ("HYDRA (demo)", "HYDRA (other)")
    across = compare_runs(first, second, "hydra", "rag_k")
    within = compare_systems(first, "hydra", "rag_k")
    assert (across.second_U == within.second_U).all()


def test_what_cannot_be_compared_is_refused(task: Task, config: RunConfig, make_answers: MakeAnswers) -> None:
    pairs = make_answers(task, 5)
    report = build_report(task, pairs, [], config)
    fewer = build_report(task, pairs[1:], [], config)
    with pytest.raises(InputError, match="4 users in both, 5 in the first and 4 in the second"):
        compare_runs(report, fewer)
    with pytest.raises(InputError, match="no system 'best'"):
        compare_systems(report, "best")
    with pytest.raises(InputError, match="too many to keep figures"):
        compare_systems(report | {"users": None})
    with pytest.raises(InputError, match="no prompt-based system"):
        compare_systems(report | {"best_prompt_baseline": None})
    with pytest.raises(InputError, match="quality 0"):
        summarize([pair([1.0, 0.0], [0.0, 0.0])], BOOTSTRAP)
    with pytest.raises(InputError, match="no runs"):
        summarize([], BOOTSTRAP)


def test_a_resample_without_quality_of_the_second_system_does_no_harm() -> None:
    (gain,) = summarize([pair([1.0, 1.0], [1.0, 0.0])], BOOTSTRAP).gains
    assert gain.relative.low is not None
    assert gain.relative.high is not None
    assert np.isfinite([gain.relative.low, gain.relative.high]).all()


def test_the_summary_is_written_with_every_task_and_the_average() -> None:
    pairs = [pair([0.6, 0.8], [0.5, 0.6], task="LaMP_4"), pair([0.7, 0.9], [0.7, 0.9], task="LaMP_5")]
    summary = summarize(pairs, BOOTSTRAP)
    gain = dataclasses.replace(summary.gains[0].relative)
    shown = f"{gain.value:+.1%} [{gain.low:+.1%}, {gain.high:+.1%}]"
    table = summary_table(summary)
    text = summary_text(summary)
    assert "| LaMP_4 | 2 | HYDRA | RAG | 0.700 against 0.550 |" in table
    assert shown in table
    assert shown in text
    assert "LaMP_5" in text
    assert table.splitlines()[-1].startswith("| average |")
