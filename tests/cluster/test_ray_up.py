"""ray_cluster.yaml, by Ray's own launcher and autoscaler."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jsonschema
import pytest
from ray_up import (
    HEAD_IP,
    RAY_UP,
    Commands,
    bootstrapped,
    config_on_head,
    install,
    launch,
    read_ray_up,
    start_head,
)

from hydra_ray.cluster.nodes import read_node_types

if TYPE_CHECKING:
    from fault_s3 import FaultyS3

ROOT = Path(__file__).parents[2]
WORKERS = [name for name in read_ray_up()["available_node_types"] if name != "head"]
TOKEN_PLACE = "/home/ray/.ray/auth_token"
MAKES_THE_TOKEN = re.compile(r"^[# ]*(\(umask 077 && ray get-auth-token .*\))$", re.MULTILINE)


class Started(NamedTuple):
    """A cluster whose head was started."""

    config: dict[str, Any]
    """What the laptop made of the file."""
    commands: Commands
    """What the head was told."""
    on_head: dict[str, Any]
    """What the head's autoscaler reads."""
    iam: Any
    ec2: Any


@pytest.fixture
def ray_up() -> dict[str, Any]:
    return read_ray_up()


@pytest.fixture(scope="module")
def aws(s3: "FaultyS3", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder with a token, and an AWS that has the roles which the file names."""
    import boto3
    from ray.autoscaler._private.aws import config, node_provider, utils

    home = tmp_path_factory.mktemp("laptop")
    made_token(home)
    with pytest.MonkeyPatch.context() as patch:
        endpoint = {"AWS_ENDPOINT_URL": s3.endpoint, "HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
        for name, value in {**s3.environment, **endpoint}.items():
            patch.setenv(name, value)
        patch.setattr(node_provider, "TAG_BATCH_DELAY", 0)
        caches = (utils.resource_cache, utils.client_cache, config._get_subnets_or_die)
        for cache in caches:
            cache.cache_clear()
        iam = boto3.client("iam", "us-east-1")
        for node in read_ray_up()["available_node_types"].values():
            name = node["node_config"]["IamInstanceProfile"]["Name"]
            if name not in {each["InstanceProfileName"] for each in iam.list_instance_profiles()["InstanceProfiles"]}:
                iam.create_instance_profile(InstanceProfileName=name)
        yield home
        for cache in caches:
            cache.cache_clear()


@pytest.fixture(scope="module")
def started(aws: Path, tmp_path_factory: pytest.TempPathFactory) -> Started:
    import boto3

    config, commands = bootstrapped(read_ray_up()), Commands()
    start_head(config, commands)
    on_head = tmp_path_factory.mktemp("head")
    made_token(on_head)
    (aws / "ray_bootstrap_key.pem").write_text("a key")
    clients = boto3.client("iam", "us-east-1"), boto3.client("ec2", "us-east-1")
    return Started(config, commands, config_on_head(commands, on_head), *clients)


def made_token(home: Path, token: str = "0123456789abcdef") -> Path:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(token)
    return path


def instances(started: Started) -> dict[str, dict[str, Any]]:
    """What runs at AWS, by node type."""
    running = [{"Name": "instance-state-name", "Values": ["running"]}]
    reservations = started.ec2.describe_instances(Filters=running)["Reservations"]
    found = [instance for reservation in reservations for instance in reservation["Instances"]]
    tags = [{tag["Key"]: tag["Value"] for tag in instance["Tags"]} for instance in found]
    return {each["ray-user-node-type"]: instance for each, instance in zip(tags, found, strict=True)}


def set_up(started: Started, node_type: str) -> Commands:
    """Start a worker as the autoscaler on the head does, and return what its host and its container are told."""
    adapter = launch(started.on_head, node_type)
    (node,) = [node for node, each in adapter.get_non_terminated().items() if each.node_type == node_type]
    commands = Commands(has_gpus=node_type.startswith("gpu"))
    try:
        install(started.on_head, node_type, node, adapter.v1_provider, commands)
    finally:
        adapter.v1_provider.terminate_node(node)
    return commands


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of a file before it talks to AWS."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    full = prepare_config(deepcopy(config))
    validate_config(full)
    return full


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
    from hydra_ray.cluster.facts import ENOUGH_OPEN_FILES

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


def test_the_token_goes_to_the_head_and_from_there_to_workers(started: Started):
    copied = f"/tmp/ray_tmp_mount/hydra{TOKEN_PLACE}"
    assert started.commands.copied[copied] == "0123456789abcdef"
    assert set(started.on_head["file_mounts"]) == {TOKEN_PLACE}
    assert set_up(started, "cpu").copied == {copied: "0123456789abcdef"}
    # With times and modes, as rsync's archives are: the file stays its owner's alone.
    (copy,) = [call for call in started.commands.calls if call[0] == "rsync" and call[-1].endswith("auth_token")]
    assert "-avz" in copy


def test_without_a_token_ray_up_stops_and_names_the_file(aws: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    config = {**bootstrapped(read_ray_up()), "cluster_name": "no-token"}
    monkeypatch.setenv("HOME", str(tmp_path))
    config["file_mounts"] = prepared(read_ray_up())["file_mounts"]
    with pytest.raises(FileNotFoundError, match=r"\.ray/auth_token"):
        start_head(config, Commands())


def test_another_token_is_another_content_of_the_mounts(started: Started):
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    path = Path(started.on_head["file_mounts"][TOKEN_PLACE])
    before = AutoscalingConfig(started.on_head).file_mounts_contents_hash
    made_token(path.parents[1], "another")
    try:
        assert AutoscalingConfig(started.on_head).file_mounts_contents_hash != before
    finally:
        made_token(path.parents[1])
    assert AutoscalingConfig(started.on_head).file_mounts_contents_hash == before
    path.rename(path.with_suffix(".away"))
    with pytest.raises(FileNotFoundError, match="auth_token"):
        AutoscalingConfig(started.on_head)
    path.with_suffix(".away").rename(path)


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "there and open to all"])
def test_the_token_that_the_documents_make_is_its_owners_alone(tmp_path: Path, is_there: bool):
    texts = [(ROOT / name).read_text() for name in ("ray_cluster.yaml", "README.md", "docs/cluster.md")]
    (command,) = {command for text in texts for command in MAKES_THE_TOKEN.findall(text)}
    assert all(MAKES_THE_TOKEN.search(text) for text in texts)
    path = tmp_path / ".ray" / "auth_token"
    if is_there:
        made_token(tmp_path).chmod(0o644)
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"HOME": str(tmp_path), "PATH": tools, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text()) == (16 if is_there else 64)
    assert path.read_text() not in done.stdout + done.stderr
    # It is where the file for `ray up` takes it from.
    assert read_ray_up()["file_mounts"] == {TOKEN_PLACE: "~/.ray/auth_token"}


def test_the_images_are_checked_for_the_ray_that_is_installed(ray_up: dict[str, Any]):
    for commands in (ray_up["head_setup_commands"], ray_up["worker_setup_commands"]):
        assert f"v('ray') == '{version('ray')}'" in commands[0]
