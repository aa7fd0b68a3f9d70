"""What becomes of an error that a worker raised."""

import pytest
from ray.exceptions import RayTaskError
from ray.train.v2.api.exceptions import WorkerGroupError

from hydra_ray.engine.worker_errors import reason_of, tells_reason
from hydra_ray.errors import EndpointError, HydraError, ModelError


def of_a_task(cause: Exception) -> Exception:
    """A worker's error as `ray.get` raises it."""
    return RayTaskError("work", "the whole way", cause, proctitle="p", pid=1, ip="10.0.0.1").as_instanceof_cause()


def test_an_error_of_ours_is_raised_with_its_own_words_alone():
    added = "\nFailed to apply UDF transform after 1/1 attempts"
    with pytest.raises(EndpointError) as told, tells_reason():
        raise of_a_task(EndpointError(f"the endpoint is dead{added}"))
    assert (type(told.value), str(told.value)) == (EndpointError, "the endpoint is dead")


def test_any_other_error_keeps_the_way_it_took():
    with pytest.raises(RayTaskError, match="the whole way"), tells_reason():
        raise of_a_task(KeyError("a bug"))


@pytest.mark.parametrize("wrap", [lambda error: error, of_a_task])
def test_the_reason_of_a_training_is_that_of_its_first_worker(wrap):
    failed = WorkerGroupError("two failed", {0: wrap(ModelError("no weights")), 1: wrap(ModelError("no weights"))})
    assert str(reason_of(failed)) == "no weights"


def test_what_is_no_error_of_ours_has_no_reason():
    assert reason_of(WorkerGroupError("failed", {0: ValueError("a bug")})) is None
    assert reason_of(KeyError("a bug")) is None
    assert isinstance(reason_of(ModelError("x")), HydraError)
