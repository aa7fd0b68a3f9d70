"""What the tests of the doctor share."""

import gc
from collections.abc import Iterator

import pytest

_WITH_SERVER = "test_endpoint.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Third parties: a server that is stopped leaves connections without a call to the garbage collector.
    for item in items:
        if item.path.name == _WITH_SERVER:
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


@pytest.fixture(autouse=True)
def _no_connection_is_left_to_another_test(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if request.path.name == _WITH_SERVER:
        gc.collect()
