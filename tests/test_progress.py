import logging

import pytest

from hydra_ray.progress import Progress


def test_a_line_tells_parts_rates_and_time_left():
    progress = Progress("probes", 4)
    progress.advance({"rows": 10, "requests": 100, "generated_tokens": 300})
    line = progress.line(20.0)
    assert line == "probes: 1/4 parts; 10 rows, 0.5/s; 100 requests, 5.0/s; 15 tokens/s; 1:00 left"


def test_the_last_part_is_always_told_and_the_log_stays_short(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    progress = Progress("users", 50)
    for _ in range(50):
        progress.advance({"rows": 1})
    assert len(caplog.messages) == 2
    assert caplog.messages[-1].startswith("users: 50/50 parts; 50 rows")
