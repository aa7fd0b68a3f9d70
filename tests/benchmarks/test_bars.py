from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bars import SetRuns, harm_bar, judge_bars, personal_bar, prompt_bar, rivals_bar
from synthetic import with_quality

from hydra_ray.config import ReportConfig

MakeSets = Callable[..., list[SetRuns]]
BOOTSTRAP = ReportConfig(num_resamples=500)
NOISE = [0.0, 1.0]
"""Qualities that differ from user to user: 0.5 on the average, and sure of nothing."""


def with_user_ids(report: dict[str, Any], ids: list[str]) -> dict[str, Any]:
    return {**report, "users": {**report["users"], "user_id": ids}}


def changed(each: SetRuns, **qualities: list[float]) -> SetRuns:
    return replace(each, default=with_quality(each.default, **qualities))


def test_the_gain_over_prompts_is_the_mean_of_the_sets_relative_gains(make_sets: MakeSets) -> None:
    sets = make_sets(hydra=[0.5])
    sets[0] = changed(sets[0], hydra=[0.6], rag_k=[0.5])
    bar = prompt_bar(sets, BOOTSTRAP)
    assert f"{np.mean([0.2, 0.25, 0.25, 0.25]):+.1%}" in bar.verdict
    assert not bar.is_passed


@pytest.mark.parametrize(("hydra", "is_passed"), [(0.501, True), (0.499, False)])
def test_a_quarter_is_enough_of_a_gain_over_prompts_and_less_is_not(
    make_sets: MakeSets, hydra: float, is_passed: bool
) -> None:
    assert prompt_bar(make_sets(hydra=[hydra]), BOOTSTRAP).is_passed == is_passed


def test_one_set_significantly_worse_than_prompts_fails_the_bar(make_sets: MakeSets) -> None:
    sets = make_sets(hydra=[0.9])
    sets[1] = changed(sets[1], hydra=[0.39])
    bar = prompt_bar(sets, BOOTSTRAP)
    assert not bar.is_passed
    assert "stars (\N{MINUS SIGN}2.5%" in bar.verdict
    # Behind by no more than the interval is no failure.
    sets[1] = changed(sets[1], hydra=NOISE, rag_k=[0.51])
    assert prompt_bar(sets, BOOTSTRAP).is_passed


def test_the_gain_over_prompts_is_also_told_for_each_splits_users_alone(make_sets: MakeSets) -> None:
    sets = make_sets(hydra=[0.6, 0.4])  # alternating users, of whom the first are those of dev
    ids = [f"{split}:{number}" for number in range(20) for split in ("dev", "train")]
    sets = [replace(each, default=with_user_ids(each.default, ids)) for each in sets]
    (table,) = [each for each in prompt_bar(sets, BOOTSTRAP).details if each.startswith("| users | average |")]
    cells = {line.split(" | ")[0]: line for line in table.splitlines()[2:]}
    assert cells.keys() == {"| dev", "| train"}
    assert cells["| dev"].count("+50.0% [+50.0%, +50.0%]") == 1 + len(sets)
    assert cells["| train"].count("+0.0% [+0.0%, +0.0%]") == 1 + len(sets)
    assert cells["| dev"].count("20 users") == len(sets)
    # A split that one set lacks, and users of no split, are told with all others only.
    sets[0] = replace(sets[0], default=with_user_ids(sets[0].default, [user_id.replace(":", "-") for user_id in ids]))
    assert len(prompt_bar(sets, BOOTSTRAP).details) == 1


def test_rivals_must_be_behind_on_the_average_with_an_interval_and_ahead_nowhere(make_sets: MakeSets) -> None:
    sets = make_sets(hydra=[0.5])
    assert rivals_bar(sets, BOOTSTRAP).is_passed
    ahead = [0.5001]
    in_paper = [with_quality(sets[2].paper or {}, **{name: ahead}) for name in ("hydra", "hydra_routed")]
    for one in (changed(sets[2], hydra_routed=ahead), *(replace(sets[2], paper=paper) for paper in in_paper)):
        bar = rivals_bar([*sets[:2], one, sets[3]], BOOTSTRAP)
        assert not bar.is_passed
        assert "behind: films" in bar.verdict
    unsure = rivals_bar([changed(each, hydra=NOISE, hydra_routed=[0.49]) for each in sets], BOOTSTRAP)
    assert not unsure.is_passed
    assert "does not exclude 0" in unsure.verdict


