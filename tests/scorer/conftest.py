import os

import pytest


@pytest.fixture(scope="session")
def one_torch_thread():
    """Many small steps wait for each other's threads longer than they compute."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def ray_two_cpus():
    """A Ray of two CPUs for the tests of the scorer."""
    import ray

    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
