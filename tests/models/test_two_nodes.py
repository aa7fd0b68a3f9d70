"""A model of the store on two nodes of one cluster, each of which keeps its own copy; one is killed in the middle."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import ENCODER, run_config
from fault_s3 import Fault, FaultyS3

from hydra_ray import storage
from hydra_ray.models import resolve_model, weight_bytes
from hydra_ray.models.content import model_files, names_below
from hydra_ray.stages.run import personalize

pytestmark = [
    pytest.mark.ray,
    # Third parties: Ray uses what it has deprecated itself, and its cluster for tests leaves sockets open.
    pytest.mark.filterwarnings("default"),
]
NODES = ("first", "second")
_MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def caches(s3_root: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A cluster of a head and two nodes, and what each node keeps."""
    import ray
    from ray.cluster_utils import Cluster

    folders = {name: tmp_path_factory.mktemp(name) for name in NODES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYDRA_CACHE_DIR", str(tmp_path_factory.mktemp("head")))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for name, folder in folders.items():
            own = {"HYDRA_CACHE_DIR": str(folder)}
            cluster.add_node(num_cpus=2, resources={name: 1}, env_vars=own, object_store_memory=100_000_000)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield {name: folder / "models" for name, folder in folders.items()}
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def location(s3_root: str) -> str:
    folder = resolve_model(ENCODER)
    storage.copy_files(folder, f"{s3_root}/encoder", model_files(names_below(Path(folder)), with_weights=True))
    return f"{s3_root}/encoder"


def num_chunks(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.glob("encoder-*/.journals/model.safetensors")) // 4


def test_a_node_killed_while_it_brings_a_model_goes_on_and_the_other_has_its_own(
    caches: dict[str, Path], location: str, s3: FaultyS3
):
    import ray

    def fetch(location: str) -> str:
        from hydra_ray.models import object_store, resolve_model

        object_store.CHUNK_BYTES = _MEGABYTE
        return resolve_model(location)

    size = weight_bytes(location)
    assert size
    remote: Any = ray.remote(num_cpus=1, max_retries=3)(fetch)
    folder = ray.get(remote.options(resources={"first": 1}).remote(location))
    assert Path(folder).is_relative_to(caches["first"])
    s3.disturb(*[Fault.NONE] * 40, *[Fault.STALL] * 100)
    second = remote.options(resources={"second": 1}).remote(location)
    while num_chunks(caches["second"]) < 20:
        time.sleep(0.05)
    kept = num_chunks(caches["second"]) * _MEGABYTE
    assert kept < size
    os.kill(bringing(caches["second"]), signal.SIGKILL)
    s3.calm()
    s3.forget_requests()
    again = ray.get(second)
    in_flight = 10 * _MEGABYTE  # what the server still sent to the process that was killed
    assert s3.served_bytes <= size - kept + in_flight
    whole = Path(resolve_model(ENCODER), "model.safetensors").read_bytes()
    assert [Path(each, "model.safetensors").read_bytes() for each in (folder, again)] == [whole, whole]


def bringing(cache: Path) -> int:
    """The process that holds a file of a cache open."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            opened = [os.readlink(each) for each in (process / "fd").iterdir()]
        except OSError:
            continue
        if any(each.startswith(str(cache)) and each.endswith("model.safetensors") for each in opened):
            return int(process.name)
    raise AssertionError(f"nobody writes below {cache}")


def test_a_run_with_its_encoder_in_the_store_answers_as_with_it_in_a_folder(
    caches: dict[str, Path], location: str, tmp_path: Path
):
    answers: list[bytes] = []
    for name, encoder in (("store", location), ("folder", resolve_model(ENCODER))):
        base = {**run_config().adapter.base.model_dump(), "num_epochs": 0, "width": 8, "encoder": encoder}
        placement = {"encoder_actors": 2}
        config = run_config(
            str(tmp_path / "root"), reranker={"base": base}, adapter={"base": base}, placement=placement
        )
        plan = personalize(config.model_copy(update={"run": name}))
        answers.append(storage.read_bytes(storage.join(plan.run_folder, "predictions.json")))
        recorded = storage.read_json(storage.join(plan.run_folder, "config.json"))
        assert recorded["adapter"]["base"]["encoder"].partition("#")[0] == encoder
    assert answers[0] == answers[1]
    stages = [path.split("/") for path in storage.list_tree(str(tmp_path / "root" / "stages"))]
    assert len({path[1] for path in stages if path[0] == "answers"}) == 1, "one fingerprint, made once"
