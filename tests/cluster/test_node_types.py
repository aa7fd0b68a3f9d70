from pathlib import Path

import pytest
import yaml

from hydra_ray.cluster.node_types import NodeType, read_node_types
from hydra_ray.errors import ConfigError


def written(folder: Path, content: object) -> str:
    path = folder / "nodes.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def test_a_plain_list_of_nodes_is_read_head_first(tmp_path: Path):
    gpu = {"name": "gpu", "resources": {"CPU": 8, "GPU": 2, "licence": 1}, "labels": {"kind": "a"}, "count": 3}
    found = read_node_types(written(tmp_path, {"nodes": [gpu, {"name": "h", "resources": {}, "is_head": True}]}))
    assert [node.name for node in found] == ["h", "gpu"]
    assert found[1] == NodeType.model_validate(gpu)


def test_ray_up_counts_at_most_as_many_nodes_as_the_cluster_may_have(tmp_path: Path):
    types = {
        "head": {"resources": {"CPU": 0}},
        "few": {"resources": {"CPU": 4}, "max_workers": 2},
        "many": {"resources": {"CPU": 4}, "max_workers": 50},
        "any": {"resources": {"CPU": 4}},
    }
    config = {"available_node_types": types, "head_node_type": "head", "max_workers": 9}
    counts = {node.name: node.count for node in read_node_types(written(tmp_path, config))}
    assert counts == {"head": 1, "few": 2, "many": 9, "any": 9}


def test_a_kuberay_group_is_what_it_states_or_else_what_its_container_is_given(tmp_path: Path):
    def group(resources: dict[str, str] | None, **limits: str) -> dict[str, object]:
        stated = {} if resources is None else {"resources": resources}
        return {**stated, "template": {"spec": {"containers": [{"resources": {"limits": limits}}]}}}

    spec = {
        "headGroupSpec": group({"CPU": "0"}, cpu="2"),
        "workerGroupSpecs": [
            {"groupName": "w", "maxReplicas": 4, **group(None, **{"cpu": "3500m", "nvidia.com/gpu": "2"})}
        ],
    }
    text = "\n---\n".join(map(yaml.safe_dump, [{"kind": "ConfigMap"}, {"kind": "RayCluster", "spec": spec}]))
    head, workers = read_node_types(written(tmp_path, text))
    assert (head.resources, head.is_head) == ({"CPU": 0}, True)
    assert (workers.resources, workers.count) == ({"CPU": 3.5, "GPU": 2}, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "cannot read the nodes"),
        ({"kind": "Pod"}, "names no nodes"),
        ({"nodes": [{"name": "a", "resources": {"CPU": -1}}]}, r"resources\.CPU: got -1, expected at least 0"),
        ({"nodes": [5]}, "a node type must be a mapping of settings, got 5"),
        ({"nodes": 5}, "does not state the resources"),
        ([1, 2], "does not state the resources"),
        ("- &a [*a]", "the alias \\*a stands in what it is an alias of"),
        ("a\0b", r"the character U\+0000"),
        ({"nodes": [{"name": "a", "cpus": 1}]}, "resources"),
        (
            {"available_node_types": {"a": {"resources": {}}}, "head_node_type": "a", "max_workers": 1},
            "states no CPUs",
        ),
    ],
)
def test_a_file_that_does_not_say_what_nodes_have_is_refused(tmp_path: Path, content: object, message: str):
    with pytest.raises(ConfigError, match=message):
        read_node_types(written(tmp_path, content))


def test_a_missing_file_is_an_error_of_ours():
    with pytest.raises(ConfigError, match="cannot read the nodes in /no/such"):
        read_node_types("/no/such")
