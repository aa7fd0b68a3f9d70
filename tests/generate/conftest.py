"""What the tests of generators share."""

import gc
from collections.abc import Iterator

import pytest

_WITH_CONNECTIONS = ("test_openai_engine.py", "test_endpoint_runs.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Third parties: a client that is cancelled while it connects leaves the socket to the garbage collector.
    for item in items:
        if item.path.name in _WITH_CONNECTIONS:
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


@pytest.fixture(autouse=True)
def _no_connection_is_left_to_another_test(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if request.path.name in _WITH_CONNECTIONS:
        gc.collect()
