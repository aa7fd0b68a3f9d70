"""What KubeRay's operator (1.5.1 to 1.7.0) makes of a manifest: names, labels, and the pod that submits a RayJob.

After ray-operator/controllers/ray/common/{pod,job}.go and rayjob_controller.go.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Final

from manifests import Manifest, cluster_spec, groups

RANDOM: Final = "x7k2p"
"""The five characters that Kubernetes draws for a name."""
TOKEN_KEY: Final = "auth_token"
"""What the token's Secret calls it."""
SUBMITTER_ENVIRONMENT: Final = frozenset(
    {"PYTHONUNBUFFERED", "RAY_DASHBOARD_ADDRESS", "RAY_JOB_SUBMISSION_ID", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
)
"""Variables that the operator appends to the submitter's own."""
RESERVED_ENVIRONMENT: Final = frozenset(
    {
        "FQ_RAY_IP",
        "KUBERAY_GEN_RAY_START_CMD",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_CLOUD_INSTANCE_ID",
        "RAY_CLUSTER_NAME",
        "RAY_CLUSTER_NAMESPACE",
        "RAY_IP",
        "RAY_NODE_TYPE_NAME",
        "RAY_USAGE_STATS_EXTRA_TAGS",
    }
)
"""Variables that the operator appends to those of head and workers."""
RESERVED_LABELS: Final = frozenset(
    {
        "ray.io/cluster",
        "ray.io/group",
        "ray.io/identifier",
        "ray.io/is-ray-node",
        "ray.io/node-type",
        "ray.io/originated-from-cr-name",
        "ray.io/originated-from-crd",
        "ray.io/serve",
    }
)
"""Labels by which the operator knows its pods."""


def child_cluster_name(manifest: Manifest) -> str:
    """The RayCluster's name: its own, or what a RayJob or a RayService calls the one it starts."""
    name = manifest["metadata"]["name"]
    return name if manifest["kind"] == "RayCluster" else f"{name}-{RANDOM}"


def services(manifest: Manifest) -> set[str]:
    """Names of the services for the head."""
    return {f"{name}-head-svc" for name in (manifest["metadata"]["name"], child_cluster_name(manifest))}


def pod_labels(manifest: Manifest, group_name: str) -> dict[str, str]:
    """The labels of a group's pods: the operator's, the template's, and the group's own over both."""
    group = dict(groups(manifest))[group_name]
    return {
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
        "ray.io/cluster": child_cluster_name(manifest),
        "ray.io/group": group_name,
        "ray.io/is-ray-node": "yes",
        "ray.io/node-type": "head" if group_name == "headgroup" else "worker",
        **group["template"].get("metadata", {}).get("labels", {}),
        **group.get("labels", {}),
        **({"ray.io/serve": _is_serving(group_name)} if manifest["kind"] == "RayService" else {}),
    }


def _is_serving(group_name: str) -> str:
    """What the label says by which a RayService's pods are asked; a head's proxy must answer the operator before."""
    return "false" if group_name == "headgroup" else "true"


def submitter_pod(manifest: Manifest) -> dict[str, Any]:
    """The pod of a RayJob in K8sJobMode. Without a template of ours it has none but the operator's labels."""
    spec, cluster = manifest["spec"], cluster_spec(manifest)
    image = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    default = {"spec": {"containers": [{"name": "ray-job-submitter", "image": image}], "restartPolicy": "Never"}}
    pod = deepcopy(spec.get("submitterPodTemplate", default))
    pod.setdefault("metadata", {}).setdefault("labels", {}).update(
        {
            "ray.io/originated-from-cr-name": manifest["metadata"]["name"],
            "ray.io/originated-from-crd": "RayJob",
            "app.kubernetes.io/created-by": "kuberay-operator",
        }
    )
    container = pod["spec"]["containers"][0]
    if not container.get("command"):
        container |= {"command": ["/bin/bash", "-ce", "--"], "args": [submit_command(manifest)]}
    container["env"] = [
        *container.get("env", []),
        {"name": "PYTHONUNBUFFERED", "value": "1"},
        {"name": "RAY_DASHBOARD_ADDRESS", "value": _dashboard(manifest)},
        {"name": "RAY_JOB_SUBMISSION_ID", "value": _submission_id(manifest)},
        *_token_environment(cluster.get("authOptions", {}), child_cluster_name(manifest)),
    ]
    return pod


def submit_command(manifest: Manifest) -> str:
    """What the submitter's shell runs: wait for the dashboard without end, submit once, follow the log."""
    address, job = f"http://{_dashboard(manifest)}", _submission_id(manifest)
    health = (
        f"python -c \"import urllib.request; r=urllib.request.urlopen('{address}/api/gcs_healthz', timeout=10); "
        "exit(0 if b'success' in r.read() else 1)\""
    )
    return (
        f'until {health} >/dev/null 2>&1 ; do echo "Waiting for Ray Dashboard GCS to become healthy ..." ; '
        f"sleep 2 ; done ; if ! ray job status --address {address} {job} >/dev/null 2>&1 ; "
        f"then ray job submit --address {address} --no-wait --submission-id {job} -- "
        f"{manifest['spec']['entrypoint'].strip()} ; fi ; ray job logs --address {address} --follow {job}"
    )


def _token_environment(options: Mapping[str, Any], cluster: str) -> list[dict[str, Any]]:
    if options.get("mode") != "token":
        return []
    secret = {"name": options.get("secretName") or cluster, "key": TOKEN_KEY}
    return [
        {"name": "RAY_AUTH_MODE", "value": "token"},
        {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": secret}},
    ]


def _dashboard(manifest: Manifest) -> str:
    return f"{child_cluster_name(manifest)}-head-svc.default.svc.cluster.local:8265"


def _submission_id(manifest: Manifest) -> str:
    return f"{manifest['metadata']['name']}-{RANDOM}"
