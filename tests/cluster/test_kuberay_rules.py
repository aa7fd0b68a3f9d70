"""Each rule of the operator refuses a manifest that breaks it, and the shipped ones break none."""

from pathlib import Path
from typing import Any

import kuberay_rules as rules
import pytest
from kuberay_rules import RULES, Rule, problems
from manifests import GONE, RAY_CLUSTER, RAY_JOB, RAY_SERVICE, changed, in_cluster, read

HEAD = ("headGroupSpec",)
WORKER = ("workerGroupSpecs", 0)
HEAD_POD, WORKER_POD = (*HEAD, "template", "spec"), (*WORKER, "template", "spec")
Changes = dict[tuple[Any, ...], Any]


def variable(name: str, value: str = "1") -> list[dict[str, str]]:
    return [{"name": name, "value": value}]


IN_BOTH: list[tuple[Rule, Changes]] = [
    (rules.every_group_has_a_container, {(*HEAD_POD, "containers"): []}),
    (rules.every_group_has_a_container, {(*WORKER_POD, "containers"): []}),
    (rules.replicas_are_in_bounds, {(*WORKER, "minReplicas"): -1}),
    (rules.replicas_are_in_bounds, {(*WORKER, "maxReplicas"): -1}),
    (rules.replicas_are_in_bounds, {(*WORKER, "minReplicas"): 11, (*WORKER, "replicas"): 11}),
    (rules.replicas_are_in_bounds, {(*WORKER, "replicas"): 11}),
    (rules.replicas_are_in_bounds, {("enableInTreeAutoscaling",): False, (*WORKER, "maxReplicas"): GONE}),
    (rules.resources_stand_in_one_place, {(*HEAD, "rayStartParams", "num-cpus"): "0"}),
    (rules.resources_stand_in_one_place, {(*HEAD, "rayStartParams", "resources"): '"{}"'}),
    (
        rules.resources_stand_in_one_place,
        {(*WORKER, "rayStartParams", "num-gpus"): "1", (*WORKER, "resources"): {"GPU": "1"}},
    ),
    (
        rules.resources_stand_in_one_place,
        {(*WORKER, "rayStartParams", "memory"): "9", (*WORKER, "resources"): {"CPU": "1"}},
    ),
    (rules.labels_stand_in_the_group_and_are_those_of_kubernetes, {(*HEAD, "rayStartParams", "labels"): "a=b"}),
    (rules.labels_stand_in_the_group_and_are_those_of_kubernetes, {(*WORKER, "rayStartParams", "labels"): "a=b"}),
    (rules.labels_stand_in_the_group_and_are_those_of_kubernetes, {(*WORKER, "labels", "a/b/c"): "d"}),
    (rules.labels_stand_in_the_group_and_are_those_of_kubernetes, {(*WORKER, "labels", "/b"): "c"}),
    (rules.labels_stand_in_the_group_and_are_those_of_kubernetes, {(*WORKER, "labels", "kind"): "in(a, b)"}),
    (rules.labels_stand_in_the_group_and_are_those_of_kubernetes, {(*WORKER, "labels", "kind"): "v" * 64}),
    (
        rules.idle_times_are_not_negative_and_those_of_groups_need_autoscaler_v2,
        {("autoscalerOptions", "idleTimeoutSeconds"): -1},
    ),
    (
        rules.idle_times_are_not_negative_and_those_of_groups_need_autoscaler_v2,
        {(*WORKER, "idleTimeoutSeconds"): 60, ("autoscalerOptions", "version"): "v1"},
    ),
    (
        rules.priorities_need_autoscaler_v2_and_a_ray_that_knows_them,
        {(*WORKER, "priority"): 1, ("rayVersion",): "2.55.1"},
    ),
    (
        rules.priorities_need_autoscaler_v2_and_a_ray_that_knows_them,
        {(*WORKER, "priority"): 1, ("autoscalerOptions", "version"): GONE},
    ),
    (rules.redis_is_set_by_the_options_for_it, {(*HEAD_POD, "containers", 0, "env"): variable("RAY_REDIS_ADDRESS")}),
    (rules.redis_is_set_by_the_options_for_it, {(*HEAD, "rayStartParams", "redis-username"): "a"}),
    (rules.redis_is_set_by_the_options_for_it, {("gcsFaultToleranceOptions", "backend"): "rocksdb"}),
    (
        rules.redis_is_set_by_the_options_for_it,
        {("gcsFaultToleranceOptions", "redisAddress"): "a", (*HEAD, "rayStartParams", "redis-password"): "b"},
    ),
    (rules.no_group_is_suspended, {(*WORKER, "suspend"): True}),
    (rules.the_autoscalers_version_is_set_once, {(*HEAD_POD, "containers", 0, "env"): variable(rules.V2_VARIABLE)}),
    (
        rules.the_autoscalers_version_is_set_once,
        {
            ("enableInTreeAutoscaling",): False,
            ("autoscalerOptions",): GONE,
            (*HEAD_POD, "containers", 0, "env"): variable(rules.V2_VARIABLE, "true"),
        },
    ),
    (
        rules.the_autoscalers_version_is_set_once,
        {("autoscalerOptions", "env"): variable("KUBERAY_GEN_AUTOSCALER_START_CMD")},
    ),
    (rules.autoscaler_v2_restarts_no_pod, {(*HEAD_POD, "restartPolicy"): "Always"}),
    (rules.autoscaler_v2_restarts_no_pod, {(*WORKER_POD, "restartPolicy"): "OnFailure"}),
    (rules.token_authentication_needs_a_stated_ray_that_has_it, {("rayVersion",): GONE}),
    (rules.token_authentication_needs_a_stated_ray_that_has_it, {("rayVersion",): "2.51.9"}),
    (rules.token_authentication_needs_a_stated_ray_that_has_it, {("rayVersion",): "nightly"}),
    (
        rules.token_authentication_needs_a_stated_ray_that_has_it,
        {("authOptions", "enableK8sTokenAuth"): True, ("authOptions", "secretName"): "a"},
    ),
    (
        rules.token_authentication_needs_a_stated_ray_that_has_it,
        {("authOptions",): {"mode": "disabled", "enableK8sTokenAuth": True}},
    ),
    (rules.nothing_needs_a_feature_gate, {("networkPolicy", "mode"): "DenyAllIngress"}),
    (rules.nothing_needs_a_feature_gate, {("historyServerOptions",): {}}),
    (rules.only_a_cluster_of_its_own_is_upgraded, {("upgradeStrategy", "type"): "NewCluster"}),
    (rules.generated_names_are_whole, {(*WORKER, "groupName"): "GPU"}),
    (rules.generated_names_are_whole, {(*WORKER, "groupName"): "gpu"}),
    (rules.generated_names_are_whole, {(*WORKER, "groupName"): "g" * 45}),
    (rules.what_the_operator_sets_is_not_set_here, {(*HEAD_POD, "containers", 0, "env"): variable("RAY_AUTH_TOKEN")}),
    (
        rules.what_the_operator_sets_is_not_set_here,
        {(*WORKER, "template", "metadata", "labels", "ray.io/group"): "cpu"},
    ),
]
"""A rule, and changes of the cluster's specification that break it."""

