import logging
import threading

import pytest

from hydra_ray.engine.under_way import Answered, UnderWay, telling_of


def part(bucket: int, num_answered: int, stage: str = "probes", num_requests: int = 100) -> Answered:
    return Answered(stage=stage, bucket=bucket, num_answered=num_answered, num_requests=num_requests)


def lines(under_way: UnderWay, found: list[Answered], seconds: float) -> list[tuple[str, str]]:
    return list(under_way.lines(found, seconds))


def test_parts_that_were_there_at_the_last_look_are_told_with_rate_and_time_left():
    under_way = UnderWay()
    assert lines(under_way, [part(0, 10), part(1, 0)], 100.0) == []
    told = lines(under_way, [part(0, 40), part(1, 30), part(2, 5)], 120.0)
    assert told == [("probes", "probes: 70 of 200 requests answered in 2 parts under way; 3.0/s; 0:43 left of these")]


def test_each_stage_has_a_line_and_one_that_stands_still_no_rate():
    under_way = UnderWay()
    lines(under_way, [part(0, 1), part(0, 7, "profiles")], 0.0)
    told = dict(lines(under_way, [part(0, 1), part(0, 17, "profiles")], 10.0))
    assert told["probes"] == "probes: 1 of 100 requests answered in 1 part under way"
    assert told["profiles"].endswith("1.0/s; 1:23 left of these")


def test_committed_parts_are_not_told_of():
    under_way = UnderWay()
    lines(under_way, [part(0, 99)], 0.0)
    assert lines(under_way, [part(1, 3)], 10.0) == []
    assert lines(under_way, [], 20.0) == []


def test_lines_are_logged_while_the_block_goes_on_and_not_after(caplog: pytest.LogCaptureFixture):
    looks, enough = [0], threading.Event()

    def ask() -> list[Answered]:
        looks[0] += 1
        if looks[0] == 4:
            enough.set()
        return [part(0, looks[0])]

    with caplog.at_level(logging.INFO, "hydra_ray"), telling_of(ask, seconds=0.001):
        assert enough.wait(30)
    told = [each.getMessage() for each in caplog.records]
    assert "probes: 2 of 100 requests answered in 1 part under way" in told[0]
    num_looks = looks[0]
    assert not [each for each in threading.enumerate() if each.name == "progress"]
    assert looks[0] == num_looks


def test_a_block_that_fails_ends_the_telling():
    with pytest.raises(ValueError, match="so"), telling_of(list, seconds=0.001):
        raise ValueError("so")
    assert not [each for each in threading.enumerate() if each.name == "progress"]
