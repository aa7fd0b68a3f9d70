"""ray_cluster.yaml, by Ray's own launcher and autoscaler."""

import re
import shlex
from copy import deepcopy
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
from ray_up import HEAD_IP, RAY_UP, TOKEN_PLACE, Started, instances, launch, prepared, read_ray_up, set_up

from hydra_ray.cluster.node_types import read_node_types

pytestmark = pytest.mark.integration

WORKERS = [name for name in read_ray_up()["available_node_types"] if name != "head"]


@pytest.fixture
def ray_up() -> dict[str, Any]:
    return read_ray_up()


def test_ray_takes_the_file(ray_up: dict[str, Any]):
    full = prepared(ray_up)
    assert full["available_node_types"]["head"]["max_workers"] == 0
    assert full["docker"]["image"].endswith(":cpu")


def test_a_wrong_key_would_be_refused(ray_up: dict[str, Any]):
    ray_up["available_node_types"]["gpu"]["is_spot"] = True
    with pytest.raises(jsonschema.ValidationError, match="is_spot"):
        prepared(ray_up)


def test_rays_own_autoscaler_reads_the_node_types_as_the_dry_plan_does(ray_up: dict[str, Any]):
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    theirs = AutoscalingConfig(prepared(ray_up), skip_content_hash=True).get_node_type_configs()
    for ours in read_node_types(str(RAY_UP)):
        assert theirs[ours.name].resources == ours.resources
        assert theirs[ours.name].labels == ours.labels
        assert ours.is_head or theirs[ours.name].max_worker_nodes == ours.count


def test_the_head_stays_and_gpus_are_spot(ray_up: dict[str, Any]):
    for name, node in ray_up["available_node_types"].items():
        is_spot = "InstanceMarketOptions" in node["node_config"]
        assert is_spot == ("GPU" in node["resources"])
        assert node["labels"]["ray.io/market-type"] == ("spot" if is_spot else "on-demand"), name


def test_every_container_may_open_enough_files(ray_up: dict[str, Any]):
    from hydra_ray.cluster.node_facts import ENOUGH_OPEN_FILES

    (limit,) = [each for each in ray_up["docker"]["run_options"] if "nofile" in each]
    assert int(limit.rsplit(":", 1)[1]) >= ENOUGH_OPEN_FILES


def test_the_cluster_is_made_at_aws(started: Started):
    types = started.config["available_node_types"]
    (group,) = {tuple(node["node_config"]["SecurityGroupIds"]) for node in types.values()}
    (found,) = started.ec2.describe_security_groups(GroupIds=list(group))["SecurityGroups"]
    assert found["GroupName"] == "hydra-ray"
    # Besides each other, nodes are reached by ssh alone.
    assert {rule.get("FromPort", -1) for rule in found["IpPermissions"] if rule["IpRanges"]} == {22}
    (key,) = {node["node_config"]["KeyName"] for node in types.values()}
    assert key in {pair["KeyName"] for pair in started.ec2.describe_key_pairs()["KeyPairs"]}
    assert all(node["node_config"]["SubnetIds"] for node in types.values())


def test_the_head_runs_with_the_role_that_starts_nodes(started: Started):
    head = instances(started)["head"]
    assert head["InstanceType"] == "m7i.2xlarge"
    assert "InstanceLifecycle" not in head
    assert head["IamInstanceProfile"]["Arn"].endswith("/hydra-ray-head")


@pytest.mark.parametrize("node_type", WORKERS)
def test_a_worker_of_each_type_is_started_with_the_role_of_workers(started: Started, node_type: str):
    adapter = launch(started.on_head, node_type)
    node = instances(started)[node_type]
    try:
        stated = read_ray_up()["available_node_types"][node_type]["node_config"]
        assert node["InstanceType"] == stated["InstanceType"]
        assert node["IamInstanceProfile"]["Arn"].endswith("/hydra-ray-worker")
        assert (node.get("InstanceLifecycle") == "spot") == node_type.startswith("gpu")
    finally:
        adapter.get_non_terminated()
        adapter.v1_provider.terminate_node(node["InstanceId"])


