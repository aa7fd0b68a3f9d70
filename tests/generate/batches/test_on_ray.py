"""A run on Ray whose requests are answered in batches: workers make them, this process alone has the key."""

from pathlib import Path

import pytest
from batch_server import BatchServer
from builders import run_config

from hydra_ray.stages.run import personalize

# Third parties: what imports Ray uses what others have deprecated.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


@pytest.mark.usefixtures("shared_ray")
def test_workers_make_the_requests_of_batches_and_store_no_key(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HYDRA_TEST_BATCH_KEY", "k")  # after Ray has started: no worker has it
    api = {"base_url": server.url, "model": "m", "api_key_env": "HYDRA_TEST_BATCH_KEY"}
    batch = {"poll_seconds": 0.01, "max_poll_seconds": 0.05}
    generator = {"engine": "openai_batch", "api": api, "batch": batch}
    plan = personalize(run_config(str(tmp_path), generator=generator), until="probes")
    counters = plan.probes.manifest()["counters"]
    assert counters["requests"] == counters["asked_now"] > 0
    assert counters["generator_seconds"] == 0
    assert server.paid.total() == len(server.paid)
