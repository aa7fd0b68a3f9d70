"""Settings of all tests, and an object store for those that need one."""

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

# Examples import libraries, on a machine that may be busy: their time says nothing.
settings.register_profile("hydra_ray", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hydra_ray")

if TYPE_CHECKING:
    from fault_s3 import FaultyS3


@pytest.fixture(scope="session")
def s3() -> "Iterator[FaultyS3]":
    """An object store over HTTP, which answers wrongly when it is told to."""
    from fault_s3 import FaultyS3

    server = FaultyS3()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def s3_root(s3: "FaultyS3") -> Iterator[str]:
    """A folder of the object store, which this process finds while a module is tested."""
    from fault_s3 import BUCKET

    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        yield f"s3://{BUCKET}/{uuid.uuid4().hex}"
