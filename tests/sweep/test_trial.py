from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.config import PlacementConfig, ReportConfig
from hydra_ray.sweep.ray_tune_search import num_fitting
from hydra_ray.sweep.trial import best_system_quality

QUALITIES = st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=2, max_size=8)
BOOTSTRAP = ReportConfig(num_resamples=200)


@given(QUALITIES)
def test_a_trial_is_worth_what_the_best_system_is_to_the_average_user(outcomes: list[list[float]]):
    found = best_system_quality(outcomes, BOOTSTRAP)
    assert found.value == pytest.approx(max(fmean(values) for values in zip(*outcomes, strict=True)))
    assert found.low is not None
    assert found.high is not None
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9 or len(outcomes) < 4


def test_one_user_has_no_interval():
    found = best_system_quality([[0.1, 0.2, 0.3, 0.25]], BOOTSTRAP)
    assert (found.value, found.low, found.high) == (0.3, None, None)


@pytest.mark.parametrize(
    ("resources", "placement", "expected"),
    [
        ({"CPU": 2}, {}, 1),
        ({"CPU": 1}, {}, 1),
        ({"CPU": 3}, {}, 2),
        ({"CPU": 12}, {"generator_cpus": 3.5}, 3),
        ({"CPU": 12}, {"generator_cpus": 2, "generator_actors": 2}, 2),
        ({"CPU": 64, "GPU": 8}, {"generator_gpus": 2}, 4),
        ({"CPU": 64, "GPU": 8}, {"generator_gpus": 2, "generator_actors": 2}, 2),
        ({"CPU": 64}, {"generator_gpus": 1}, 1),
    ],
)
def test_as_many_trials_run_as_have_room_for_a_generator_and_a_step_each(
    resources: dict[str, float], placement: dict[str, float], expected: int
):
    assert num_fitting(resources, PlacementConfig.model_validate(placement)) == expected
