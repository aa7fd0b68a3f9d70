"""A run on Ray that is asked to stop, as people and schedulers ask."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from builders import run_config
from ended_commands import end_when

from hydra_ray.stages.plan import plan_run

pytestmark = [
    pytest.mark.ray,
    # Third parties: Ray leaves sockets and processes to the interpreter's end and uses what others have deprecated.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def another_ray() -> Iterator[None]:
    """Ray of somebody else on this machine, which a call of a program whose own Ray has ended would join."""
    code = "import ray; ray.init('local', num_cpus=0, include_dashboard=False); print('started', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any("started" in line for line in process.stdout)
        yield
        process.communicate("\n")


@pytest.mark.usefixtures("another_ray")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_keeps_parts_ends_its_workers_and_says_how_to_resume(
    tmp_path: Path, number: signal.Signals, status: int
):
    plan = plan_run(run_config(str(tmp_path / "root"), users={"num_buckets": 8}))
    settings = tmp_path / "config.yaml"
    settings.write_text(yaml.safe_dump(plan.config.model_dump(mode="json")))
    ended = end_when(["probes: ", "/8 parts"], ["run", str(settings)], number)
    assert ended.status == status
    assert ended.said.rstrip().endswith(f"Resume with:\n  {shlex.join(['hydra-ray', 'run', str(settings)])}")
    assert ended.workers
    _, alive = psutil.wait_procs(ended.workers, timeout=60)
    assert alive == []
    assert plan.profiles.committed_buckets("profiles")
    assert 0 < len(plan.probes.committed_buckets("probes")) <= 8
    assert not plan.reranker.examples.is_complete()
