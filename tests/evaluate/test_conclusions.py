import copy
from collections.abc import Callable
from typing import Any

import pytest

from hydra_ray.config import RunConfig, Task
from hydra_ray.evaluate.phrases import compared, headline, p_value, pair_verdict, verdict
from hydra_ray.evaluate.report import build_report


@pytest.fixture(scope="module")
def report(task: Task, config: RunConfig, make_answers: Callable[..., list[Any]]) -> dict[str, Any]:
    return build_report(task, make_answers(task, 40), [], config)


def with_difference(report: dict[str, Any], system: str, value: float, low: float | None, high: float | None) -> Any:
    changed = copy.deepcopy(report)
    changed["differences"]["hydra"][system][report["metrics"][0]["name"]] = {"value": value, "low": low, "high": high}
    changed["significance"]["hydra"][system] |= {"p_value": 0.001, "adjusted_p_value": 0.01}
    return changed


@pytest.mark.parametrize(
    ("low", "high", "is_higher_better", "said"),
    [
        (0.1, 0.3, True, "better"),
        (0.1, 0.3, False, "worse"),
        (-0.3, -0.1, True, "worse"),
        (-0.3, -0.1, False, "better"),
        (-0.1, 0.3, True, "open"),
        (0.0, 0.3, True, "open"),
        (None, None, True, "open"),
    ],
)
def test_a_verdict_is_what_the_interval_allows(
    low: float | None, high: float | None, is_higher_better: bool, said: str
) -> None:
    assert verdict({"value": 0.2, "low": low, "high": high}, {"is_higher_better": is_higher_better}) == said


def test_the_headline_follows_the_interval(report: dict[str, Any]) -> None:
    rival = report["best_prompt_baseline"]
    sign = 1 if report["metrics"][0]["is_higher_better"] else -1
    better = with_difference(report, rival, 0.2 * sign, *sorted((0.1 * sign, 0.3 * sign)))
    worse = with_difference(report, rival, -0.2 * sign, *sorted((-0.1 * sign, -0.3 * sign)))
    assert headline(better).startswith("HYDRA answers better than")
    assert headline(worse).startswith("HYDRA answers worse than")
    assert headline(with_difference(report, rival, 0.1, -0.1, 0.3)).startswith("No difference can be shown")


def test_a_difference_by_the_interval_alone_is_said_to_be_one(report: dict[str, Any]) -> None:
    rival = report["best_prompt_baseline"]
    sign = 1 if report["metrics"][0]["is_higher_better"] else -1
    apparent = with_difference(report, rival, 0.2 * sign, *sorted((0.1 * sign, 0.3 * sign)))
    apparent["significance"]["hydra"][rival]["adjusted_p_value"] = 0.2
    said = headline(apparent)
    assert "better than the best prompt-based baseline" in said
    assert "by its interval alone" in said
    assert "no difference is shown" in said


def test_the_figures_behind_a_verdict_are_both_values_the_interval_and_both_p_values(report: dict[str, Any]) -> None:
    said = compared(report, "hydra", "rag_1")
    metric = report["metrics"][0]["name"]
    for name in ("hydra", "rag_1"):
        assert f"{report['systems'][name]['metrics'][metric]['value']:.3f}" in said
    difference = report["differences"]["hydra"]["rag_1"][metric]
    assert f"{difference['low']:+.3f} to {difference['high']:+.3f}".replace("-", "\N{MINUS SIGN}") in said
    test = report["significance"]["hydra"]["rag_1"]
    num_tests = len(report["systems"]) - 2
    assert f"; {p_value(test['p_value'])}, {p_value(test['adjusted_p_value'])} when corrected for {num_tests}" in said


@pytest.mark.parametrize(("adjusted", "is_confirmed"), [(0.049, True), (0.051, False)])
def test_a_difference_is_claimed_only_where_the_corrected_test_confirms_it(
    report: dict[str, Any], adjusted: float, is_confirmed: bool
) -> None:
    changed = with_difference(report, "rag_1", 0.2, 0.1, 0.3)
    changed["significance"]["hydra"]["rag_1"]["adjusted_p_value"] = adjusted
    assert (pair_verdict(changed, "hydra", "rag_1") != "open") == is_confirmed
    unsure = with_difference(changed, "rag_1", 0.2, -0.1, 0.3)
    assert pair_verdict(unsure, "hydra", "rag_1") == "open"


@pytest.mark.parametrize(("value", "said"), [(0.0004, "p < 0.001"), (0.001, "p = 0.001"), (1.0, "p = 1.000")])
def test_a_small_p_value_is_not_written_as_zero(value: float, said: str) -> None:
    assert p_value(value) == said
