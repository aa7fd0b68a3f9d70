"""A simulated Batch API."""

from collections.abc import Iterator

import pytest
from batch_server import BatchServer


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer() as found:
        yield found
