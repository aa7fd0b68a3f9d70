"""Ray's autoscaler with the node types of ray_cluster.yaml and a provider whose nodes are processes on the head."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from builders import run_config
from namespaces import can_have_namespaces, lan

from hydra_ray.cluster.node_types import read_node_types
from hydra_ray.cluster.placement_plan import placement_findings

ROOT = Path(__file__).parents[2]
HEAD_ID = "f" * 51 + "00000"
HEAD_TYPE = "ray.head.default"  # what the provider takes for granted
PROVIDER = {
    "type": "external",
    "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
    "disable_node_updaters": True,
    "launch_multiple": True,
    "head_node_id": HEAD_ID,
    "gcs_address": "10.77.0.1:6379",
}
STARTED_BY = {
    "RAY_enable_autoscaler_v2": "1",  # as in ray_cluster.yaml
    "RAY_FAKE_CLUSTER": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}
PLACEMENT = {
    "generator_gpus": 1,
    "generator_labels": {"ray.io/market-type": "spot"},
    "step_labels": {"ray.io/market-type": "!spot"},
    "train_labels": {"ray.io/market-type": "!spot"},
}

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not can_have_namespaces(), reason="needs the right to make network and process namespaces"),
]


def simulated(folder: Path) -> str:
    """The shipped cluster, with nodes that cost nothing."""
    config = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    types = config["available_node_types"]
    types[HEAD_TYPE] = types.pop("head")
    for node in types.values():
        node.pop("docker", None)
        node["node_config"] = {}
    kept = {name: config[name] for name in ("cluster_name", "max_workers", "upscaling_speed", "idle_timeout_minutes")}
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    kept |= {"auth": {}, "file_mounts": {}, "cluster_synced_files": [], **{f"{name}_commands": [] for name in commands}}
    path = folder / "cluster.yaml"
    path.write_text(
        json.dumps({**kept, "head_node_type": HEAD_TYPE, "available_node_types": types, "provider": PROVIDER})
    )
    return str(path)


def test_nodes_are_started_for_each_kind_of_work_where_the_dry_plan_has_it(tmp_path: Path):
    config = run_config(str(tmp_path / "root"), placement=PLACEMENT)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    planned = placement_findings(config, read_node_types(str(ROOT / "ray_cluster.yaml")))
    assert not [str(finding) for finding in planned if finding.is_problem]
    with lan(tmp_path, **STARTED_BY) as made:
        made.start_head(f"--autoscaling-config={simulated(tmp_path)}")
        check = [sys.executable, str(ROOT / "cluster" / "check.py"), str(tmp_path / "config.yaml"), "--wait=240"]
        output, _ = made.submit(*check).communicate(timeout=600)
        places = [line for line in output.splitlines() if "a place for" in line]
        assert len(places) == 3, output
        assert all(line.startswith("ok") and "found on" in line for line in places), output
        # The head is the one that stood there before, and has no such label.
        labels = "node['Labels'].get('ray.io/market-type', 'head') for node in ray.nodes() if node['Alive']"
        code = f"import ray; ray.init('10.77.0.1:6379', logging_level='ERROR'); print(sorted({labels}))"
        found = made.on_head(sys.executable, "-c", code)
    assert found.stdout.splitlines()[-1:] == ["['head', 'on-demand', 'spot']"], found.stdout + found.stderr
