"""Who reaches which port of the cluster's pods, by the policy in access.yaml."""

import pytest
from kuberay_pods import pod_labels, submitter_pod
from manifests import GONE, RAY_CLUSTER, RAY_JOB, changed, groups, read, read_access
from network_policy import Pod, admits

HOME = "team-a"
"""The namespace of the manifests."""
DASHBOARD, METRICS, GCS = 8265, 8080, 6379
OPERATOR_BY_HELM = {
    "app.kubernetes.io/name": "kuberay-operator",
    "app.kubernetes.io/instance": "kuberay-operator",
    "app.kubernetes.io/component": "kuberay-operator",
}
OPERATOR_BY_KUSTOMIZE = {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/component": "kuberay-operator"}
PROMETHEUS = {"app.kubernetes.io/name": "prometheus", "app.kubernetes.io/instance": "k8s"}
JOB = read(RAY_JOB)
HEAD = Pod(labels=pod_labels(JOB, "headgroup"), namespace=HOME)
WORKERS = [
    Pod(labels=pod_labels(manifest, name), namespace=HOME)
    for manifest in (JOB, read(RAY_CLUSTER))
    for name, _ in groups(manifest)
]
SUBMITTER = Pod(labels=submitter_pod(JOB)["metadata"]["labels"], namespace=HOME)


def is_let_in(source: Pod, port: int, target: Pod = HEAD) -> bool:
    return admits(read_access("NetworkPolicy"), source, target, port, namespace=HOME)


def test_head_and_workers_reach_each_other_on_every_port():
    assert all(
        is_let_in(source, port, target) for source in WORKERS for target in WORKERS for port in (GCS, 8076, 20001)
    )


def test_the_submitter_reaches_the_dashboard():
    assert is_let_in(SUBMITTER, DASHBOARD)


def test_a_submitter_with_no_labels_but_the_operators_would_wait_for_ever():
    bare = submitter_pod(changed(JOB, {("spec", "submitterPodTemplate"): GONE}))
    assert not is_let_in(Pod(labels=bare["metadata"]["labels"], namespace=HOME), DASHBOARD)


@pytest.mark.parametrize("labels", [OPERATOR_BY_HELM, OPERATOR_BY_KUSTOMIZE], ids=["helm", "kustomize"])
def test_the_operator_in_its_namespace_reaches_the_dashboard_alone(labels: dict[str, str]):
    operator = Pod(labels=labels, namespace="kuberay-system")
    assert is_let_in(operator, DASHBOARD)
    assert not any(is_let_in(operator, port) for port in (GCS, METRICS, 8076, 10001, 52365))


@pytest.mark.parametrize("labels", [OPERATOR_BY_HELM, OPERATOR_BY_KUSTOMIZE, HEAD.labels, PROMETHEUS])
@pytest.mark.parametrize("port", [DASHBOARD, GCS, METRICS])
def test_labels_alone_let_no_pod_of_another_namespace_in(labels: dict[str, str], port: int):
    faked = {"kubernetes.io/metadata.name": "kuberay-system", "name": "kuberay-system"}
    assert not is_let_in(Pod(labels=labels, namespace="team-b", namespace_labels=faked), port)


def test_a_pod_of_the_same_namespace_with_the_operators_labels_is_kept_out():
    assert not is_let_in(Pod(labels=OPERATOR_BY_HELM, namespace=HOME), DASHBOARD)


def test_others_in_the_namespaces_that_are_let_in_are_kept_out():
    assert not is_let_in(Pod(labels={"app": "web"}, namespace="kuberay-system"), DASHBOARD)
    assert not is_let_in(Pod(labels={"app": "grafana"}, namespace="monitoring"), METRICS)


def test_prometheus_reads_metrics_of_every_node_and_nothing_else():
    prometheus = Pod(labels=PROMETHEUS, namespace="monitoring")
    assert all(is_let_in(prometheus, METRICS, target) for target in WORKERS)
    assert not any(is_let_in(prometheus, port) for port in (DASHBOARD, GCS, 52365))


def test_the_metrics_that_prometheus_may_read_are_where_every_node_has_them():
    for manifest in (JOB, read(RAY_CLUSTER)):
        for name, group in groups(manifest):
            assert group["rayStartParams"]["metrics-export-port"] == str(METRICS), name
            (container,) = group["template"]["spec"]["containers"]
            assert {"containerPort": METRICS, "name": "metrics"} in container["ports"], name


def test_every_shipped_pod_is_selected_and_others_of_the_namespace_stay_open():
    stranger = Pod(labels={"app": "web"}, namespace="team-b")
    assert is_let_in(stranger, DASHBOARD, Pod(labels={"app": "other"}, namespace=HOME))
    assert not any(is_let_in(stranger, DASHBOARD, target) for target in (*WORKERS, SUBMITTER))
