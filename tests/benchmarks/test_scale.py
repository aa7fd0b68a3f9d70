"""A million users on paper: the simulation, and the page that is written of it."""

from dataclasses import replace

import pytest
from scale import Assumed, Rates, page, part_seconds, rates_of, simulate

RATES = Rates(
    requests=40,
    prompt_tokens=8000,
    generated_tokens=400,
    stored_bytes=30_000,
    cpu_seconds=0.1,
    store_requests=100,
    in_sequence=0,
)
CALM = Assumed(num_users=100_000, loss_per_hour=0.0)


def test_a_part_takes_its_prompts_and_its_steps():
    # 250 users: 2,000,000 prompt tokens at 60,000 a second, and 100,000 tokens, 1,024 of them in a step of 28.48 ms.
    assert part_seconds(RATES, CALM) == pytest.approx(2e6 / 6e4 + 1e5 / 1024 * 0.02848)


def test_copies_are_busy_but_for_the_last_parts():
    found = simulate(RATES, CALM)
    fed = CALM.num_buckets * part_seconds(RATES, CALM) / CALM.num_gpus / 3600
    assert 0.8 <= found.busy <= 1.0
    assert found.hours == pytest.approx(fed / found.busy, rel=0.05)
    assert (found.num_losses, found.driver_busy) == (0, 0.0)


def test_losses_cost_restarts():
    calm, lossy = simulate(RATES, CALM), simulate(RATES, replace(CALM, loss_per_hour=5.0))
    assert lossy.num_losses > 0
    assert lossy.hours > calm.hours


def test_the_driver_bounds_small_parts():
    waiting = replace(RATES, in_sequence=50)
    found = simulate(waiting, replace(CALM, users_per_bucket=10))
    assert found.hours >= 10_000 * 50 * CALM.store_seconds / 3600
    assert found.driver_busy > 0.9


def test_the_page_tells_what_was_measured_and_what_is_assumed():
    text = page(RATES, CALM)
    assert "| requests to the generator | 4 million | 40 a user |" in text
    assert "| prices | $2.5 a GPU hour, $0.023 a GB and month |" in text


def test_what_was_not_measured_is_told_by_name():
    with pytest.raises(SystemExit, match="no figures of scaling"):
        rates_of({})
