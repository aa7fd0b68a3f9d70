"""The schedules of `benchmarks/chaos.py`, what is counted of their outcomes, and what is told of them."""

import argparse
import errno
from pathlib import Path
from random import Random
from typing import Any

import chaos
import fault_conditions
import pytest
from fault_checks import Difference, paid_again
from fault_endpoints import wrong_end
from fault_flips import flip_bit, link_tree
from fault_outcomes import Outcome
from fault_points import Fault, Point, folder_beside
from fault_replies import ODD, odd_replies_of, replies_of
from fault_schedules import KINDS, NUM_KINDS, STAGES, Arena, Schedule, Trouble, arena_of, kind_of, schedule_of
from fault_server import ANSWER
from fault_summary import line, summary

from hydra_ray.errors import BudgetError, EndpointError

REACHED = {name: dict.fromkeys(Point, 20) for name in (*STAGES, *Trouble)}
NO_DIFFERENCE = Difference(num_lost=0, num_duplicate=0, changed=())


def outcome_of(schedule: Schedule, **values: Any) -> Outcome:
    usual: dict[str, Any] = {
        "struck": (),
        "difference": NO_DIFFERENCE,
        "paid_needlessly": 0,
        "paid_in_flight": 0,
        "num_attempts": 2,
        "seconds": 1.0,
        "problems": (),
    }
    return Outcome(schedule=schedule, **{**usual, **values})


def test_a_schedule_follows_from_its_seed_and_kinds_take_turns():
    schedules = [schedule_of(seed, REACHED) for seed in range(2 * NUM_KINDS)]
    assert schedules == [schedule_of(seed, REACHED) for seed in range(2 * NUM_KINDS)]
    assert len({str(each).partition(":")[2] for each in schedules}) > NUM_KINDS
    assert [each.kind for each in schedules] == [*KINDS, *KINDS]
    assert set(KINDS) == {*Fault, *Trouble} - {Trouble.NONE}


def test_three_hundred_seeds_are_balanced_over_the_kinds():
    counts = [sum(kind_of(seed) == kind for seed in range(300)) for kind in KINDS]
    assert max(counts) - min(counts) <= 1
    assert {arena_of(kind) for kind in KINDS} == {*Arena} - {Arena.MODEL}


def test_every_form_of_a_trouble_has_its_turn():
    for kind in (Trouble.KEY, Trouble.FLIP, Trouble.CHANGED_MIND, Trouble.NO_USAGE):
        variants = [schedule_of(seed, REACHED, [kind]).variant for seed in range(32)]
        assert all(variants)
        assert len(set(variants)) == len(set(variants[: len(set(variants))]))


def test_a_strike_is_within_what_an_undisturbed_run_reaches():
    for seed in range(10 * NUM_KINDS):
        for strike in schedule_of(seed, REACHED).strikes:
            assert 1 <= strike.count <= 20


def test_kinds_that_are_typed_are_those_that_take_turns():
    kinds = chaos._kinds("lost key, read-only root")
    assert [kind_of(seed, kinds) for seed in range(3)] == [Trouble.KEY, Fault.READ_ONLY, Trouble.KEY]
    with pytest.raises(argparse.ArgumentTypeError, match="'lost keys'"):
        chaos._kinds("lost keys")


def test_what_is_paid_again_is_needless_only_if_it_had_been_kept():
    events = [("paid", ["a", "b"]), ("kept", ["a"]), ("paid", ["b"]), ("kept", ["b"]), ("paid", ["b", "c"])]
    assert paid_again(events) == (["b"], ["b"])


def test_what_was_dropped_to_be_asked_again_is_not_paid_needlessly():
    events = [("paid", ["a", "b"]), ("kept", ["a", "b"]), ("dropped", ["a"]), ("paid", ["a", "b"])]
    assert paid_again(events) == (["b"], [])


def test_the_summary_counts_kinds_payments_and_refusals():
    key = [schedule_of(seed, REACHED, [Trouble.KEY]) for seed in range(2)]
    flip = schedule_of(0, REACHED, [Trouble.FLIP])
    outcomes = [
        outcome_of(key[0], refusals=("StorageError", "DamagedError")),
        outcome_of(key[1], problems=("a forgotten user came back",), refusals=("StorageError",)),
        outcome_of(flip, paid_in_flight=3, difference=Difference(num_lost=2, num_duplicate=0, changed=("x",))),
    ]
    table = {row[0]: row[1:] for row in (each.split("  ") for each in summary(outcomes).splitlines()) if len(row) > 3}
    cells = {name: [cell.strip() for cell in row if cell.strip()] for name, row in table.items()}
    assert cells["lost key"] == ["2", "1", "1", "4", "0", "0", "DamagedError 1, StorageError 2"]
    assert cells["flipped bit"] == ["1", "0", "1", "2", "3", "0"]
    assert cells["all"][:3] == ["3", "1", "2"]
    assert "lost rows 2" in summary(outcomes)
    assert "a forgotten user came back" in line(outcomes[1])


