"""What KubeRay's operator (1.5.1 to 1.7.0) refuses of a RayCluster, RayJob or RayService that its CRDs allow.

Each rule is a function that tells what is wrong. The order and the words are those of the operator's own validation
(ray-operator/controllers/ray/utils/validation.go); the rules at the end are what Kubernetes or Ray refuse of what the
operator makes of the manifest. Feature gates are taken as they are by default.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import yaml
from kuberay_pods import (
    RESERVED_ENVIRONMENT,
    RESERVED_LABELS,
    SUBMITTER_ENVIRONMENT,
    child_cluster_name,
)
from manifests import Manifest, cluster_spec, groups, pods

V2_VARIABLE: Final = "RAY_enable_autoscaler_v2"
Rule = Callable[[Manifest], Iterator[str]]

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(rf"{_DNS_1123.pattern}(\.{_DNS_1123.pattern})*")
_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_VERSION = re.compile(r"v?\d+(\.\d+)+.*")
_MAX_NAME_LENGTH = {"RayCluster": 53, "RayJob": 47, "RayService": 47}


def problems(manifest: Manifest) -> dict[str, list[str]]:
    """Return what is wrong with a manifest, by the name of the rule."""
    found = {rule.__name__: list(rule(manifest)) for rule in RULES}
    return {name: messages for name, messages in found.items() if messages}


def the_name_is_a_short_dns_label(manifest: Manifest) -> Iterator[str]:
    """Names of pods and services begin with it."""
    name, most = manifest["metadata"]["name"], _MAX_NAME_LENGTH[manifest["kind"]]
    if len(name) > most:
        yield f"{manifest['kind']} name should be no more than {most} characters, got {len(name)}"
    if not _DNS_1035.fullmatch(name):
        yield f"{name} is not a DNS-1035 label"


def every_group_has_a_container(manifest: Manifest) -> Iterator[str]:
    for name, group in groups(manifest):
        if not group["template"].get("spec", {}).get("containers"):
            yield f"{name} should have at least one container"


def replicas_are_in_bounds(manifest: Manifest) -> Iterator[str]:
    is_autoscaled = cluster_spec(manifest).get("enableInTreeAutoscaling", False)
    for name, group in _workers(manifest):
        least, most, now = (group.get(key) for key in ("minReplicas", "maxReplicas", "replicas"))
        if not is_autoscaled and (least is None or most is None):
            yield f"{name} must set both minReplicas and maxReplicas"
        if any(each is not None and each < 0 for each in (least, most, now)):
            yield f"{name} has negative replicas"
        if least is not None and most is not None and not least <= (least if now is None else now) <= most:
            yield f"{name} has minReplicas {least}, replicas {now}, maxReplicas {most}"


def resources_stand_in_one_place(manifest: Manifest) -> Iterator[str]:
    for name, group in groups(manifest):
        parameters = group.get("rayStartParams", {})
        if group.get("resources") and any(
            parameters.get(each) for each in ("num-cpus", "num-gpus", "memory", "resources")
        ):
            yield f"resource fields should not be set in both rayStartParams and resources of {name}"


def labels_stand_in_the_group_and_are_those_of_kubernetes(manifest: Manifest) -> Iterator[str]:
    for name, group in groups(manifest):
        if "labels" in group.get("rayStartParams", {}):
            yield f"rayStartParams['labels'] is not supported for {name}"
        for key, value in group.get("labels", {}).items():
            prefix, _, last = key.rpartition("/")
            is_key = _is_name(last) and ("/" not in key or (_DNS_SUBDOMAIN.fullmatch(prefix) and len(prefix) <= 253))
            if not is_key or not (value == "" or _is_name(value)):
                yield f"{key}={value} of {name} is not a label"


def idle_times_are_not_negative_and_those_of_groups_need_autoscaler_v2(manifest: Manifest) -> Iterator[str]:
    spec = cluster_spec(manifest)
    if spec.get("autoscalerOptions", {}).get("idleTimeoutSeconds", 0) < 0:
        yield "autoscalerOptions.idleTimeoutSeconds must be non-negative"
    for name, group in _workers(manifest):
        if "idleTimeoutSeconds" in group and (group["idleTimeoutSeconds"] < 0 or not _has_autoscaler_v2(manifest)):
            yield f"idleTimeoutSeconds of {name} is negative or without autoscaler v2"


def priorities_need_autoscaler_v2_and_a_ray_that_knows_them(manifest: Manifest) -> Iterator[str]:
    spec = cluster_spec(manifest)
    for name, group in _workers(manifest):
        if group.get("priority") and not (_has_autoscaler_v2(manifest) and _is_at_least(spec, "2.56.0")):
            yield f"priority of {name} needs autoscaler v2 and a rayVersion of 2.56.0 or later"


def redis_is_set_by_the_options_for_it(manifest: Manifest) -> Iterator[str]:
    spec = cluster_spec(manifest)
    options, parameters = spec.get("gcsFaultToleranceOptions"), spec.get("headGroupSpec", {}).get("rayStartParams", {})
    annotations, variables = manifest["metadata"].get("annotations", {}), _head_environment(manifest)
    if "ray.io/ft-enabled" in annotations and options is not None:
        yield "ray.io/ft-enabled and gcsFaultToleranceOptions are both set"
    if options is None and annotations.get("ray.io/ft-enabled") != "true" and "RAY_REDIS_ADDRESS" in variables:
        yield "RAY_REDIS_ADDRESS is set without gcsFaultToleranceOptions"
    if "redis-username" in parameters or "REDIS_USERNAME" in variables:
        yield "the user name for Redis belongs in gcsFaultToleranceOptions"
    if options is not None:
        if "redis-password" in parameters or variables.keys() & {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"}:
            yield "Redis is set in gcsFaultToleranceOptions and beside them"
        if "ray.io/external-storage-namespace" in annotations:
            yield "ray.io/external-storage-namespace and gcsFaultToleranceOptions are both set"
        if options.get("backend", "redis") != "redis" or "storage" in options:
            yield "the backend rocksdb and its storage need the feature gate GCSFaultToleranceEmbeddedStorage"


def no_group_is_suspended(manifest: Manifest) -> Iterator[str]:
    """With the autoscaler never, and else only behind a feature gate that 1.5 has off."""
    for name, group in _workers(manifest):
        if group.get("suspend"):
            yield f"worker group {name} cannot be suspended"


def the_autoscalers_version_is_set_once(manifest: Manifest) -> Iterator[str]:
    spec, variables = cluster_spec(manifest), _head_environment(manifest)
    if not spec.get("enableInTreeAutoscaling") and variables.get(V2_VARIABLE) in ("1", "true"):
        yield f"{V2_VARIABLE} needs enableInTreeAutoscaling"
    if (
        spec.get("enableInTreeAutoscaling")
        and "version" in spec.get("autoscalerOptions", {})
        and V2_VARIABLE in variables
    ):
        yield f"both autoscalerOptions.version and {V2_VARIABLE} are set"
    if "KUBERAY_GEN_AUTOSCALER_START_CMD" in _environment(spec.get("autoscalerOptions", {})):
        yield "autoscalerOptions.env must not contain KUBERAY_GEN_AUTOSCALER_START_CMD"


def autoscaler_v2_restarts_no_pod(manifest: Manifest) -> Iterator[str]:
    spec = cluster_spec(manifest)
    for name, group in groups(manifest):
        policy = group["template"].get("spec", {}).get("restartPolicy", "Never")
        if spec.get("enableInTreeAutoscaling") and _has_autoscaler_v2(manifest) and policy != "Never":
            yield f"restartPolicy of {name} should be Never or unset"


def token_authentication_needs_a_stated_ray_that_has_it(manifest: Manifest) -> Iterator[str]:
    spec = cluster_spec(manifest)
    options = spec.get("authOptions", {})
    has_token, is_kubernetes_token = options.get("mode") == "token", options.get("enableK8sTokenAuth", False)
    if has_token and not _is_at_least(spec, "2.52.0"):
        yield f"authOptions.mode is token: rayVersion must be 2.52.0 or later, got {spec.get('rayVersion')!r}"
    if is_kubernetes_token and (not has_token or not _is_at_least(spec, "2.55.0") or options.get("secretName")):
        yield "enableK8sTokenAuth needs mode token, a rayVersion of 2.55.0 or later and no secretName"
    if is_kubernetes_token and manifest["kind"] != "RayCluster":
        yield f"enableK8sTokenAuth is not supported for {manifest['kind']}"


def nothing_needs_a_feature_gate(manifest: Manifest) -> Iterator[str]:
    spec = cluster_spec(manifest)
    for field in ("historyServerOptions", "networkPolicy", "tlsOptions"):
        if field in spec:
            yield f"{field} needs a feature gate that is off by default"


def only_a_cluster_of_its_own_is_upgraded(manifest: Manifest) -> Iterator[str]:
    kind = cluster_spec(manifest).get("upgradeStrategy", {}).get("type")
    if kind not in (None, "Recreate", "None") or (kind is not None and manifest["kind"] == "RayJob"):
        yield f"upgradeStrategy {kind} is unknown, or set in a RayJob"


def a_service_upgrades_in_a_way_that_is_on(manifest: Manifest) -> Iterator[str]:
    """Upgrades step by step are behind a feature gate; the cluster is none that is upgraded by itself."""
    spec = manifest["spec"] if manifest["kind"] == "RayService" else {}
    kind = spec.get("upgradeStrategy", {}).get("type", "NewCluster")
    if kind not in ("NewCluster", "None"):
        yield f"upgradeStrategy {kind} is unknown, or needs a feature gate that is off by default"
    if spec.get("rayClusterDeletionDelaySeconds", 0) < 0:
        yield "rayClusterDeletionDelaySeconds must not be negative"


def the_operator_names_the_service_of_a_services_head(manifest: Manifest) -> Iterator[str]:
    head = cluster_spec(manifest).get("headGroupSpec", {})
    if manifest["kind"] == "RayService" and head.get("headService", {}).get("metadata", {}).get("name"):
        yield "headGroupSpec.headService.metadata.name should not be set"


def a_suspended_job_shuts_its_own_cluster_down(manifest: Manifest) -> Iterator[str]:
    spec = _job(manifest)
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        yield "a RayJob with shutdownAfterJobFinishes set to false cannot be suspended"
    if spec.get("suspend") and spec.get("clusterSelector"):
        yield "the ClusterSelector mode doesn't support the suspend operation"


def a_time_to_live_needs_a_shutdown(manifest: Manifest) -> Iterator[str]:
    spec = _job(manifest)
    seconds = spec.get("ttlSecondsAfterFinished", 0)
    if seconds < 0 or (seconds > 0 and not spec.get("shutdownAfterJobFinishes")):
        yield "ttlSecondsAfterFinished must not be negative, and needs shutdownAfterJobFinishes"


def nothing_beside_the_shutdown_says_what_is_deleted(manifest: Manifest) -> Iterator[str]:
    """Rules for deletion exclude shutdownAfterJobFinishes, older policies are behind a feature gate in 1.5."""
    if "deletionStrategy" in _job(manifest):
        yield "deletionStrategy is refused by 1.5, and beside shutdownAfterJobFinishes"


def a_job_has_one_cluster_or_selects_one(manifest: Manifest) -> Iterator[str]:
    spec = _job(manifest)
    selector = spec.get("clusterSelector")
    if manifest["kind"] == "RayJob" and not (selector or "rayClusterSpec" in spec):
        yield "one of rayClusterSpec or clusterSelector must be set"
    if selector and (not selector.get("ray.io/cluster") or spec.get("submissionMode") == "SidecarMode"):
        yield "the cluster's name in clusterSelector is empty, or the mode is SidecarMode"
    if spec.get("backoffLimit", 0) > 0 and (selector or spec.get("submissionMode") == "InteractiveMode"):
        yield "backoffLimit is incompatible with clusterSelector and InteractiveMode"


def a_sidecar_submits_without_a_pod_of_its_own(manifest: Manifest) -> Iterator[str]:
    spec = _job(manifest)
    if spec.get("submissionMode") != "SidecarMode":
        return
    if spec.keys() & {"submitterPodTemplate", "submitterConfig"}:
        yield "SidecarMode doesn't support submitterPodTemplate or submitterConfig"
    if cluster_spec(manifest)["headGroupSpec"]["template"]["spec"].get("restartPolicy", "Never") != "Never":
        yield "restartPolicy of the head should be Never or unset in SidecarMode"


def deadlines_are_positive(manifest: Manifest) -> Iterator[str]:
    spec = _job(manifest)
    for field in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(field, 1) <= 0:
            yield f"{field} must be a positive integer"
    if min(spec.get("backoffLimit", 0), spec.get("submitterConfig", {}).get("backoffLimit", 0)) < 0:
        yield "backoffLimit must not be negative"


def the_runtime_environment_is_yaml(manifest: Manifest) -> Iterator[str]:
    try:
        found = yaml.safe_load(_job(manifest).get("runtimeEnvYAML", "{}"))
    except yaml.YAMLError as error:
        yield f"runtimeEnvYAML: {error}"
    else:
        if not isinstance(found, dict):
            yield "runtimeEnvYAML is not a mapping"


def a_kubernetes_job_can_submit(manifest: Manifest) -> Iterator[str]:
    """The operator takes the first container for the submitter; Kubernetes runs no Job whose pods always restart."""
    spec = _job(manifest)
    if manifest["kind"] != "RayJob" or spec.get("submissionMode", "K8sJobMode") != "K8sJobMode":
        return
    if not spec.get("entrypoint", "").strip():
        yield "there is no entrypoint to submit"
    template = spec.get("submitterPodTemplate", {"spec": {"containers": [{}], "restartPolicy": "Never"}})["spec"]
    if not template.get("containers"):
        yield "submitterPodTemplate should have at least one container"
    if template.get("restartPolicy") not in ("Never", "OnFailure"):
        yield "restartPolicy of the submitter should be Never or OnFailure"


def generated_names_are_whole(manifest: Manifest) -> Iterator[str]:
    """The operator cuts long names of pods and secrets off, which no one finds then; groups become labels and names."""
    names = [name for name, _ in _workers(manifest)]
    if len(set(names)) < len(names):
        yield f"two groups of workers have one name: {names}"
    for name in names:
        if not _DNS_1123.fullmatch(name):
            yield f"{name} is not a DNS-1123 label"
    for name in (child_cluster_name(manifest), *(f"{child_cluster_name(manifest)}-{group}" for group in names)):
        if len(name) > 50:
            yield f"{name} would be cut off to 50 characters"


def what_the_operator_sets_is_not_set_here(manifest: Manifest) -> Iterator[str]:
    """1.5 appends its variables without looking: Kubernetes then has two of one name."""
    for name, template in pods(manifest):
        reserved = SUBMITTER_ENVIRONMENT if name == "submitter" else RESERVED_ENVIRONMENT
        for container in template["spec"].get("containers", []):
            for taken in sorted(reserved & _environment(container).keys()):
                yield f"{taken} of {name} is set by the operator"
        for taken in sorted(RESERVED_LABELS & template.get("metadata", {}).get("labels", {}).keys()):
            yield f"the label {taken} of {name} is set by the operator"


RULES: Final[tuple[Rule, ...]] = (
    the_name_is_a_short_dns_label,
    every_group_has_a_container,
    replicas_are_in_bounds,
    resources_stand_in_one_place,
    labels_stand_in_the_group_and_are_those_of_kubernetes,
    idle_times_are_not_negative_and_those_of_groups_need_autoscaler_v2,
    priorities_need_autoscaler_v2_and_a_ray_that_knows_them,
    redis_is_set_by_the_options_for_it,
    no_group_is_suspended,
    the_autoscalers_version_is_set_once,
    autoscaler_v2_restarts_no_pod,
    token_authentication_needs_a_stated_ray_that_has_it,
    nothing_needs_a_feature_gate,
    only_a_cluster_of_its_own_is_upgraded,
    a_service_upgrades_in_a_way_that_is_on,
    the_operator_names_the_service_of_a_services_head,
    a_suspended_job_shuts_its_own_cluster_down,
    a_time_to_live_needs_a_shutdown,
    nothing_beside_the_shutdown_says_what_is_deleted,
    a_job_has_one_cluster_or_selects_one,
    a_sidecar_submits_without_a_pod_of_its_own,
    deadlines_are_positive,
    the_runtime_environment_is_yaml,
    a_kubernetes_job_can_submit,
    generated_names_are_whole,
    what_the_operator_sets_is_not_set_here,
)


def _workers(manifest: Manifest) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((group["groupName"], group) for group in cluster_spec(manifest).get("workerGroupSpecs", []))


def _job(manifest: Manifest) -> dict[str, Any]:
    """What only a RayJob has; nothing of a RayCluster."""
    return manifest["spec"] if manifest["kind"] == "RayJob" else {}


def _environment(container: Mapping[str, Any]) -> dict[str, str | None]:
    return {each["name"]: each.get("value") for each in container.get("env", [])}


def _head_environment(manifest: Manifest) -> dict[str, str | None]:
    containers = cluster_spec(manifest).get("headGroupSpec", {}).get("template", {}).get("spec", {}).get("containers")
    return _environment(containers[0]) if containers else {}


def _has_autoscaler_v2(manifest: Manifest) -> bool:
    """By the option, or by the variable of the head."""
    is_chosen = cluster_spec(manifest).get("autoscalerOptions", {}).get("version") == "v2"
    return is_chosen or _head_environment(manifest).get(V2_VARIABLE) in ("1", "true")


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and len(text) <= 63


def _is_at_least(spec: Mapping[str, Any], least: str) -> bool:
    stated = spec.get("rayVersion", "")
    if not _VERSION.fullmatch(stated):
        return False
    return [int(each) for each in re.findall(r"\d+", stated)[:3]] >= [int(each) for each in least.split(".")]
