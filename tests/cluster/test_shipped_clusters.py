"""The files that start clusters: what their own tools say of them, and what a run needs of them."""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from builders import run_config

from hydra_ray.cluster.fit import placement_findings
from hydra_ray.cluster.nodes import read_node_types
from hydra_ray.config import load_config

ROOT = Path(__file__).parents[2]
RAY_UP = ROOT / "ray_cluster.yaml"
MANIFESTS = [ROOT / "cluster" / "kuberay" / name for name in ("raycluster.yaml", "rayjob.yaml")]
SCHEMA = json.loads(Path(__file__).with_name("kuberay_schema.json").read_text())
CLUSTERS = [RAY_UP, *MANIFESTS]


@pytest.fixture
def ray_up() -> dict[str, Any]:
    return yaml.safe_load(RAY_UP.read_text())


def manifest(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def cluster_spec(path: Path) -> dict[str, Any]:
    found = manifest(path)
    return found["spec"]["rayClusterSpec"] if found["kind"] == "RayJob" else found["spec"]


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of a file before it talks to AWS."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    full = prepare_config(deepcopy(config))
    validate_config(full)
    return full


def test_ray_takes_the_file_for_ray_up(ray_up: dict[str, Any]):
    full = prepared(ray_up)
    assert full["available_node_types"]["head"]["max_workers"] == 0
    assert "image" not in full["docker"]


def test_a_wrong_key_would_be_refused(ray_up: dict[str, Any]):
    ray_up["available_node_types"]["gpu"]["is_spot"] = True
    with pytest.raises(jsonschema.ValidationError, match="is_spot"):
        prepared(ray_up)


def test_rays_own_autoscaler_reads_the_node_types_as_the_dry_plan_does(ray_up: dict[str, Any]):
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    theirs = AutoscalingConfig(prepared(ray_up), skip_content_hash=True).get_node_type_configs()
    for ours in read_node_types(str(RAY_UP)):
        assert theirs[ours.name].resources == ours.resources
        assert theirs[ours.name].labels == ours.labels
        assert ours.is_head or theirs[ours.name].max_worker_nodes == ours.count


def test_the_head_stays_and_gpus_are_spot(ray_up: dict[str, Any]):
    for name, node in ray_up["available_node_types"].items():
        is_spot = "InstanceMarketOptions" in node["node_config"]
        assert is_spot == ("GPU" in node["resources"])
        assert node["labels"]["ray.io/market-type"] == ("spot" if is_spot else "on-demand"), name


def test_nodes_reach_s3_by_role_and_no_file_has_a_key(ray_up: dict[str, Any]):
    assert all("IamInstanceProfile" in node["node_config"] for node in ray_up["available_node_types"].values())
    accounts = [yaml.safe_load_all((ROOT / "cluster" / "kuberay" / "access.yaml").read_text())]
    (account,) = [each for each in accounts[0] if each["kind"] == "ServiceAccount"]
    assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]
    for path in MANIFESTS:
        spec = cluster_spec(path)
        pods = [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
        assert {pod["serviceAccountName"] for pod in pods} == {account["metadata"]["name"]}
    for path in [RAY_UP, *(ROOT / "cluster").rglob("*.*")]:
        assert not re.search(r"aws_secret|AKIA|secret_?access", path.read_text(), re.IGNORECASE), path


def test_every_node_has_shared_memory_and_open_files(ray_up: dict[str, Any]):
    from hydra_ray.cluster.facts import ENOUGH_OPEN_FILES

    (limit,) = [each for each in ray_up["docker"]["run_options"] if "nofile" in each]
    assert int(limit.rsplit(":", 1)[1]) >= ENOUGH_OPEN_FILES
    options = [
        node["docker"]["worker_run_options"] for name, node in ray_up["available_node_types"].items() if name != "head"
    ]
    assert all("--shm-size" in each[0] for each in [ray_up["docker"]["head_run_options"], *options])
    for path in MANIFESTS:
        spec = cluster_spec(path)
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            (volume,) = [each for each in pod["volumes"] if each.get("emptyDir", {}).get("medium") == "Memory"]
            assert {"name": volume["name"], "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]


def test_nobody_outside_reaches_a_dashboard(ray_up: dict[str, Any]):
    assert "--dashboard-host=127.0.0.1" in ray_up["head_start_ray_commands"][-1]
    assert "--env RAY_AUTH_MODE=token" in ray_up["docker"]["run_options"]
    parameters = [cluster_spec(path)["headGroupSpec"]["rayStartParams"]["dashboard-host"] for path in MANIFESTS]
    assert parameters == ["127.0.0.1", "0.0.0.0"]  # the operator must reach the one of a job
    assert all(cluster_spec(path)["authOptions"] == {"mode": "token"} for path in MANIFESTS)
    policies = yaml.safe_load_all((ROOT / "cluster" / "kuberay" / "access.yaml").read_text())
    (policy,) = [each for each in policies if each["kind"] == "NetworkPolicy"]
    allowed = policy["spec"]["podSelector"]["matchLabels"].items()
    assert allowed <= cluster_spec(MANIFESTS[1])["headGroupSpec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kuberay_knows_every_field_of_its_manifests(path: Path):
    jsonschema.validate(manifest(path), SCHEMA)


@pytest.mark.parametrize("wrong", [{"replica": 1}, {"maxReplicas": "8"}, {"labels": {"a": 1}}])
def test_what_kuberay_would_not_know_is_refused(wrong: dict[str, Any]):
    found = manifest(MANIFESTS[0])
    found["spec"]["workerGroupSpecs"][0].update(wrong)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, SCHEMA)


def test_a_job_gets_the_same_cluster_as_the_one_that_stays():
    stays, job = map(cluster_spec, MANIFESTS)
    for spec in (stays, job):
        del spec["headGroupSpec"]["rayStartParams"]["dashboard-host"]
    assert stays == job


GPU_PLACEMENT = {"generator_actors": 8, "generator_gpus": 1, "generator_cpus": 4}


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    "placement",
    [
        {},
        GPU_PLACEMENT,
        {"generator_actors": 2, "generator_gpus": 4, "train_workers": 4, "train_gpus_per_worker": 1, "zero_stage": 2},
        {
            **GPU_PLACEMENT,
            "generator_labels": {"ray.io/market-type": "spot"},
            "step_labels": {"ray.io/market-type": "!spot"},
        },
    ],
    ids=["cpu", "gpus", "tensor-parallel", "labels"],
)
def test_runs_of_every_kind_fit_on_the_shipped_clusters(path: Path, placement: dict[str, Any]):
    config = run_config(placement=placement, users={"num_buckets": 64})
    assert not [str(each) for each in placement_findings(config, read_node_types(str(path))) if each.is_problem]


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_the_shipped_configurations_fit_on_the_shipped_clusters(path: Path):
    config = load_config(ROOT / "jobs" / "configs" / "demo.yaml")
    assert not [str(each) for each in placement_findings(config, read_node_types(str(path))) if each.is_problem]