@pytest.mark.parametrize(
    "values",
    [
        {"problems": ("hung",)},
        {"paid_needlessly": 1},
        {"difference": Difference(num_lost=0, num_duplicate=0, changed=("x",))},
    ],
)
def test_an_outcome_with_anything_wrong_is_not_good(values: dict[str, Any]):
    schedule = schedule_of(0, REACHED)
    assert outcome_of(schedule).is_good
    assert not outcome_of(schedule, **values).is_good


def test_an_unexpected_error_is_a_bad_outcome_and_ends_no_other_schedule():
    schedule = schedule_of(3, REACHED)

    def run() -> Outcome:
        raise ValueError("no such table")

    outcome = chaos.judged(schedule, run)
    assert not outcome.is_good
    assert "no such table" in line(outcome)


def test_replies_are_bad_among_good_ones_and_follow_from_the_seed():
    for make in (replies_of, odd_replies_of):
        kinds, replies = make(7)
        assert (kinds, replies) == make(7)
        assert sum(reply is not ANSWER for reply in replies) == len(kinds)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_reply_differs_from_a_good_one(name: str):
    def good() -> dict[str, Any]:
        choice = {"index": 0, "message": {"role": "assistant", "content": "music"}, "logprobs": None}
        return {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}}

    assert ODD[name](good()) != good()


@pytest.mark.parametrize(
    ("trouble", "variant", "right"),
    [
        (Trouble.NO_USAGE, "null", BudgetError("used up")),
        (Trouble.CHANGED_MIND, "402", EndpointError("status 402")),
        (Trouble.CHANGED_MIND, "403 once", None),
    ],
)
def test_the_end_of_a_troubled_attempt_is_judged(trouble: Trouble, variant: str, right: Exception | None):
    schedule = Schedule(seed=0, victim="drafts", strikes=(), trouble=trouble, variant=variant)
    assert wrong_end(schedule, right) == []
    assert wrong_end(schedule, EndpointError("status 500") if right is None else None)


def test_a_flip_changes_one_bit_and_no_other_name_of_the_file(tmp_path: Path):
    (tmp_path / "known").mkdir()
    (tmp_path / "known" / "part").write_bytes(bytes(range(100)))
    link_tree(tmp_path / "known", tmp_path / "own")
    flip = flip_bit(tmp_path / "own" / "part", Random(0))
    differing = [a ^ b for a, b in zip(flip.was, flip.now, strict=True) if a != b]
    assert [each.bit_count() for each in differing] == [1]
    assert (tmp_path / "known" / "part").read_bytes() == bytes(range(100))
    assert flip.is_there
    flip.put_back()
    assert (tmp_path / "own" / "part").read_bytes() == bytes(range(100))
    assert flip.is_named(f"the table {flip.path} is damaged")
    assert not flip.is_named("the table is damaged")


def test_the_folder_of_faults_is_beside_a_root_an_export_or_its_key_in_a_store():
    found = {folder_beside(f"{place}/stages/a") for place in ("/c/seed-1/root", "/c/seed-1/export")}
    assert found == {Path("/c/seed-1/faults"), folder_beside("s3://bucket/c/seed-1/root/stages/a")}


def test_a_broken_disk_refuses_changes_below_its_root_alone(tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name / "faults").mkdir(parents=True)
        (tmp_path / name / "root").mkdir()
        (tmp_path / name / "root" / "a").write_text("kept")
    disk = fault_conditions._Disk(folder_beside)
    system = fault_conditions._Os(disk)
    fault_conditions.break_disk(tmp_path / "one" / "faults", errno.EROFS)
    with pytest.raises(OSError, match="Read-only"):
        system.unlink(str(tmp_path / "one" / "root" / "a"))
    with pytest.raises(OSError, match="Read-only"):
        disk.open(str(tmp_path / "one" / "root" / "b"), "wb")
    with disk.open(str(tmp_path / "one" / "root" / "a")) as file:
        assert file.read() == "kept"
    system.unlink(str(tmp_path / "two" / "root" / "a"))
    fault_conditions.mend_disk(tmp_path / "one" / "faults")
    system.unlink(str(tmp_path / "one" / "root" / "a"))


def test_a_clock_that_is_set_back_is_wrong_until_it_is_set_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(fault_conditions.CLOCK, str(tmp_path / "clock"))
    monkeypatch.setattr(fault_conditions, "_true_time", lambda: 10_000.0)
    fault_conditions.set_clock(-3600)
    assert fault_conditions._wrong_time() == 6400.0
    fault_conditions.right_clock()
    assert fault_conditions._wrong_time() == 10_000.0