def test_what_was_not_compared_with_the_published_method_is_not_passed(make_sets: MakeSets) -> None:
    sets = make_sets(hydra=[0.9])
    bar = rivals_bar([*sets[:3], replace(sets[3], paper=None)], BOOTSTRAP)
    assert not bar.is_passed
    assert "not run on titles" in bar.verdict


def test_personal_heads_without_a_significant_set_need_the_planted_sample(
    make_sets: MakeSets, reports: dict[str, dict[str, Any]]
) -> None:
    sets = make_sets(hydra_personal=NOISE, hydra_shared=NOISE[::-1])
    without = personal_bar(sets, None, BOOTSTRAP)
    assert not without.is_passed
    assert "too small to tell them apart: news" in without.verdict
    heads = {"hydra_shared": [0.5], "hydra_shuffled": [0.5]}
    separated = with_quality(reports["news"], hydra_personal=[0.6], **heads)
    mixed_up = with_quality(reports["news"], hydra_personal=[0.6], hydra_shared=[0.5], hydra_shuffled=[0.6])
    assert personal_bar(sets, separated, BOOTSTRAP).is_passed
    assert not personal_bar(sets, mixed_up, BOOTSTRAP).is_passed


def test_personal_heads_that_are_no_better_than_others_heads_are_not_personal(make_sets: MakeSets) -> None:
    assert personal_bar(make_sets(hydra_personal=[0.5]), None, BOOTSTRAP).is_passed
    bar = personal_bar(make_sets(hydra_personal=[0.5], hydra_shuffled=[0.6]), None, BOOTSTRAP)
    assert not bar.is_passed
    assert "better than shuffled heads: news (" in bar.verdict


def test_personal_heads_that_are_surely_worse_somewhere_fail_their_bar(
    make_sets: MakeSets, reports: dict[str, dict[str, Any]]
) -> None:
    sets = make_sets(hydra_personal=[0.5])
    planted = with_quality(reports["news"], hydra_personal=[0.6], hydra_shared=[0.5], hydra_shuffled=[0.5])
    assert personal_bar(sets, None, BOOTSTRAP).is_passed
    sets[0] = changed(sets[0], hydra_personal=[0.3])
    bar = personal_bar(sets, planted, BOOTSTRAP)
    assert not bar.is_passed
    assert "shown to be worse on: news (" in bar.verdict


def test_harm_is_no_more_than_what_resampling_does(make_sets: MakeSets) -> None:
    def with_harm(each: SetRuns, worse: float) -> SetRuns:
        figure = {"low": None, "high": None}
        harm = {
            "num_queries": 40,
            "resampled_worse": {"value": 0.2, **figure},
            "systems": {
                "hydra": {"worse": {"value": worse, **figure}, "minus_resampled": {"value": worse - 0.2, **figure}}
            },
        }
        return replace(each, default={**each.default, "harm": harm})

    sets = [with_harm(each, 0.2) for each in make_sets()]
    assert harm_bar(sets).is_passed
    bar = harm_bar([*sets[:3], with_harm(sets[3], 0.21)])
    assert not bar.is_passed
    assert "titles (+1.0%)" in bar.verdict
    unknown = harm_bar([*sets[:3], replace(sets[3], default={**sets[3].default, "harm": None})])
    assert not unknown.is_passed
    assert "Without samples to tell: titles" in unknown.verdict


def test_bars_can_be_evaluated_on_written_reports(make_sets: MakeSets, reports: dict[str, dict[str, Any]]) -> None:
    sets = [SetRuns(name=name, default=report, paper=None) for name, report in reports.items()]
    bars = judge_bars(sets, reports["news"])
    assert len(bars) == 4
    for bar in bars:
        assert bar.word == ("PASS" if bar.is_passed else "FAIL")
        assert all(name in bar.details[0] for name in reports)
    harm = reports["news"]["harm"]["systems"]["hydra"]["worse"]["value"]
    assert f"| news | 40 | {harm:.1%}" in bars[3].details[0]
