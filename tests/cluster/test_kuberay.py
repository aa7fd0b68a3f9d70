"""The manifests for KubeRay: what the API server, the scheduler and Ray's autoscaler make of them."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from crds import at, read_schema, schema_problems
from kuberay_pods import services
from manifests import (
    FOLDER,
    GONE,
    RAY_CLUSTER,
    RAY_JOB,
    changed,
    cluster_spec,
    groups,
    in_cluster,
    pods,
    read,
    read_access,
)

from hydra_ray.cluster.node_types import read_node_types

BOTH = pytest.mark.parametrize("path", [RAY_CLUSTER, RAY_JOB], ids=lambda path: path.name)
CRDS = os.environ.get("HYDRA_KUBERAY_CRDS", "")
needs_crds = pytest.mark.skipif(not CRDS, reason="HYDRA_KUBERAY_CRDS names no folder with KubeRay's definitions")
PLURALS = {"RayCluster": "rayclusters", "RayJob": "rayjobs"}
GIB = 1 << 30
ROOM_BESIDE_THE_CACHE = 30 * GIB
"""For what Ray spills and logs, and what is collected before it goes to the store."""


def server_problems(manifest: dict[str, Any]) -> list[str]:
    return schema_problems(manifest, read_schema(Path(CRDS), PLURALS[manifest["kind"]]))


def quantity(text: str) -> int:
    """Bytes, of a number with a binary suffix."""
    return int(text[:-2]) << {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}[text[-2:]]


@needs_crds
@BOTH
def test_the_api_server_knows_every_field_of_a_manifest(path: Path):
    assert server_problems(read(path)) == []


@needs_crds
@BOTH
@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("workerGroupSpecs", 0, "replica"), 1, "'replica' was unexpected"),
        (("workerGroupSpecs", 0, "maxReplicas"), "8", "is not of type 'integer'"),
        (("workerGroupSpecs", 0, "groupName"), GONE, "'groupName' is a required property"),
        (("workerGroupSpecs", 0, "labels"), {"a": 1}, "is not of type 'string'"),
        (("autoscalerOptions", "version"), "v3", "is not one of"),
        (("authOptions", "mode"), "password", "is not one of"),
        (("headGroupSpec", "template", "spec", "containers", 0, "memory"), "1Gi", "'memory' was unexpected"),
        (("headGroupSpec", "template", "spec", "containers", 0, "resources", "limits", "cpu"), "4 cores", "not match"),
        (("headGroupSpec", "template", "spec", "containers", 0, "ports", 2, "containerPort"), 8265, "stands there 2"),
        (("headGroupSpec", "rayStartParams", "metrics-export-port"), 8080, "is not of type 'string'"),
        (("headGroupSpec", "template", "metadata", "label"), {}, "'label' was unexpected"),
    ],
    ids=lambda case: case[-1] if isinstance(case, tuple) else None,
)
def test_what_the_api_server_would_not_take_is_told(path: Path, place: tuple[Any, ...], value: object, words: str):
    (found,) = server_problems(in_cluster(read(path), {place: value}))
    assert words in found


@needs_crds
@pytest.mark.parametrize("place", [("metadata", "nam"), ("spec", "submitterPod"), ("spec", "submitterConfig", "limit")])
def test_an_unknown_field_of_a_job_is_told(place: tuple[str, ...]):
    (found,) = server_problems(changed(read(RAY_JOB), {place: 1}))
    assert f"'{place[-1]}' was unexpected" in found


@needs_crds
def test_the_rules_of_the_network_policy_are_those_of_kubernetes():
    """The definition of a RayCluster holds the same type, for policies that the operator makes."""
    schema = read_schema(Path(CRDS), "rayclusters")
    if "networkPolicy" not in at(schema, "spec")["properties"]:
        pytest.skip("only KubeRay 1.7 and newer know it")
    rules = at(schema, "spec", "networkPolicy", "head", "ingressRules")
    policy = read_access("NetworkPolicy")
    assert (policy["apiVersion"], policy["spec"].keys()) == (
        "networking.k8s.io/v1",
        {"podSelector", "policyTypes", "ingress"},
    )
    assert schema_problems(policy["spec"]["ingress"], rules) == []
    policy["spec"]["ingress"][1]["from"][0]["namespace"] = "kuberay-system"
    assert len(schema_problems(policy["spec"]["ingress"], rules)) == 1


def test_every_pod_runs_as_the_account_whose_role_reaches_the_store():
    account = read_access("ServiceAccount")
    assert account["apiVersion"] == "v1"
    assert account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")
    for path in (RAY_CLUSTER, RAY_JOB):
        used = {name: template["spec"].get("serviceAccountName") for name, template in pods(read(path))}
        # The submitter asks neither the store nor the API server.
        assert used.pop("submitter", None) is None
        assert set(used.values()) == {account["metadata"]["name"]}
    (submitter,) = [template["spec"] for name, template in pods(read(RAY_JOB)) if name == "submitter"]
    assert submitter["automountServiceAccountToken"] is False


def test_a_job_gets_the_same_cluster_as_the_one_that_stays():
    stays, job = (cluster_spec(read(path)) for path in (RAY_CLUSTER, RAY_JOB))
    # The operator and the submitter must reach the dashboard of a job.
    hosts = [spec["headGroupSpec"]["rayStartParams"].pop("dashboard-host") for spec in (stays, job)]
    assert hosts == ["127.0.0.1", "0.0.0.0"]
    assert stays == job


def test_a_job_can_run_beside_the_cluster_that_stays():
    assert not services(read(RAY_CLUSTER)) & services(read(RAY_JOB))


def test_a_job_that_waits_or_fails_comes_to_an_end():
    spec = read(RAY_JOB)["spec"]
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["shutdownAfterJobFinishes"]
    assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    assert spec["backoffLimit"] > 0
    assert spec["submitterConfig"]["backoffLimit"] > 0


@BOTH
def test_disk_that_a_pod_reserves_holds_its_cache_and_what_else_it_writes(path: Path):
    for name, group in groups(read(path)):
        pod = group["template"]["spec"]
        (container,), volumes = pod["containers"], {each["name"]: each["emptyDir"] for each in pod["volumes"]}
        assert {"name": "cache", "mountPath": "/home/ray/.cache"} in container["volumeMounts"], name
        reserved = quantity(container["resources"]["requests"]["ephemeral-storage"])
        assert quantity(volumes["cache"]["sizeLimit"]) + ROOM_BESIDE_THE_CACHE <= reserved, name
        assert container["resources"]["requests"] == container["resources"]["limits"], name


@BOTH
def test_shared_memory_holds_the_object_store_and_leaves_the_rest_to_processes(path: Path):
    for name, group in groups(read(path)):
        pod = group["template"]["spec"]
        (volume,) = [each for each in pod["volumes"] if each["emptyDir"].get("medium") == "Memory"]
        assert {"name": volume["name"], "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]
        memory = quantity(pod["containers"][0]["resources"]["limits"]["memory"])
        assert 0.3 * memory <= quantity(volume["emptyDir"]["sizeLimit"]) <= 0.4 * memory, name


@BOTH
def test_what_is_paid_by_the_hour_is_spot_and_the_rest_stays(path: Path):
    manifest = read(path)
    for name, group in groups(manifest):
        is_gpu = "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert group["labels"]["ray.io/market-type"] == ("spot" if is_gpu else "on-demand"), name
        assert group["template"]["spec"]["containers"][0]["image"].endswith(":cuda" if is_gpu else ":cpu"), name
    for name, template in pods(manifest):
        capacity = template["spec"]["nodeSelector"]["eks.amazonaws.com/capacityType"]
        assert capacity == ("SPOT" if name.startswith("gpu") else "ON_DEMAND"), name


@BOTH
def test_rays_own_autoscaler_reads_the_groups_as_the_dry_plan_does(path: Path):
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    metadata = {"name": "hydra-ray", "namespace": "default"}
    theirs = _derive_autoscaling_config_from_ray_cr({"metadata": metadata, "spec": cluster_spec(read(path))})
    assert theirs["idle_timeout_minutes"] == 10
    types = theirs["available_node_types"]
    for ours in read_node_types(str(path)):
        group = types["headgroup" if ours.is_head else ours.name]
        assert {each: amount for each, amount in group["resources"].items() if each != "memory"} == ours.resources
        assert group["labels"] == ours.labels
        assert ours.is_head or group["max_workers"] == ours.count


@BOTH
def test_the_stated_ray_is_the_one_that_is_installed(path: Path):
    from importlib.metadata import version

    assert cluster_spec(read(path))["rayVersion"] == version("ray")


def test_models_may_be_brought_from_a_hub():
    for path in FOLDER.glob("*.yaml"):
        assert "HF_HUB_OFFLINE" not in path.read_text()


def test_the_parts_of_access_are_applied_with_any_manifest():
    """They are in the namespace that is applied to, as the manifests are."""
    objects = [*yaml.safe_load_all((FOLDER / "access.yaml").read_text()), read(RAY_CLUSTER), read(RAY_JOB)]
    assert all("namespace" not in each["metadata"] for each in objects)
    assert all(first["kind"] != second["kind"] for first, second in pairwise(objects))
