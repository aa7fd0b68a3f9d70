import asyncio
import time

import pytest
import ray

from hydra_ray.config import ApiConfig
from hydra_ray.generate.engines.limiter_actor import ClusterLimiter, open_limiter
from hydra_ray.generate.rate_limits import Limiter

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    # Third parties: Ray leaves sockets and processes to the interpreter's end.
    pytest.mark.filterwarnings("default"),
]


def api(model: str, **limits: int) -> ApiConfig:
    return ApiConfig.model_validate({"base_url": "http://localhost/v1", "model": model, **limits})


def is_granted(limiter: ClusterLimiter, seconds: float = 2.0) -> bool:
    """Whether a turn comes at once."""

    async def wait() -> None:
        await asyncio.wait_for(limiter.reserve(1), seconds)

    try:
        asyncio.run(wait())
    except TimeoutError:
        return False
    return True


def warmed(model: str, **limits: int) -> ClusterLimiter:
    """A limiter whose actor is up."""
    found = open_limiter(api(model, **limits))
    assert isinstance(found, ClusterLimiter)
    assert is_granted(found, seconds=120)
    return found


def test_all_callers_of_a_model_share_its_limits():
    first = warmed("shared", requests_per_minute=3)
    second = open_limiter(api("shared", requests_per_minute=3))
    assert isinstance(second, ClusterLimiter)
    assert is_granted(second, 30)
    assert is_granted(first, 30)
    assert not is_granted(second)
    assert not is_granted(first)


def test_another_model_has_limits_of_its_own():
    warmed("one", requests_per_minute=1)
    warmed("another", requests_per_minute=1)


def test_a_limiter_that_died_is_replaced():
    limiter = warmed("dying", requests_per_minute=1)
    ray.kill(limiter._actor)  # what dies is the actor behind it
    start = time.monotonic()
    while not is_granted(limiter, 60):
        assert time.monotonic() - start < 120


def test_a_process_of_its_own_has_a_limiter_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert isinstance(open_limiter(api("alone")), Limiter)
