from collections.abc import Callable
from dataclasses import replace
from typing import Any

import bars
import numpy as np
import pytest
from bars import (
    GATED_SET,
    JESTER,
    NO_RIVALS,
    Deviation,
    SetRuns,
    gate_bar,
    judge_bars,
    own_heads_bar,
    prediction_bar,
    published_bar,
    rivals_bar,
    rivals_of,
    strongest_rival,
)
from synthetic import with_quality, with_systems

from hydra_ray.evaluate.systems import SYSTEMS

MakeSets = Callable[..., list[SetRuns]]
MakeOwnHeads = Callable[..., dict[str, Any]]
NOISE = [0.0, 1.0]
"""Qualities that differ from user to user: 0.5 on the average, and sure of nothing."""


def changed(each: SetRuns, **qualities: list[float]) -> SetRuns:
    assert each.own is not None
    known = each.own["users"]["quality"]
    return replace(each, own=with_systems(dict(each.own), **{**known, **qualities}))


def of_ids(each: SetRuns, ids: list[str]) -> SetRuns:
    assert each.own is not None
    return replace(each, own={**each.own, "users": {**each.own["users"], "user_id": ids}})


def test_every_system_but_those_with_a_reason_is_a_rival() -> None:
    piece = {"systems": dict.fromkeys(SYSTEMS)}
    rivals = {
        "zero_shot", "random_k", "rag_1", "rag_2", "rag_k", "pag_0", "pag_1", "pag_k", "constant", "majority",
        "mean_rating", "knn", "rag_cut", "vote", "text_only", "records_only",
    }  # fmt: skip
    assert set(rivals_of(piece)) == rivals
    assert all(NO_RIVALS.values())
    assert rivals_of({"systems": {"new": {}, "hydra": {}}}) == ["new"]


def test_the_strongest_rival_may_be_of_any_kind(make_sets: MakeSets) -> None:
    sets = make_sets(constant=[0.45], own_heads=[0.9], oracle=[1.0])
    assert {strongest_rival(each.own) for each in sets if each.own} == {"constant"}
    bar = rivals_bar(sets)
    assert f"{0.5 / 0.45 - 1:+.1%}" in bar.verdict
    assert not bar.is_passed


@pytest.mark.parametrize(("hydra", "is_passed"), [(0.4801, True), (0.4799, False)])
def test_a_fifth_is_enough_of_a_gain_and_less_is_not(make_sets: MakeSets, hydra: float, is_passed: bool) -> None:
    assert rivals_bar(make_sets(hydra=[hydra])).is_passed == is_passed


def test_the_lower_limit_of_the_gain_decides_too(make_sets: MakeSets) -> None:
    unsure = rivals_bar(make_sets(hydra=NOISE, rag_k=[0.4]))
    assert "+25.0%" in unsure.verdict
    assert not unsure.is_passed


def test_one_set_behind_by_more_than_a_half_percent_point_fails(make_sets: MakeSets) -> None:
    sets = make_sets(hydra=[0.9])
    assert rivals_bar([changed(sets[0], hydra=[0.3951]), *sets[1:]]).is_passed
    bar = rivals_bar([*sets[:2], changed(sets[2], hydra=[0.3949]), sets[3]])
    assert not bar.is_passed
    assert "films (\N{MINUS SIGN}0.005" in bar.verdict


def test_the_room_is_the_share_of_what_the_oracle_is_better(make_sets: MakeSets) -> None:
    sets = make_sets(hydra=[0.5])
    sets[0] = changed(sets[0], hydra=[0.6])
    assert f"Share of the room to the oracle: {np.mean([0.5, 0.25, 0.25, 0.25]):+.1%}" in rivals_bar(sets).verdict
    # Without room there is no share, and the others' average stays.
    sets[0] = changed(sets[0], oracle=[0.4])
    bar = rivals_bar(sets)
    assert "Share of the room to the oracle: +25.0%" in bar.verdict
    (row,) = [line for line in bar.details[0].splitlines() if line.startswith("| news |")]
    assert row.split(" | ")[-2] == "-"


def test_a_set_without_any_difference_has_exact_limits(make_sets: MakeSets) -> None:
    sets = make_sets()
    sets[0] = changed(sets[0], hydra=[0.4])
    bar = rivals_bar(sets)
    bound = 1 - 0.025 ** (1 / 40)
    assert f"+0.000 [\N{MINUS SIGN}{bound:.3f}, +{bound:.3f}]" in bar.details[0]


def test_the_gain_is_also_told_for_each_splits_users_alone(make_sets: MakeSets) -> None:
    sets = make_sets(hydra=[0.6, 0.4])  # alternating users, of whom the first are those of dev
    ids = [f"{split}:{number}" for number in range(20) for split in ("dev", "train")]
    sets = [of_ids(each, ids) for each in sets]
    (table,) = [each for each in rivals_bar(sets).details if each.startswith("| users | average |")]
    cells = {line.split(" | ")[0]: line for line in table.splitlines()[2:]}
    assert cells.keys() == {"| dev", "| train"}
    assert cells["| dev"].count("+50.0% [+50.0%, +50.0%]") == 1 + len(sets)
    assert cells["| train"].count("+0.0% [+0.0%, +0.0%]") == 1 + len(sets)
    assert cells["| dev"].count("20 users") == len(sets)
    # A split that one set lacks, and users of no split, are told with all others only.
    sets[0] = of_ids(sets[0], [user_id.replace(":", "-") for user_id in ids])
    assert not any(each.startswith("| users |") for each in rivals_bar(sets).details)


