from dataclasses import replace

import pytest

from hydra_ray.forecast.counting import StageVolume, Volume
from hydra_ray.forecast.forecast import NOT_KNOWN, Forecast, StageForecast
from hydra_ray.forecast.forecast_text import comparison_lines, forecast_lines
from hydra_ray.forecast.usage import Comparison, StageUse
from hydra_ray.forecast.user_sample import Estimate


def number(value: float, error: float = 0) -> Estimate:
    return Estimate(value=value, low=value - error, high=value + error)


def volume(name: str, requests: float, error: float = 0) -> StageVolume:
    own = Volume(
        requests=number(requests, error),
        prompt_tokens=number(100 * requests, 100 * error),
        generated_tokens=number(4 * requests),
    )
    return StageVolume(name=name, all=own, new=own, reused_share=0.5, is_exact=not error)


FORECAST = Forecast(
    run="demo",
    counters={"users": 1000, "new_users": 200, "records": 50_000, "queries": 1000},
    num_sampled=500,
    stages=(
        StageForecast(name="users", is_complete=True, volume=None, asking_seconds=0.0, other_seconds=1.0),
        StageForecast(
            name="profiles", is_complete=True, volume=volume("profiles", 200), asking_seconds=9.0, other_seconds=1.0
        ),
        StageForecast(
            name="probes", is_complete=False, volume=volume("probes", 3000, 150), asking_seconds=540, other_seconds=60
        ),
        StageForecast(name="answers", is_complete=False, volume=None, asking_seconds=0.0, other_seconds=30),
    ),
    speed_source="3 finished runs",
    unit="GPU",
    unit_hours=0.6,
    cost=number(1.5, 0.25),
    num_bytes=1_234_567_890,
)


def test_a_forecast_tells_users_requests_tokens_time_cost_and_disk():
    lines = list(forecast_lines(FORECAST))
    assert lines[0] == "run demo: 1,000 users, 200 of them evaluated; 50,000 records, 1,000 queries"
    assert lines[1] == "estimated on 500 users; in brackets 95 % intervals"
    (probes,) = [line.split() for line in lines if line.startswith("  probes")]
    assert " ".join(probes) == (
        "probes about 3,000 [2,850, 3,150] about 3,000 [2,850, 3,150] 300,000 [285,000, 315,000] "
        "50% about 12,000 10 min"
    )
    (profiles,) = [line.split() for line in lines if line.startswith("  profiles")]
    assert profiles == ["profiles", "200", "complete"]
    assert lines[-5:] == [
        "tokens to ask and be answered: about 312,000 [297,000, 327,000]",
        "there already: users, profiles",
        "time: about 10 min, 9 min of it generating (0.60 GPU hours), by 3 finished runs",
        "cost: about 1.50 [1.25, 1.75]",
        "disk: about 1.23 GB below the root, what is there included",
    ]


def test_what_is_not_known_is_said_to_be():
    probes = replace(FORECAST.stages[2], asking_seconds=None)
    unknown = replace(FORECAST, stages=(probes,), speed_source=NOT_KNOWN, unit_hours=None, cost=None)
    text = "\n".join(forecast_lines(unknown))
    assert "time: not known" in text
    assert "cost: no price is set" in text


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (90.0, "time: 2 min expected, 3 min used: 0.50 of it"),
        (None, "time: 3 min used; nothing tells the generator's speed: calibrate"),
    ],
)
def test_a_comparison_puts_what_was_used_beside_what_was_expected(expected: float | None, words: str):
    uses = (
        StageUse(name="probes", expected_tokens=1100, used_tokens=1000, expected_seconds=expected, used_seconds=180.0),
        StageUse(name="answers", expected_tokens=0, used_tokens=0, expected_seconds=0.0, used_seconds=0.0),
    )
    lines = list(comparison_lines(Comparison(forecast=FORECAST, stages=uses)))
    assert "tokens: 1,100 expected, 1,000 used: 1.10 of it" in lines
    assert words in lines
