"""The scorer on Ray Serve: cluster/serve.yaml with its two replicas, as `serve run` starts it, asked over HTTP."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from fault_server import FaultServer

from hydra_ray.forget.removal import forget_users
from hydra_ray.rows import User
from hydra_ray.serving.export import export_run
from hydra_ray.serving.scorer import ServedScorer, load_scorer
from hydra_ray.stages.plan import Plan, plan_recorded
from hydra_ray.stages.tables import read_users

pytestmark = [
    pytest.mark.ray,
    # Third parties: as in the tests of whole runs.
    pytest.mark.filterwarnings("default"),
]
SHIPPED = Path(__file__).parents[2] / "cluster" / "serve.yaml"
SECONDS = 300
"""Most that anything is waited for, on a machine that may be busy."""
QUERY = "a night of comedy in the city"


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served, and how it is asked."""

    plan: Plan
    """The run, in a root of its own."""
    scorer: ServedScorer
    """The same export in this process."""
    users: list[User]
    process: "subprocess.Popen[str]"
    client: httpx.Client

    def asked(self, path: str, session: str = "", **body: Any) -> Any:
        reply = self.client.post(path, json=body, headers={"x-session-id": session} if session else {})
        assert reply.status_code == 200, reply.text
        return reply.json()

    def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for what the processes of Serve bring about."""
        deadline = time.monotonic() + SECONDS
        while not is_so():
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)

    def replicas(self) -> list[psutil.Process]:
        found = []
        for each in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found += [each] if "ServeReplica" in " ".join(each.cmdline()) else []
        return found


@pytest.fixture(scope="module")
def llm() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture(scope="module")
def served(small_run: Plan, llm: FaultServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    pytest.importorskip("grpc_reflection", reason="ray[serve] is not installed: the extra serve")
    folder = tmp_path_factory.mktemp("serve")
    shutil.copytree(small_run.config.storage.root, folder / "root")
    plan = plan_recorded(str(folder / "root" / "runs" / small_run.config.run))
    exported = export_run(plan, str(folder / "export")).folder
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = yaml.safe_load(SHIPPED.read_text())
    config["http_options"]["port"] = port
    (application,) = config["applications"]
    application["args"] |= {"scorer": exported, "pull_seconds": 0.5}
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    environment = {
        "OPENAI_BASE_URL": llm.url,
        "OPENAI_API_KEY": "none",
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's workers start with this path, wherever they are started.
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "ray.serve.scripts", "run", "--address", "local", str(folder / "serve.yaml")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, text=True, env=os.environ | environment, start_new_session=True
        )
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS)
    users = [user for bucket in plan.users.buckets for user in read_users(plan, bucket)]
    found = Served(plan=plan, scorer=load_scorer(exported), users=users, process=process, client=client)
    try:
        found.until(lambda: is_up(client))
        yield found
    finally:
        client.close()
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """End a server as Ctrl-C does, and kill what is left of it: whoever started the tests may ignore Ctrl-C."""
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(60)
    process.kill()
    process.wait()
    for left in psutil.wait_procs(below, 10)[1]:
        with suppress(psutil.NoSuchProcess):
            left.kill()


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.ConnectError:
        return False


def chosen_here(served: Served, user: str, query: str = QUERY) -> dict[str, Any]:
    """What the scorer in this process chooses, as JSON; scores are rounded: in bfloat16 an encoder's vectors depend on
    the texts that it encodes together."""
    return rounded(asdict(served.scorer.choose(user, query)))


def rounded(chosen: dict[str, Any]) -> dict[str, Any]:
    return {**chosen, "by_answer": {name: pytest.approx(each, abs=0.03) for name, each in chosen["by_answer"].items()}}


def test_answers_are_those_of_the_scorer_in_this_process(served: Served, llm: FaultServer):
    assert len(served.replicas()) == 2
    for user in served.users:
        assert served.asked("/choose", user=user.user_id, query=QUERY) == chosen_here(served, user.user_id)
    user = served.users[-1].user_id
    prompts = served.asked("/prompts", user=user, query=QUERY)
    here = served.scorer.prompts(user, QUERY)
    assert [(each["name"], tuple(each["record_ids"])) for each in prompts] == [
        (each.name, each.record_ids) for each in here
    ]
    before = len(llm.calls)
    answered = served.asked("/answer", user=user, query=QUERY)
    assert answered["num_failed_prompts"] == 0
    assert answered["answer"] in served.plan.task.labels
    assert len(llm.calls) - before == sum(len(list(each.calls())) for each in here)


def test_what_is_learned_is_known_wherever_the_same_session_is_answered(served: Served):
    label = served.plan.task.labels[1]
    records = [{"input": f"{QUERY} {number}", "output": label} for number in range(3)]
    served.scorer.learn("someone new", records)
    for number, record in enumerate(records, 1):
        told = served.asked("/learn", session="someone new", user="someone new", records=[record])
        assert told == {"num_records": number}
    expected = chosen_here(served, "someone new")
    assert expected != chosen_here(served, "nobody")
    for _ in range(10):
        assert served.asked("/choose", session="someone new", user="someone new", query=QUERY) == expected


def test_a_lost_replica_is_replaced_and_requests_go_on(served: Served):
    user = served.users[0].user_id
    before, expected = served.replicas(), chosen_here(served, user)
    before[0].kill()
    assert all(served.asked("/choose", session=str(n), user=user, query=QUERY) == expected for n in range(20))
    served.until(lambda: len({each.pid for each in served.replicas()} - {before[0].pid}) == 2)
    assert all(served.asked("/choose", session=str(n), user=user, query=QUERY) == expected for n in range(20))


def test_whoever_is_forgotten_is_unknown_to_every_replica_soon(served: Served):
    gone, stays = served.users[-1].user_id, served.users[0].user_id

    def has_records(user: str) -> list[bool]:
        """Whether prompts show records of the user, as the replicas of several sessions know them."""
        prompts = (served.asked("/prompts", session=str(n), user=user, query=QUERY) for n in range(20))
        return [any(each["record_ids"] for each in found) for found in prompts]

    assert all(has_records(gone))
    forget_users(served.plan.config.storage.root, [gone])
    served.until(lambda: not any(has_records(gone)))
    assert all(has_records(stays))
