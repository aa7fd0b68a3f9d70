import logging

import pytest

from hydra_ray.engine.progress import Progress


def test_a_line_tells_parts_and_rates():
    progress = Progress("probes", 4)
    progress.advance({"rows": 10, "requests": 100, "generated_tokens": 300})
    assert progress.line(20.0) == "probes: 1/4 parts; 10 rows, 0.5/s; 100 requests, 5.0/s; 15 tokens/s"


def test_what_was_paid_so_far_is_told_where_there_are_prices():
    progress = Progress("probes", 4)
    progress.advance({"requests": 100, "cost": 0.25})
    progress.advance({"requests": 100, "cost": 0.5})
    assert "; cost 0.75; " in progress.line(30.0)
    free = Progress("probes", 4)
    free.advance({"requests": 100, "cost": 0.0})
    assert "cost" not in free.line(30.0)


def test_time_left_is_judged_by_the_parts_after_the_first():
    progress = Progress("probes", 4)
    progress.advance({"rows": 10})
    progress.advance({"rows": 10})
    assert progress.line(30.0).endswith("; 1:00 left")


def test_the_last_part_is_always_told_and_the_log_stays_short(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    progress = Progress("users", 50)
    for _ in range(50):
        progress.advance({"rows": 1})
    assert len(caplog.messages) == 2
    assert caplog.messages[-1].startswith("users: 50/50 parts; 50 rows")