def test_a_worker_whose_role_is_not_there_is_not_started(started: Started):
    from ray.autoscaler.v2.instance_manager.node_provider import LaunchNodeError

    config = deepcopy(started.on_head)
    config["available_node_types"]["cpu"]["node_config"]["IamInstanceProfile"] = {"Name": "no-such-role"}
    with pytest.raises(LaunchNodeError):
        launch(config, "cpu")
    assert "cpu" not in instances(started)


def test_the_head_is_set_up_and_started(started: Started):
    commands = started.commands
    run = commands.docker_run()
    assert run[-2:] == ["REGISTRY/hydra-ray:cpu", "bash"]
    check_container(run, "--shm-size=10g")
    assert not {"--gpus=all", "--runtime=nvidia"} & set(run)
    *checks, stop, start = [each for each in commands.of("container") if not each.startswith("cat ")]
    assert checks == read_ray_up()["head_setup_commands"]
    assert stop.endswith("; ray stop")
    assert "export RAY_enable_autoscaler_v2=1;" in start
    assert "export RAY_NODE_TYPE_NAME=head;" in start
    assert """export RAY_OVERRIDE_RESOURCES='{"CPU":0}';""" in start
    options = shlex.split(start[start.index("ray start") :])
    assert {"--head", "--dashboard-host=127.0.0.1", "--num-cpus=0", "--metrics-export-port=8080"} <= set(options)
    assert "--autoscaling-config=/home/ray/ray_bootstrap_config.yaml" in options


@pytest.mark.parametrize("node_type", WORKERS)
def test_a_worker_of_each_type_is_set_up_and_started_by_the_autoscaler(started: Started, node_type: str):
    commands = set_up(started, node_type)
    node = read_ray_up()["available_node_types"][node_type]
    image = "REGISTRY/hydra-ray:cuda" if "GPU" in node["resources"] else "REGISTRY/hydra-ray:cpu"
    assert f"docker pull {image}" in commands.of("host")
    run = commands.docker_run()
    assert run[-2:] == [image, "bash"]
    check_container(run, node["docker"]["worker_run_options"][0])
    assert ({"--gpus=all", "--runtime=nvidia"} <= set(run)) == ("GPU" in node["resources"])
    *checks, stop, start = [without_exports(each) for each in commands.of("container")]
    assert checks == read_ray_up()["worker_setup_commands"]
    assert (stop, start.split("; ")) == ("ray stop", read_ray_up()["worker_start_ray_commands"][-1].split("; "))
    exports = commands.of("container")[-1]
    assert f"export RAY_HEAD_IP={HEAD_IP};" in exports
    assert f"export RAY_NODE_TYPE_NAME={node_type};" in exports
    (labels,) = re.findall(r"export RAY_OVERRIDE_LABELS='(.*?)';", exports)
    assert all(f'"{key}":"{value}"' in labels for key, value in node["labels"].items())
    (resources,) = re.findall(r"export RAY_OVERRIDE_RESOURCES='(.*?)';", exports)
    assert all(f'"{name}":{amount}' in resources for name, amount in node["resources"].items())


def check_container(run: list[str], shared_memory: str) -> None:
    """Every container has the token, the cache and authentication."""
    pairs = list(pairwise(run))
    assert ("-v", f"/tmp/ray_tmp_mount/hydra/{TOKEN_PLACE}:{TOKEN_PLACE}") in pairs
    assert ("--volume", "$HOME/hydra_ray_cache:/home/ray/.cache") in pairs
    assert ("--env", "RAY_AUTH_MODE=token") in pairs
    assert ("--env", "RAY_enable_autoscaler_v2=1") in pairs
    assert shared_memory in run
    assert "HF_HUB_OFFLINE" not in " ".join(run)


def without_exports(text: str) -> str:
    return re.sub(r"export \w+=('.*?'|[^;]*); ?", "", text)


def test_the_cache_is_made_for_the_user_before_the_container_runs(started: Started):
    hosts = started.commands.of("host")
    runs = [index for index, each in enumerate(hosts) if each.startswith("docker run")]
    assert hosts.index("mkdir -p $HOME/hydra_ray_cache") < runs[0]


def test_the_images_are_checked_for_the_ray_that_is_installed(ray_up: dict[str, Any]):
    for commands in (ray_up["head_setup_commands"], ray_up["worker_setup_commands"]):
        assert f"v('ray') == '{version('ray')}'" in commands[0]