IN_JOBS: list[tuple[Rule, Changes]] = [
    (rules.the_name_is_a_short_dns_label, {("metadata", "name"): "n" * 48}),
    (rules.the_name_is_a_short_dns_label, {("metadata", "name"): "1-run"}),
    (rules.only_a_cluster_of_its_own_is_upgraded, {("spec", "rayClusterSpec", "upgradeStrategy", "type"): "Recreate"}),
    (
        rules.token_authentication_needs_a_stated_ray_that_has_it,
        {("spec", "rayClusterSpec", "authOptions", "enableK8sTokenAuth"): True},
    ),
    (
        rules.a_suspended_job_shuts_its_own_cluster_down,
        {("spec", "suspend"): True, ("spec", "shutdownAfterJobFinishes"): False},
    ),
    (
        rules.a_suspended_job_shuts_its_own_cluster_down,
        {("spec", "suspend"): True, ("spec", "clusterSelector"): {"ray.io/cluster": "a"}},
    ),
    (rules.a_time_to_live_needs_a_shutdown, {("spec", "shutdownAfterJobFinishes"): False}),
    (rules.a_time_to_live_needs_a_shutdown, {("spec", "ttlSecondsAfterFinished"): -1}),
    (rules.nothing_beside_the_shutdown_says_what_is_deleted, {("spec", "deletionStrategy"): {"deletionRules": []}}),
    (rules.a_job_has_one_cluster_or_selects_one, {("spec", "rayClusterSpec"): GONE}),
    (rules.a_job_has_one_cluster_or_selects_one, {("spec", "clusterSelector"): {"ray.io/cluster": "a"}}),
    (rules.a_job_has_one_cluster_or_selects_one, {("spec", "clusterSelector"): {"ray.io/cluster": ""}}),
    (rules.a_job_has_one_cluster_or_selects_one, {("spec", "submissionMode"): "InteractiveMode"}),
    (rules.a_sidecar_submits_without_a_pod_of_its_own, {("spec", "submissionMode"): "SidecarMode"}),
    (rules.deadlines_are_positive, {("spec", "activeDeadlineSeconds"): 0}),
    (rules.deadlines_are_positive, {("spec", "preRunningDeadlineSeconds"): 0}),
    (rules.deadlines_are_positive, {("spec", "backoffLimit"): -1}),
    (rules.deadlines_are_positive, {("spec", "submitterConfig", "backoffLimit"): -1}),
    (rules.the_runtime_environment_is_yaml, {("spec", "runtimeEnvYAML"): "a: ["}),
    (rules.the_runtime_environment_is_yaml, {("spec", "runtimeEnvYAML"): "just words"}),
    (rules.a_kubernetes_job_can_submit, {("spec", "entrypoint"): " "}),
    (rules.a_kubernetes_job_can_submit, {("spec", "submitterPodTemplate", "spec", "containers"): []}),
    (rules.a_kubernetes_job_can_submit, {("spec", "submitterPodTemplate", "spec", "restartPolicy"): GONE}),
    (
        rules.what_the_operator_sets_is_not_set_here,
        {("spec", "submitterPodTemplate", "spec", "containers", 0, "env"): variable("RAY_AUTH_TOKEN")},
    ),
]
"""A rule, and changes of a RayJob that break it."""

