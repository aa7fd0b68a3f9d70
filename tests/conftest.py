"""Settings of all tests, and an object store for those that need one."""

import gc
import os
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

# Examples import libraries, on a machine that may be busy: their time says nothing.
settings.register_profile("hydra_ray", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hydra_ray")

# Ray ends idle workers beyond the number of CPUs, and each new one imports torch again.
os.environ.setdefault("RAY_num_workers_soft_limit", "6")
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")

_FILL_ALL_CORES = ("test_against_vllm.py", "test_train.py", "test_vllm_serve.py", "test_tour.py")
"""Modules whose tests use more than one thread. Together they have many tests and so are begun early, as what takes
minutes must be: the tour of the commands, begun last, would keep the other process waiting."""

if TYPE_CHECKING:
    from fault_s3 import FaultyS3
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

    from hydra_ray.stages.plan import Plan


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is slow, unless it is asked for."""
    if os.environ.get("HYDRA_SLOW") != "1":
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: set HYDRA_SLOW=1"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadScopeScheduling | None":
    """Where modules are spread over processes, keep those together that would slow each other down."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = super()._split_scope(nodeid)
            return "fill all cores" if module.rpartition("/")[2] in _FILL_ALL_CORES else module

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """Leave what was imported out of all later collections of garbage: millions of objects, half a second each time."""
    _forget_for_collections()


@pytest.fixture(scope="module", autouse=True)
def _garbage_of_a_module_is_collected_with_it() -> Iterator[None]:
    yield
    _forget_for_collections()


def _forget_for_collections() -> None:
    gc.collect()
    gc.freeze()


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


@pytest.fixture(scope="module")
def shared_ray() -> None:
    """A Ray of two CPUs that outlives the module: the next one that asks for it finds its workers warm."""
    import ray

    from hydra_ray.engine.ray_connection import start_ray

    os.environ.setdefault("RAY_worker_niceness", "0")
    settings = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 1 << 30}
    with warnings.catch_warnings():
        # Third parties: Ray warns of settings that it makes itself.
        warnings.simplefilter("ignore")
        if not ray.is_initialized():
            ray.init(address="local", num_cpus=2, logging_level="error", **settings)
        start_ray()


@pytest.fixture(scope="module", autouse=True)
def _only_a_shared_ray_outlives_its_module(request: pytest.FixtureRequest) -> Iterator[None]:
    own = (item for item in request.session.items if item.path == request.path)
    is_shared = any("shared_ray" in getattr(item, "fixturenames", ()) for item in own)
    if not is_shared:
        _end_ray()
    yield
    if not is_shared:
        _end_ray()


def _end_ray() -> None:
    if "ray" in sys.modules:
        import ray

        ray.shutdown()


@pytest.fixture(scope="module")
def without_ray() -> Iterator[pytest.MonkeyPatch]:
    """This process in the place of Ray while a module is tested, which may patch more."""
    import in_process

    with pytest.MonkeyPatch.context() as patch:
        in_process.install(patch)
        yield patch


@pytest.fixture(scope="module")
def without_label_encoder(without_ray: pytest.MonkeyPatch) -> None:
    """Labels and choices are encoded by a rule, without a model."""
    from builders import encode

    for module in ("stages.adapter", "stages.own_heads"):  # one imports from the other, unpatched
        without_ray.setattr(f"hydra_ray.{module}.open_label_encoder", lambda _: encode)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> "Plan":
    """A finished run on planted users, with a fake generator and untrained bases; whoever uses it changes nothing."""
    import in_process
    from builders import run_config

    from hydra_ray.stages.run import personalize

    untrained = {"base": {**run_config().adapter.base.model_dump(), "num_epochs": 0, "width": 8}}
    with pytest.MonkeyPatch.context() as patch:
        in_process.install(patch)
        return personalize(run_config(str(tmp_path_factory.mktemp("small")), reranker=untrained, adapter=untrained))


@pytest.fixture
def nobodys() -> Iterator[Path]:
    """A folder seen by a user who may not enter the folder `closed` in it; for tests that root runs."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir(mode=0o700)
        os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(0)
