"""`ray up` as far as it goes without AWS: moto is EC2 and IAM, and commands for nodes are kept, not carried out."""

import gc
import json
import re
import shlex
import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

RAY_UP: Final = Path(__file__).parents[2] / "ray_cluster.yaml"
HEAD_IP: Final = "10.0.0.10"
"""Where the workers are told the head is."""
TOKEN: Final = "0123456789abcdef"
TOKEN_PLACE: Final = "/home/ray/.ray/auth_token"
"""Where the token is in every container."""
_ANSWERS: Final = {
    "docker info": b"map[nvidia:{nvidia-container-runtime []} runc:{runc []}]",
    "docker inspect -f '{{json .Config.Env}}'": b'["PATH=/usr/bin"]',
    "docker inspect -f '{{.State.Running}}'": b"",
    "command -v docker": b"/usr/bin/docker",
    "printenv HOME": b"/home/ray",
}
"""What a host with Docker, NVIDIA's toolkit and no container yet says, by what is in the command."""
_LOGIN_SHELL = re.compile(r"source ~/\.bashrc; export OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore && \((.*)\)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command that Ray had for a node."""

    place: str
    """`host`, `container`, or `rsync` for a copy to the host."""
    text: str


@dataclass(kw_only=True)
class Commands:
    """Takes the place of the module `subprocess` where Ray runs ssh and rsync, and keeps what it is given."""

    has_gpus: bool = False
    calls: list[list[str]] = field(default_factory=list)
    copied: dict[str, str] = field(default_factory=dict)
    """Contents of the files that were copied to the host, by where they went."""
    DEVNULL: int = -3

    def check_call(self, command: Sequence[str], **_: object) -> int:
        self.calls.append(list(command))
        if command[0] == "rsync":
            self.copied[command[-1].split(":", 1)[1]] = Path(command[-2]).read_text()
        if command[-1].find("nvidia-smi") >= 0 and not self.has_gpus:
            raise OSError("no GPU here")
        return 0

    def check_output(self, command: Sequence[str], **_: object) -> bytes:
        self.calls.append(list(command))
        text = _unwrapped(command[-1])
        return next(answer for words, answer in _ANSWERS.items() if words in text)

    def all(self) -> Iterator[Command]:
        """The commands in order, without the shells around them."""
        for call in self.calls:
            if call[0] == "rsync":
                yield Command(place="rsync", text=call[-1].split(":", 1)[1])
                continue
            text = _unwrapped(call[-1])
            if text.startswith("docker exec -it "):
                yield Command(place="container", text=_unwrapped(shlex.split(text)[-1]))
            else:
                yield Command(place="host", text=text)

    def of(self, place: str) -> list[str]:
        return [command.text for command in self.all() if command.place == place]

    def docker_run(self) -> list[str]:
        """The words of the one command that starts a container."""
        (text,) = [each for each in self.of("host") if each.startswith("docker run")]
        return shlex.split(text)


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


def _unwrapped(text: str) -> str:
    """The command in a login shell."""
    found = _LOGIN_SHELL.fullmatch(shlex.split(text)[-1])
    return found[1] if found else text


def read_ray_up(path: Path = RAY_UP) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def bootstrapped(config: dict[str, Any]) -> dict[str, Any]:
    """What Ray makes of a file with what it finds and makes at AWS: key pair, subnets, security group."""
    from ray.autoscaler._private.commands import _bootstrap_config

    return _bootstrap_config(config, no_config_cache=True)


def start_head(config: dict[str, Any], commands: Commands) -> None:
    """`ray up` itself, from the bootstrapped configuration on."""
    from ray.autoscaler._private.commands import get_or_create_head_node

    with warnings.catch_warnings():
        # Ray leaves the temporary file with the head's configuration to the collector of garbage.
        warnings.simplefilter("ignore", ResourceWarning)
        get_or_create_head_node(
            config,
            printable_config_file=str(RAY_UP),
            no_restart=False,
            restart_only=False,
            yes=True,
            override_cluster_name=None,
            _runner=commands,  # pyright: ignore[reportArgumentType]
        )
        gc.collect()


def config_on_head(commands: Commands, home: Path) -> dict[str, Any]:
    """The configuration that the head's autoscaler reads, with files of the head's own below `home`."""
    (text,) = [text for place, text in commands.copied.items() if place.endswith("ray_bootstrap_config.yaml")]
    config = json.loads(text)
    for name, place in config["file_mounts"].items():
        config["file_mounts"][name] = str(home / place.removeprefix("/home/ray/"))
    return config


def launch(config: dict[str, Any], node_type: str) -> Any:
    """Let the autoscaler's provider (v2) start a node of a type; return the provider."""
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter

    class Reader:
        def get_cached_autoscaling_config(self) -> AutoscalingConfig:
            return AutoscalingConfig(config)

    provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    adapter = NodeProviderAdapter(provider, Reader())  # pyright: ignore[reportArgumentType]
    adapter._launch_nodes_by_type(node_type, 1, "request")
    for error in adapter.poll_errors():
        raise error
    return adapter


def install(config: dict[str, Any], node_type: str, instance_id: str, provider: Any, commands: Commands) -> None:
    """Let the autoscaler (v2) set a worker up."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.instance_manager.ray_installer import RayInstaller
    from ray.core.generated.instance_manager_pb2 import Instance  # pyright: ignore[reportAttributeAccessIssue]

    installer = RayInstaller(provider, AutoscalingConfig(config), process_runner=commands)  # pyright: ignore
    instance = Instance(instance_id="i", instance_type=node_type, cloud_instance_id=instance_id)
    installer.install_ray(instance, HEAD_IP)


def made_token(home: Path, token: str = TOKEN) -> Path:
    """Write the file that `ray get-auth-token` makes, in a home folder."""
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
