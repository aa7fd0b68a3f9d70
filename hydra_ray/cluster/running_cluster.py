"""Checks of a running cluster: one task on each node, one worker of each kind of work."""

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from hydra_ray import storage
from hydra_ray.cluster.node_facts import NodeFacts, clock_seconds, facts_findings, gather_facts
from hydra_ray.cluster.node_types import NodeType, read_node_types
from hydra_ray.cluster.placement_plan import DRIVER, Contents, contents_of, placement_findings
from hydra_ray.cluster.versions import SOURCE, source_version
from hydra_ray.config import RunConfig
from hydra_ray.errors import ModelError
from hydra_ray.findings import Finding
from hydra_ray.models import model_identity
from hydra_ray.runs.resources import generator_bundle, step_bundle, train_bundle
from hydra_ray.storage.locations import reach

_NODE_ID = "ray.io/node-id"
_SECONDS_A_NODE = 180
"""Minimum time allowed for a node to report its facts; loading torch takes most of it."""


def plan_placement(config: RunConfig, nodes_path: str | None) -> list[Finding]:
    """Return findings on whether a run fits on the nodes of the file at `nodes_path`; by default on the running nodes.

    Raises:
        ConfigError: the file does not describe the nodes.
    """
    if nodes_path is not None:
        return placement_findings(config, read_node_types(nodes_path))
    from hydra_ray.engine.ray_connection import start_ray

    start_ray()
    return placement_findings(config, live_node_types())


def check_cluster(config: RunConfig, wait_seconds: float) -> list[Finding]:
    """Return findings on whether a run can start on the cluster that RAY_ADDRESS names, as in a submitted job.

    Args:
        wait_seconds: as for `examine_cluster`.

    Raises:
        HydraError: storage.root is not accessible from all nodes, or there is no cluster.
    """
    from hydra_ray.engine.ray_connection import start_ray

    storage.require_absolute(config.storage.root, "storage.root")
    reach(config.storage)
    start_ray()
    return examine_cluster(config, wait_seconds)


def live_node_types() -> list[NodeType]:
    """Return the types of the running nodes, the head first; equal nodes are merged. Ray must be running."""
    alike: dict[str, list[NodeType]] = {}
    for node in _alive():
        found = _node_type(node)
        alike.setdefault(found.model_dump_json(), []).append(
            found.model_copy(update={"name": node["NodeManagerAddress"]})
        )
    merged = [
        each[0].model_copy(update={"count": len(each), "name": f"{each[0].name} and alike"})
        if len(each) > 1
        else each[0]
        for each in alike.values()
    ]
    return sorted(merged, key=lambda node: not node.is_head)


def _node_type(node: Mapping[str, Any]) -> NodeType:
    """Return the type of a node listed by Ray, without its name and anything else unique to the node."""
    amounts = node["Resources"]
    return NodeType(
        name="",
        resources={each: amounts[each] for each in amounts if ":" not in each and "memory" not in each},
        labels={key: value for key, value in node["Labels"].items() if key != _NODE_ID},
        is_head="node:__internal_head__" in amounts,
    )


def examine_cluster(config: RunConfig, wait_seconds: float) -> list[Finding]:
    """Return findings on whether a run can start: each kind of work finds a place, and every node has what it needs.
    Ray must be running.

    Args:
        wait_seconds: time allowed for an autoscaler to start nodes, and for a node to fetch a model.
    """
    found = list(_placed(config, wait_seconds))
    marker = storage.join(config.storage.root, "cluster-check", uuid.uuid4().hex)
    storage.write_bytes(marker, b"written by the driver")
    try:
        facts, silent = _ask(config, marker, max(wait_seconds, _SECONDS_A_NODE))
        unseen = [each.node for each in facts if not each.storage_error and not storage.exists(f"{marker}.{each.node}")]
    finally:
        storage.remove_folder(storage.join(config.storage.root, "cluster-check"))
    found += silent
    if unseen:
        remedy = "storage.root must be one place for all: a shared folder or s3://"
        nodes = ", ".join(unseen)
        found.append(Finding(name="storage", value=f"{nodes} write elsewhere", is_problem=True, remedy=remedy))
    planned, unknown = _planned(config)
    return [*found, *unknown, *(facts_findings(facts, planned) if facts else ())]


def _placed(config: RunConfig, wait_seconds: float) -> Iterator[Finding]:
    """Yield a finding for a worker of each kind of work, started for real so that an autoscaler starts nodes for it."""
    import ray

    kinds = {
        "generator": generator_bundle(config.placement),
        "training": train_bundle(config.placement),
        "steps": step_bundle(config.placement),
    }
    started = {kind: ray.remote(**bundle.options())(_address).remote() for kind, bundle in kinds.items()}
    ready, waiting = ray.wait(list(started.values()), num_returns=len(started), timeout=wait_seconds)
    for kind, task in started.items():
        if task in ready:
            yield Finding(name=f"a place for: {kind}", value=f"found on {ray.get(task)}")
        else:
            remedy = f"it reserves {kinds[kind].options()}; see hydra-ray doctor --cluster"
            value = f"none after {wait_seconds:.0f} s"
            yield Finding(name=f"a place for: {kind}", value=value, is_problem=True, remedy=remedy)
    for task in waiting:
        ray.cancel(task)


def _planned(config: RunConfig) -> tuple[dict[str, str], list[Finding]]:
    """Return the driver's source version and model identities, and problems for models unknown to it."""
    planned = {SOURCE: source_version()}
    unknown: list[Finding] = []
    for name in config.named_models:
        try:
            planned[name] = model_identity(name)
        except ModelError as error:
            value, remedy = "not known to the driver, whose plan needs its identity", str(error)
            unknown.append(Finding(name=name, value=value, is_problem=True, remedy=remedy))
    return planned, unknown


def _ask(config: RunConfig, marker: str, seconds: float) -> tuple[list[NodeFacts], list[Finding]]:
    """Return the facts of each node, and problems for nodes that do not answer."""
    import ray
    import ray.exceptions

    here = ray.get_runtime_context().get_node_id()
    asked: dict[str, tuple[Any, Any]] = {}
    for node in _alive():
        address, num_gpus = node["NodeManagerAddress"], int(node["Resources"].get("GPU", 0))
        contents = contents_of(config, _node_type(node)) | (DRIVER if node["NodeID"] == here else Contents())
        on_it = {"num_cpus": 0, "label_selector": {_NODE_ID: node["NodeID"]}}
        task = ray.remote(num_gpus=num_gpus, **on_it)(gather_facts).remote(address, contents, marker, num_gpus)
        asked[address] = task, ray.remote(**on_it)(_clock)
    facts: list[NodeFacts] = []
    silent: list[Finding] = []
    for address, (task, clock) in asked.items():
        try:
            found: Any = ray.get(task, timeout=seconds)
            before = time.time()
            there: Any = ray.get(clock.remote(), timeout=_SECONDS_A_NODE)
            after = time.time()
            facts.append(replace(found, clock_seconds=clock_seconds(before, there, after)))
        except (ray.exceptions.RayError, TimeoutError) as error:
            remedy = f"its GPUs are in use, or it is broken: {type(error).__name__}"
            silent.append(Finding(name=f"node {address}", value="does not answer", is_problem=True, remedy=remedy))
    return facts, silent


def _clock() -> float:
    return time.time()


def _address() -> str:
    import ray.util

    return ray.util.get_node_ip_address()


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]
