"""Whether a NetworkPolicy lets a connection in, as Kubernetes' documentation says it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Pod:
    """One end of a connection."""

    labels: Mapping[str, str]
    namespace: str
    namespace_labels: Mapping[str, str] = field(default_factory=dict)

    def labels_of_namespace(self) -> dict[str, str]:
        """The API server sets the name, whatever the namespace's owner writes."""
        return {**self.namespace_labels, "kubernetes.io/metadata.name": self.namespace}


def admits(
    policy: Mapping[str, Any], source: Pod, target: Pod, port: int, *, namespace: str, protocol: str = "TCP"
) -> bool:
    """Whether the only policy of `namespace`, where it was applied, lets `source` connect to `port` of `target`."""
    spec = policy["spec"]
    is_selected = target.namespace == namespace and _matches(spec["podSelector"], target.labels)
    if not is_selected or "Ingress" not in spec.get("policyTypes", ["Ingress"]):
        return True
    return any(
        (not rule.get("from") or any(_is_peer(peer, source, namespace) for peer in rule["from"]))
        and (not rule.get("ports") or any(_is_port(each, port, protocol) for each in rule["ports"]))
        for rule in spec.get("ingress", [])
    )


def _is_peer(peer: Mapping[str, Any], source: Pod, namespace: str) -> bool:
    """Selectors of one peer hold together; without one of namespaces, only pods of the policy's own are meant."""
    if not peer or peer.keys() - {"podSelector", "namespaceSelector"}:
        raise ValueError(f"expected a podSelector or a namespaceSelector, got {dict(peer)}")
    if "namespaceSelector" not in peer:
        is_namespace = source.namespace == namespace
    else:
        is_namespace = _matches(peer["namespaceSelector"], source.labels_of_namespace())
    return is_namespace and _matches(peer.get("podSelector", {}), source.labels)


def _is_port(allowed: Mapping[str, Any], port: int, protocol: str) -> bool:
    first = allowed.get("port", port)
    return allowed.get("protocol", "TCP") == protocol and first <= port <= allowed.get("endPort", first)


def _matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """The empty selector selects everything."""
    if selector.keys() - {"matchLabels"}:
        raise ValueError(f"expected matchLabels alone, got {dict(selector)}")
    return selector.get("matchLabels", {}).items() <= labels.items()