IN_SERVICES: list[tuple[Rule, Changes]] = [
    (rules.the_name_is_a_short_dns_label, {("metadata", "name"): "n" * 48}),
    (
        rules.token_authentication_needs_a_stated_ray_that_has_it,
        {("spec", "rayClusterConfig", "authOptions", "enableK8sTokenAuth"): True},
    ),
    (
        rules.a_service_upgrades_in_a_way_that_is_on,
        {("spec", "upgradeStrategy", "type"): "NewClusterWithIncrementalUpgrade"},
    ),
    (rules.a_service_upgrades_in_a_way_that_is_on, {("spec", "rayClusterDeletionDelaySeconds"): -1}),
    (
        rules.the_operator_names_the_service_of_a_services_head,
        {("spec", "rayClusterConfig", "headGroupSpec", "headService", "metadata", "name"): "a"},
    ),
    (
        rules.what_the_operator_sets_is_not_set_here,
        {("spec", "rayClusterConfig", *WORKER, "template", "metadata", "labels", "ray.io/serve"): "true"},
    ),
]
"""A rule, and changes of a RayService that break it."""


def named(case: object) -> str | None:
    return case.__name__ if callable(case) else None


@pytest.mark.parametrize("path", [RAY_CLUSTER, RAY_JOB], ids=lambda path: path.name)
def test_the_operator_takes_a_shipped_manifest(path: Path):
    assert problems(read(path)) == {}


def test_the_operator_takes_the_shipped_service():
    assert problems(read(RAY_SERVICE, "RayService")) == {}


@pytest.mark.parametrize(("rule", "changes"), IN_SERVICES, ids=named)
def test_a_service_that_breaks_a_rule_is_refused_by_it(rule: Rule, changes: Changes):
    assert rule.__name__ in problems(changed(read(RAY_SERVICE, "RayService"), changes))


@pytest.mark.parametrize("path", [RAY_CLUSTER, RAY_JOB], ids=lambda path: path.name)
@pytest.mark.parametrize(("rule", "changes"), IN_BOTH, ids=named)
def test_a_cluster_that_breaks_a_rule_is_refused_by_it(rule: Rule, changes: Changes, path: Path):
    assert rule.__name__ in problems(in_cluster(read(path), changes))


@pytest.mark.parametrize(("rule", "changes"), IN_JOBS, ids=named)
def test_a_job_that_breaks_a_rule_is_refused_by_it(rule: Rule, changes: Changes):
    assert rule.__name__ in problems(changed(read(RAY_JOB), changes))


def test_a_cluster_with_a_long_or_strange_name_is_refused():
    for name in ("n" * 54, "Hydra", "hydra_ray", "-hydra"):
        found = problems(changed(read(RAY_CLUSTER), {("metadata", "name"): name}))
        assert rules.the_name_is_a_short_dns_label.__name__ in found, name


def test_every_rule_has_a_manifest_that_breaks_it():
    assert {rule for rule, _ in IN_BOTH + IN_JOBS + IN_SERVICES} == set(RULES)


def test_autoscaler_v2_by_the_variable_alone_is_taken_and_restarts_no_pod_either():
    by_variable: Changes = {
        (*HEAD_POD, "containers", 0, "env"): variable(rules.V2_VARIABLE),
        ("autoscalerOptions", "version"): GONE,
        (*WORKER, "idleTimeoutSeconds"): 60,
    }
    assert problems(in_cluster(read(RAY_CLUSTER), by_variable)) == {}
    restarted = in_cluster(read(RAY_CLUSTER), by_variable | {(*WORKER_POD, "restartPolicy"): "Always"})
    assert list(problems(restarted)) == [rules.autoscaler_v2_restarts_no_pod.__name__]
