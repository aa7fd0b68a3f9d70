"""The manifest of the service for KubeRay, and the Serve config that it holds: what each reader makes of them."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from crds import read_schema, schema_problems
from kuberay_pods import pod_labels, services
from manifests import RAY_CLUSTER, RAY_JOB, RAY_SERVICE, changed, cluster_spec, groups, pods, read, read_access
from network_policy import Pod, admits

pytestmark = pytest.mark.filterwarnings("default")  # what imports Ray Serve uses what others have deprecated
SERVE = Path(__file__).parents[2] / "cluster" / "serve.yaml"
SERVICE = read(RAY_SERVICE, "RayService")
POLICIES = [read_access("NetworkPolicy"), read(RAY_SERVICE, "NetworkPolicy")]
CRDS = Path(os.environ.get("HYDRA_KUBERAY_CRDS", ""))
HAS_CRDS = {plural: any(CRDS.glob(f"ray.io_{plural}.yaml*")) for plural in ("rayclusters", "rayservices")}
HOME, SERVE_PORT, DASHBOARD, GCS = "team-a", 8000, 8265, 6379
HEAD, WORKER = (Pod(labels=pod_labels(SERVICE, name), namespace=HOME) for name, _ in groups(SERVICE))
OPERATOR = Pod(labels={"app.kubernetes.io/name": "kuberay-operator"}, namespace="kuberay-system")
GATEWAY = Pod(labels={"app": "gateway", "hydra-ray/asks": "true"}, namespace=HOME)


def applications(text: str) -> dict[str, Any]:
    """A Serve config as Serve reads it, field by field."""
    schema = pytest.importorskip("ray.serve.schema")
    return schema.ServeDeploySchema.model_validate(yaml.safe_load(text)).model_dump(exclude_unset=True)


def is_let_in(source: Pod, port: int, target: Pod) -> bool:
    """Policies add up: what one of those that select a pod admits, is let in."""
    selecting = [
        each for each in POLICIES if each["spec"]["podSelector"]["matchLabels"].items() <= target.labels.items()
    ]
    return not selecting or any(admits(each, source, target, port, namespace=HOME) for each in selecting)


@pytest.mark.skipif(not HAS_CRDS["rayservices"], reason="HYDRA_KUBERAY_CRDS has no definition of a RayService")
def test_the_api_server_knows_every_field_of_the_service():
    schema = read_schema(CRDS, "rayservices")
    assert schema_problems(SERVICE, schema) == []
    (found,) = schema_problems(changed(SERVICE, {("spec", "serveConfig"): "a"}), schema)
    assert "'serveConfig' was unexpected" in found


@pytest.mark.skipif(not HAS_CRDS["rayclusters"], reason="HYDRA_KUBERAY_CRDS names no folder with KubeRay's definitions")
def test_the_api_server_knows_every_field_of_its_cluster():
    cluster = {**read(RAY_CLUSTER), "spec": cluster_spec(SERVICE)}
    assert schema_problems(cluster, read_schema(CRDS, "rayclusters")) == []


def test_serve_takes_both_configs_and_they_are_the_same_but_for_the_host_and_the_spread():
    alone, held = applications(SERVE.read_text()), applications(SERVICE["spec"]["serveConfigV2"])
    # Only inside a pod, whose network a policy guards, it listens to more than the loopback.
    assert (alone["http_options"].pop("host"), held["http_options"].pop("host")) == ("127.0.0.1", "0.0.0.0")
    # On one machine both replicas are on it.
    assert held["applications"][0]["deployments"][0].pop("max_replicas_per_node") == 1
    assert alone == held


def test_replicas_fit_on_the_workers_and_none_on_the_head():
    (deployment,) = applications(SERVICE["spec"]["serveConfigV2"])["applications"][0]["deployments"]
    (_, head), (_, workers) = groups(SERVICE)
    assert head["resources"] == {"CPU": "0"}
    assert SERVICE["spec"]["excludeHeadPodFromServeSvc"]
    (container,) = workers["template"]["spec"]["containers"]
    assert deployment["ray_actor_options"]["num_cpus"] <= int(container["resources"]["limits"]["cpu"])
    assert deployment["num_replicas"] <= workers["minReplicas"]


def test_its_pods_are_like_those_of_runs():
    for name, template in pods(SERVICE):
        spec = template["spec"]
        (container,) = spec["containers"]
        assert spec["serviceAccountName"] == read_access("ServiceAccount")["metadata"]["name"]
        assert container["resources"]["requests"] == container["resources"]["limits"], name
        assert container["image"] == "REGISTRY/hydra-ray:cpu"
        assert {"containerPort": SERVE_PORT, "name": "serve"} in container["ports"]
        assert {"name": "cache", "mountPath": "/home/ray/.cache"} in container["volumeMounts"]
    assert cluster_spec(SERVICE)["rayVersion"] == version("ray")
    assert cluster_spec(SERVICE)["authOptions"] == {"mode": "token"}


def test_it_can_run_beside_runs():
    assert not services(SERVICE) & (services(read(RAY_CLUSTER)) | services(read(RAY_JOB)))


def test_only_labelled_pods_of_the_namespace_may_ask_and_nothing_else():
    assert is_let_in(GATEWAY, SERVE_PORT, WORKER)
    assert not any(is_let_in(GATEWAY, port, WORKER) for port in (GCS, DASHBOARD, 8080))
    assert not any(is_let_in(GATEWAY, port, HEAD) for port in (SERVE_PORT, DASHBOARD, GCS))
    others = (Pod(labels={"app": "web"}, namespace=HOME), Pod(labels=GATEWAY.labels, namespace="team-b"), OPERATOR)
    assert not any(is_let_in(other, SERVE_PORT, WORKER) for other in others)


def test_the_operator_reaches_the_dashboard_that_it_deploys_through():
    assert is_let_in(OPERATOR, DASHBOARD, HEAD)
    assert groups(SERVICE).__next__()[1]["rayStartParams"]["dashboard-host"] == "0.0.0.0"
    assert all(is_let_in(source, port, HEAD) for source in (HEAD, WORKER) for port in (GCS, DASHBOARD))
