"""Node types of a cluster, read from the file that it is started from or from a plain list."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeFloat

from hydra_ray.config import LabelKey, Section, check_settings
from hydra_ray.config.yaml_documents import read_manifests
from hydra_ray.errors import ConfigError
from hydra_ray.runs.resources import is_allowed

GPU_LIMIT = "nvidia.com/gpu"
"""Name of GPUs in a Kubernetes container's limits."""


class NodeType(Section):
    """A type of equal nodes."""

    name: str
    resources: dict[str, NonNegativeFloat]
    """Resources of each node, by Ray's names: CPU, GPU, custom ones."""
    labels: dict[LabelKey, str] = Field(default_factory=dict)
    count: int = Field(default=1, ge=0)
    """Maximum number of such nodes."""
    is_head: bool = False
    """Whether it is the node on which a submitted job's driver runs by default."""

    def amount(self, resource: str) -> float:
        """Return the amount of a resource per node."""
        return self.resources.get(resource, 0)

    def matches(self, selectors: Mapping[str, str]) -> bool:
        """Return whether Ray's label `selectors` allow these nodes."""
        return all(is_allowed(self.labels.get(key), selector) for key, selector in selectors.items())

    def __str__(self) -> str:
        amounts = ", ".join(f"{name} {amount:g}" for name, amount in self.resources.items()) or "nothing for work"
        labels = "".join(f" {key}={value}" for key, value in self.labels.items())
        return f"{self.count} x {amounts}{labels}"


def read_node_types(path: str) -> list[NodeType]:
    """Return the node types in the YAML file at `path`, the head first.

    The file is a configuration of `ray up`, a manifest with a RayCluster or a RayJob, or a list `nodes` of `NodeType`s.

    Raises:
        ConfigError: the file cannot be read, is none of these, or does not state the nodes' resources.
    """
    try:
        documents = read_manifests(Path(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the nodes in {path}: {error}") from error
    try:
        found = [node for document in documents for node in _of_document(document)]
    except ConfigError as error:
        raise ConfigError(f"{path} does not state the resources of its nodes: {error}") from error
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path} does not state the resources of its nodes: {error!r}") from error
    if not found:
        raise ConfigError(
            f"{path} names no nodes: expected available_node_types (ray up), a RayCluster or RayJob, or a list `nodes` "
            "of {name, resources, labels, count, is_head}"
        )
    return sorted(found, key=lambda node: not node.is_head)


def _of_document(document: Mapping[str, Any]) -> Iterator[NodeType]:
    if "available_node_types" in document:
        yield from _of_ray_up(document)
    elif document.get("kind") in ("RayCluster", "RayJob"):
        spec = document["spec"]
        yield from _of_kuberay(spec["rayClusterSpec"] if document["kind"] == "RayJob" else spec)
    else:
        yield from (_node(each) for each in document.get("nodes", ()))


def _node(settings: Mapping[str, Any]) -> NodeType:
    return check_settings(NodeType, settings, source="a node type")


def _of_ray_up(document: Mapping[str, Any]) -> Iterator[NodeType]:
    """Yield the node types of a `ray up` file; as in Ray, a type's `max_workers` defaults to the cluster's."""
    for name, node in document["available_node_types"].items():
        if "CPU" not in node["resources"]:
            raise ValueError(f"{name} states no CPUs; state them under resources")
        is_head = name == document["head_node_type"]
        count = 1 if is_head else min(node.get("max_workers", document["max_workers"]), document["max_workers"])
        labels = node.get("labels", {})
        yield _node(
            {"name": name, "resources": node["resources"], "labels": labels, "count": count, "is_head": is_head}
        )


def _of_kuberay(spec: Mapping[str, Any]) -> Iterator[NodeType]:
    yield _of_group("head", spec["headGroupSpec"], 1, is_head=True)
    for group in spec["workerGroupSpecs"]:
        yield _of_group(group["groupName"], group, group["maxReplicas"], is_head=False)


def _of_group(name: str, group: Mapping[str, Any], count: int, *, is_head: bool) -> NodeType:
    """Return the node type of a KubeRay group; resources stated for Ray take precedence over the container's limits."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    resources = {"CPU": _quantity(limits["cpu"]), "GPU": _quantity(limits.get(GPU_LIMIT, 0))}
    stated = {each: _quantity(amount) for each, amount in group.get("resources", {}).items()}
    resources = {each: amount for each, amount in {**resources, **stated}.items() if amount or each == "CPU"}
    labels = group.get("labels", {})
    return _node({"name": name, "resources": resources, "labels": labels, "count": count, "is_head": is_head})


def _quantity(text: str | float) -> float:
    """Return a Kubernetes quantity of CPUs or GPUs as a number: `500m` is a half."""
    text = str(text)
    return float(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)