def test_a_bar_with_a_set_that_is_missing_is_neither_passed_nor_failed(make_sets: MakeSets) -> None:
    sets = make_sets(hydra=[0.9])
    for bar in (rivals_bar, gate_bar):
        assert bar(sets).is_passed
        found = bar([*sets[:3], replace(sets[3], own=None)])
        assert found.is_passed is None
        assert found.word == "NOT MEASURED"
        assert "Not measured: titles." in found.verdict
        nothing = bar([replace(each, own=None) for each in sets])
        assert nothing.is_passed is None
        assert not nothing.claims


def test_own_heads_must_gain_on_many_records_and_stay_off_on_few(make_own_heads: MakeOwnHeads) -> None:
    off = make_own_heads(gain=-0.002, predicted=-0.002, is_on=False)
    good = {JESTER: make_own_heads(), GATED_SET: off}
    assert own_heads_bar(good).is_passed
    for worse, reason in (
        ({JESTER: make_own_heads(gain=0.0049)}, "less than 0.005 above shared"),
        ({JESTER: make_own_heads(gain=0.003)}, "not shown to be above shared, routed, another's"),
        ({JESTER: make_own_heads(rise=-0.001)}, "no rise with the number of records"),
        ({GATED_SET: {**off, "is_on": True}}, "the gate does not say no"),
        ({GATED_SET: make_own_heads(gain=0.01, predicted=0.002, is_on=False)}, "outside the predicted interval"),
    ):
        bar = own_heads_bar({**good, **worse})
        assert bar.is_passed is False
        assert reason in bar.verdict
    assert own_heads_bar({JESTER: make_own_heads()}).is_passed is None
    assert len(own_heads_bar(good).claims) == 2 * 2 * 3


@pytest.mark.parametrize("rival", ["hydra_shared", "rag_k"])
def test_the_gate_may_lose_a_percent_point_and_no_more(make_sets: MakeSets, rival: str) -> None:
    rivals = {"hydra_shared": [0.4], "rag_k": [0.4], rival: [0.5]}
    unsure = make_sets(**rivals, hydra=[0.51, 0.485])
    assert gate_bar(unsure).is_passed
    surely_worse = gate_bar(make_sets(**rivals, hydra=[0.495]))
    assert not surely_worse.is_passed
    assert f"news against {rival}" in surely_worse.verdict
    far = gate_bar([changed(unsure[0], hydra=[0.9, 0.07]), *unsure[1:]])
    assert not far.is_passed
    assert f"news against {rival}, all users together against {rival}" in far.verdict
    assert "stars against" not in far.verdict


def test_a_gate_that_changes_nothing_needs_enough_users_to_show_it(make_sets: MakeSets) -> None:
    bar = gate_bar(make_sets(hydra_shared=[0.5]))
    # None of 160 users differs: at most 2.3 % are worse, which is more than the margin.
    assert bar.is_passed is False
    assert f"\N{MINUS SIGN}{1 - 0.025 ** (1 / 160):.3f}" in bar.verdict
    assert "Not so: all users together against hydra_shared." in bar.verdict


def without_prediction(each: SetRuns) -> SetRuns:
    return replace(each, own={**(each.own or {}), "predicted_gain": None})


def test_realized_gains_lie_within_what_was_predicted(make_sets: MakeSets, make_own_heads: MakeOwnHeads) -> None:
    def with_prediction(each: SetRuns, low: float, value: float, high: float) -> SetRuns:
        gain = {"quality": {"value": value, "low": low, "high": high}}
        return replace(each, own={**(each.own or {}), "predicted_gain": gain})

    own = {JESTER: make_own_heads()}
    sets = [with_prediction(each, 0.05, 0.1, 0.15) for each in make_sets()]  # realized .1
    assert prediction_bar(sets, own).is_passed
    outside = prediction_bar([with_prediction(sets[0], 0.01, 0.05, 0.09), *sets[1:]], own)
    assert outside.is_passed is False
    assert "outside the predicted interval: news;" in outside.verdict
    opposed = prediction_bar([with_prediction(sets[0], -0.3, -0.1, 0.2), *sets[1:]], own)
    assert opposed.is_passed is False
    assert "excludes 0: news." in opposed.verdict
    assert prediction_bar([*sets[:3], replace(sets[3], own=None)], own).is_passed
    assert prediction_bar([without_prediction(sets[0]), *sets[1:]], own).is_passed is None
    assert prediction_bar(sets, {}).is_passed is None


def test_the_published_method_is_not_measured_while_it_deviates(
    make_sets: MakeSets, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = make_sets()
    monkeypatch.setattr(bars, "DEVIATIONS", (Deviation(authors="a", here="b", reason=None),))
    bar = published_bar(sets)
    assert bar.is_passed is None
    assert "No faithful re-implementation was measured" in bar.verdict
    assert "| a | b | not mended yet |" in bar.details[0]
    monkeypatch.setattr(bars, "DEVIATIONS", (Deviation(authors="a", here="b", reason="two cores"),))
    assert published_bar(sets).is_passed
    assert published_bar([*sets[:3], replace(sets[3], published_on_drafts=None)]).is_passed is None
    equal = with_quality(dict(sets[2].published_on_drafts or {}), hydra=[0.5])
    behind = published_bar([*sets[:2], replace(sets[2], published_on_drafts=equal), sets[3]])
    assert behind.is_passed is False
    assert "not better on: films" in behind.verdict


def test_bars_can_be_evaluated_on_written_reports(pieces: dict[str, dict[str, Any]]) -> None:
    found = judge_bars([SetRuns(name=name, own=piece) for name, piece in pieces.items()], {})
    assert len(found) == 5
    for place in (0, 2):
        assert all(name in found[place].details[0] for name in pieces)
        assert found[place].is_passed is not None
