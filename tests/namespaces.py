"""A Ray cluster on one machine whose nodes share as little as nodes do: each has its own network with its own address,
its own processes, its own /tmp/ray and /dev/shm. Killing a node's first process ends all of it at once."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))
_PORT = 6379
_PATIENCE = 240
"""Seconds after which a step has failed; on an idle machine each takes a few."""
_WAIT = """
import sys, time, urllib.error, urllib.request
import ray
while not ray.is_initialized():
    try:
        ray.init(sys.argv[1] + ":6379", log_to_driver=False, logging_level="FATAL")
    except ConnectionError:
        time.sleep(0.5)
while sum(node["Alive"] for node in ray.nodes()) != int(sys.argv[2]):
    time.sleep(0.2)
while True:
    try:
        urllib.request.urlopen("http://127.0.0.1:8265", timeout=5)
    except urllib.error.HTTPError:
        break  # it wants the token, and so is there
    except OSError:
        time.sleep(0.5)
    else:
        break
"""
_SETUP = """ulimit -n "$(ulimit -Hn)"
mount -t tmpfs -o size=1g tmpfs /dev/shm && mkdir -p /tmp/ray && mount --bind "$0" /tmp/ray && exec "$@"
"""


def can_have_namespaces() -> bool:
    """Whether this process may make networks and process tables of its own."""
    if not (shutil.which("ip") and shutil.which("unshare")):
        return False
    command = ["unshare", "--net", "--pid", "--mount", "--fork", "ip", "link", "add", "probe", "type", "bridge"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@dataclass(kw_only=True)
class Node:
    """One started node."""

    network: str
    address: str
    process: subprocess.Popen[bytes]


@dataclass(kw_only=True)
class Lan:
    """The nodes and what connects them; the first one is the head, which has no CPUs."""

    folder: Path
    """For what each node keeps for itself, and for logs."""
    environment: Mapping[str, str]
    name: str = field(default_factory=lambda: f"h{secrets.token_hex(3)}")
    nodes: list[Node] = field(default_factory=list)

    def start_head(self, *arguments: str) -> Node:
        """The head, with a dashboard that nobody outside of it can reach; it is there on return."""
        head = self._start("--head", f"--port={_PORT}", "--num-cpus=0", "--dashboard-host=127.0.0.1", *arguments)
        answers = f"until echo > /dev/tcp/{head.address}/{_PORT}; do sleep 0.2; done"
        subprocess.run(_inside(head.network, "bash", "-c", answers), check=True, capture_output=True, timeout=_PATIENCE)
        self.wait_for(1)
        return head

    def start_worker(self, num_cpus: int, *arguments: str) -> Node:
        """A node that works; it may not be there yet."""
        return self._start(f"--address={self.nodes[0].address}:{_PORT}", f"--num-cpus={num_cpus}", *arguments)

    def kill(self, node: Node) -> None:
        """As if its plug were pulled."""
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()

    def submit(self, *entrypoint: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """`ray job submit` on the head, as somebody there would type it; its output is the job's."""
        told = [f"--runtime-env-json={json.dumps({'env_vars': dict(env or {})})}"]
        command = [RAY, "job", "submit", "--address=http://127.0.0.1:8265", *told, "--", *entrypoint]
        return subprocess.Popen(
            [*self._enter(), *command],
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def watched(self, *command: str) -> "subprocess.Popen[str]":
        """A command on the head that is to be looked at, or ended, while it runs."""
        environment = {**os.environ, **self.environment}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*self._enter(), *command], env=environment, text=True, **pipes)

    def interrupt(self, watched: "subprocess.Popen[str]") -> None:
        """Send what Ctrl-C sends to a watched command, which is a child of the process that entered the namespaces."""
        (command,) = Path(f"/proc/{watched.pid}/task/{watched.pid}/children").read_text().split()
        os.kill(int(command), signal.SIGINT)

    def on_head(self, *command: str, timeout: float = _PATIENCE) -> subprocess.CompletedProcess[str]:
        """Run a command on the head to its end."""
        return subprocess.run(
            [*self._enter(), *command],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def wait_for(self, num_nodes: int) -> None:
        """Return when so many nodes are alive, and the dashboard is."""
        started = self.on_head(sys.executable, "-c", _WAIT, self.nodes[0].address, str(num_nodes))
        assert started.returncode == 0, started.stderr

    def _enter(self) -> Sequence[str]:
        """How a command is run where the head is."""
        head = self.nodes[0].process.pid
        (first,) = Path(f"/proc/{head}/task/{head}/children").read_text().split()
        return ["nsenter", f"--target={first}", "--net", "--pid", "--mount"]

    def _start(self, *arguments: str) -> Node:
        place = len(self.nodes) + 1
        network, address = f"{self.name}-{place}", f"10.77.0.{place}"
        _ip("netns", "add", network)
        _ip("link", "add", "eth0", "netns", network, "type", "veth", "peer", "name", f"port{place}", "netns", self.name)
        _ip("-n", self.name, "link", "set", f"port{place}", "master", "switch", "up")
        _ip("-n", network, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", network, "link", "set", device, "up")
        _ip("-n", network, "route", "add", "default", "dev", "eth0")  # Ray asks by it which address is its own
        own = self.folder / network
        own.mkdir()
        own_processes = ["unshare", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child=SIGKILL"]
        started = [RAY, "start", "--block", f"--node-ip-address={address}", "--object-store-memory=100000000"]
        with (self.folder / f"{network}.log").open("wb") as log:
            process = subprocess.Popen(
                _inside(network, *own_processes, "bash", "-c", _SETUP, str(own), *started, *arguments),
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.nodes.append(Node(network=network, address=address, process=process))
        return self.nodes[-1]


@contextlib.contextmanager
def lan(folder: Path, **environment: str) -> Iterator[Lan]:
    """A network without nodes yet; at the end nothing of it is left."""
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    # Ray runs its workers at nice 15, which lets any other process of a busy machine starve them.
    started = {"RAY_enable_worker_prestart": "0", "RAY_worker_niceness": "0"}
    made = Lan(folder=folder, environment={**auth, **started, **environment})
    _ip("netns", "add", made.name)
    try:
        _ip("-n", made.name, "link", "add", "switch", "type", "bridge")
        _ip("-n", made.name, "link", "set", "switch", "up")
        yield made
    finally:
        for node in made.nodes:
            made.kill(node)
        for network in [made.name, *(node.network for node in made.nodes)]:
            _delete(network)


def _delete(network: str) -> None:
    """Its processes may take a moment to be gone."""
    for _ in range(50):
        if subprocess.run(["ip", "netns", "delete", network], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)


def _inside(network: str, *command: str) -> Sequence[str]:
    return ["ip", "netns", "exec", network, *command]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
