"""The files of cluster/kuberay, and copies of them with something changed."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parents[2] / "cluster" / "kuberay"
RAY_CLUSTER, RAY_JOB, RAY_SERVICE, ACCESS = (
    FOLDER / name for name in ("raycluster.yaml", "rayjob.yaml", "rayservice.yaml", "access.yaml")
)
CLUSTER_FIELDS: Final = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
"""Where a manifest describes the cluster that is started for it, by its kind."""
GONE: Final = object()
"""As a value in `changed`: the key is taken out."""

Manifest = dict[str, Any]


def read(path: Path, kind: str | None = None) -> Manifest:
    """The one object of a file, or the one of this kind."""
    (found,) = [each for each in yaml.safe_load_all(path.read_text()) if kind in (None, each["kind"])]
    return found


def read_access(kind: str) -> Manifest:
    return read(ACCESS, kind)


def cluster_spec(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The part that all kinds have in common; empty where a RayJob uses a cluster that is there."""
    field = CLUSTER_FIELDS.get(manifest["kind"])
    return manifest["spec"] if field is None else manifest["spec"].get(field, {})


def groups(manifest: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The head and the groups of workers, by name."""
    spec = cluster_spec(manifest)
    if "headGroupSpec" in spec:
        yield "headgroup", spec["headGroupSpec"]
    for group in spec.get("workerGroupSpecs", []):
        yield group["groupName"], group


def pods(manifest: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The template of every pod that the manifest leads to, by the name of its group."""
    for name, group in groups(manifest):
        yield name, group["template"]
    if "submitterPodTemplate" in manifest["spec"]:
        yield "submitter", manifest["spec"]["submitterPodTemplate"]


def changed(manifest: Mapping[str, Any], changes: Mapping[tuple[Any, ...], Any]) -> Manifest:
    """Return a copy in which the value at each path is another; what is on the way there is made where it lacks."""
    copy = deepcopy(dict(manifest))
    for path, value in changes.items():
        place: Any = copy
        for key in path[:-1]:
            place = place[key] if isinstance(place, list) else place.setdefault(key, {})
        if value is GONE:
            del place[path[-1]]
        else:
            place[path[-1]] = value
    return copy


def in_cluster(manifest: Mapping[str, Any], changes: Mapping[tuple[Any, ...], Any]) -> Manifest:
    """Return a copy changed as by `changed`, with paths that begin at the cluster's specification."""
    field = CLUSTER_FIELDS.get(manifest["kind"])
    start = ("spec",) if field is None else ("spec", field)
    return changed(manifest, {start + path: value for path, value in changes.items()})
