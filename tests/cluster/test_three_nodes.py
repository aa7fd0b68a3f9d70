"""A head without CPUs and two nodes that work, each with a network, processes and shared memory of its own."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from builders import ENCODER
from namespaces import Lan, can_have_namespaces, lan

from hydra_ray.config import PlacementConfig, StorageConfig
from hydra_ray.models import model_identity, resolve_model
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.storage import read_part

ROOT = Path(__file__).parents[2]
PYTHON = str(ROOT / ".venv" / "bin" / "python")
EITHER = {"kind": "in(steady, spot)"}
PLACEMENT = {
    "generator_actors": 2,
    "generator_cpus": 0.5,
    "train_threads": 1,
    **{f"{work}_labels": EITHER for work in ("generator", "train", "step")},
}

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not can_have_namespaces(), reason="needs the right to make network and process namespaces"),
]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    with lan(tmp_path_factory.mktemp("lan"), HF_HUB_OFFLINE="1") as made:
        made.start_head()
        made.start_worker(2, "--labels=kind=steady")
        made.start_worker(2, "--labels=kind=spot")
        made.wait_for(3)
        yield made


def test_a_fit_cluster_is_found_fit(nodes: Lan, tmp_path: Path):
    check = [PYTHON, str(ROOT / "cluster" / "check.py"), str(ROOT / "jobs" / "configs" / "demo.yaml")]
    job = nodes.submit(*check, f"storage.root={tmp_path}", "placement.generator_labels={kind: spot}")
    output, _ = job.communicate(timeout=600)
    assert job.returncode == 0, output
    (generator,) = [line for line in output.splitlines() if "a place for: generator" in line]
    assert generator.endswith(f"found on {nodes.nodes[2].address}")
    assert "written and read, 3 nodes" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "told"),
    [("spot", "{identity} on 1 node"), ("steady", "not on 10.77.0.2")],
    ids=["where-it-is", "where-it-is-not"],
)
def test_a_model_is_asked_for_only_where_the_plan_puts_its_work(nodes: Lan, tmp_path: Path, kind: str, told: str):
    """Each node has a /tmp/ray of its own: the model is on the head, which plans with it, and on the spot node."""
    for node in (nodes.nodes[0], nodes.nodes[2]):
        model = nodes.folder / node.network / "generator"
        shutil.copytree(resolve_model(ENCODER), model, dirs_exist_ok=True)
    check = [PYTHON, "-m", "hydra_ray.cli", "check", str(ROOT / "jobs" / "configs" / "demo.yaml")]
    settings = [f"storage.root={tmp_path}", "generator.model=/tmp/ray/generator"]
    labels = [f"placement.generator_labels={{kind: {kind}}}", "placement.step_labels={kind: spot}"]
    job = nodes.submit(*check, *settings, *labels)
    output, _ = job.communicate(timeout=600)
    lines = [line for line in output.splitlines() if line[8:].startswith("/tmp/ray/generator ")]
    identity = model_identity(str(nodes.folder / nodes.nodes[2].network / "generator"))
    assert {told.format(identity=identity) in line for line in lines} == {True}, output
    assert job.returncode == (0 if kind == "spot" else 1), output


def test_the_dry_plan_reads_the_nodes_that_are_there(nodes: Lan):
    doctor = [PYTHON, "-m", "hydra_ray.cli", "doctor", "--cluster", str(ROOT / "jobs" / "configs" / "demo.yaml")]
    address = ["env", f"RAY_ADDRESS={nodes.nodes[0].address}:6379"]
    fits = nodes.on_head(*address, *doctor, "placement.generator_labels={kind: steady}")
    assert fits.returncode == 0, fits.stdout + fits.stderr
    assert "on the head, beside no other work" in fits.stdout
    assert f"{nodes.nodes[1].address} (2 a node)" in fits.stdout
    assert "the largest has 2" in nodes.on_head(*address, *doctor, "placement.generator_cpus=3").stdout


def test_a_node_killed_in_the_middle_changes_no_answer(nodes: Lan, small_run: Plan, tmp_path: Path):
    """The answers of one process without any cluster are what those of three nodes must be, one of which is lost."""
    storage, placement = StorageConfig(root=str(tmp_path / "root")), PlacementConfig.model_validate(PLACEMENT)
    config = small_run.config.model_copy(update={"storage": storage, "placement": placement})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    plan = plan_run(config)
    job = nodes.submit(PYTHON, str(ROOT / "jobs" / "personalize.py"), str(tmp_path / "config.yaml"))
    first = Path(plan.probes.part("probes", 0)).parent
    while job.poll() is None and not list(first.glob("*.parquet")):
        time.sleep(0.1)
    assert not plan.drafts.is_complete()
    nodes.kill(nodes.nodes[2])
    output, _ = job.communicate(timeout=900)
    assert job.returncode == 0, output
    for stage in ("users", "profiles", "probes", "drafts", "gate", "answers"):
        ours, theirs = getattr(plan, stage), getattr(small_run, stage)
        assert ours.fingerprint == theirs.fingerprint
        for bucket in ours.buckets:
            assert read_part(ours.part(stage, bucket)).equals(read_part(theirs.part(stage, bucket))), (stage, bucket)
    predictions = [Path(each.run_folder, "predictions.json").read_bytes() for each in (plan, small_run)]
    assert predictions[0] == predictions[1]
