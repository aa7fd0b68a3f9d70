"""Jobs that are handed in as people do: from an empty folder, with a token, to a head that has a network of its own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from builders import run_config
from namespaces import RAY, Lan, can_have_namespaces, lan

ADDRESS = "http://127.0.0.1:8265"
HYDRA_RAY = [sys.executable, "-m", "hydra_ray.cli"]
OURS = re.compile(r"\d\d:\d\d:\d\d [IW] [a-z.]+(?: \w+)?: \S.*|\d\d:\d\d:\d\d I report: /\S+")
"""A line of a run's log: the time, and a stage with what it did."""
TICKETS = {
    "name": "tickets",
    "kind": "classification",
    "instruction": "Which team takes this ticket?",
    "labels": ["hardware", "software", "billing"],
    "max_tokens": 8,
}
DEAD = {
    "engine": "openai",
    "api": {
        "base_url": "http://127.0.0.1:9/v1",
        "model": "nobody",
        "attempt_timeout_seconds": 1,
        "breaker_failures": 1,
        "breaker_seconds": 1,
    },
}

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not can_have_namespaces(), reason="needs the right to make network and process namespaces"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    """A head without CPUs, and a node that works."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # a job's `python` is that of the node
    with lan(tmp_path_factory.mktemp("lan"), HF_HUB_OFFLINE="1", PATH=path) as made:
        made.start_head()
        made.start_worker(2)
        made.wait_for(2)
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nothing but a configuration and its users."""
    place = tmp_path / "laptop"
    place.mkdir()
    (place / "june.jsonl").write_text("\n".join(json.dumps(ticket_writer(number)) for number in range(10)))
    untrained = {"base": {**run_config().adapter.base.model_dump(), "num_epochs": 0, "width": 0}}
    config = run_config(str(tmp_path / "root"), reranker=untrained, adapter=untrained)
    lamp = {"task": TICKETS, "users_files": ["june.jsonl"]}
    settings = {**config.model_dump(mode="json", exclude_unset=True), "lamp": lamp}
    (place / "my.yaml").write_text(yaml.safe_dump(settings))
    return place


def ticket_writer(number: int) -> dict[str, object]:
    """A user with some tickets, of teams in turn."""
    teams = TICKETS["labels"]
    history = [{"input": f"{teams[i % 3]} trouble {i}", "output": teams[(i + number) % 3]} for i in range(6)]
    query = {"id": f"q{number}", "input": f"{teams[number % 3]} trouble", "target": teams[number % 3]}
    return {"user_id": f"u{number}", "is_new": number > 5, "history": history, "queries": [query]}


def typed(cluster: Lan, folder: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A command that is typed in `folder`, on a machine that reaches the dashboard."""
    told = [f"{name}={value}" for name, value in {"RAY_ADDRESS": ADDRESS, **environment}.items()]
    return cluster.on_head("env", f"--chdir={folder}", *told, *HYDRA_RAY, *words, timeout=600)


def test_a_healthy_job_shows_its_own_lines_and_where_its_report_is(cluster: Lan, folder: Path, tmp_path: Path):
    done = typed(cluster, folder, "submit", "my.yaml", "--upload", str(tmp_path / "inputs"))
    assert done.returncode == 0, done.stdout + done.stderr
    report = tmp_path / "root" / "runs" / "test" / "report.html"
    *lines, headline, where = done.stdout.splitlines()
    assert [line for line in lines if not OURS.fullmatch(line)] == []
    assert headline.startswith("test: ")
    assert where == f"report: {report}"
    copied, job, see, stop, ended = done.stderr.splitlines()
    assert copied.startswith("june.jsonl (")
    assert job.endswith(f" at {ADDRESS}")
    assert (see.split()[:4], stop.split()[:5]) == (["see", "it:", "ray", "job"], ["stop", "it:", "ray", "job", "stop"])
    assert ended.endswith(f"succeeded: {report}")
    assert report.is_file()
    status = typed(cluster, folder, "status", str(report.parent))
    assert (status.returncode, status.stderr) == (0, "")


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([f"generator.{name}={json.dumps(value)}" for name, value in DEAD.items()], "127.0.0.1:9"),
        (["adapter.base.encoder=EMPTY", "--until", "adapter"], "empty"),
    ],
    ids=["endpoint", "encoder"],
)
def test_why_a_worker_failed_is_seen_and_is_the_end_of_the_job(
    cluster: Lan, folder: Path, tmp_path: Path, overrides: list[str], reason: str
):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text('{"model_type": "bert"}')
    words = [each.replace("EMPTY", str(empty)) for each in overrides]
    done = typed(cluster, folder, "submit", "my.yaml", "--upload", str(tmp_path / "inputs"), *words)
    assert done.returncode == 2, done.stdout + done.stderr
    (error,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert reason in error
    assert "Traceback" not in done.stdout + done.stderr
    assert "succeeded" not in done.stderr


def test_users_in_a_submitted_working_directory_are_found_by_their_relative_name(cluster: Lan, folder: Path):
    job = ["--working-dir", str(folder), "--", *HYDRA_RAY, "run", "my.yaml", "--until", "users"]
    for _ in range(2):
        done = cluster.on_head(RAY, "job", "submit", f"--address={ADDRESS}", *job)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "users: complete, kept" in done.stdout


@pytest.mark.parametrize(
    ("environment", "words", "reason"),
    [
        ({"RAY_AUTH_TOKEN": "a" * 64}, ["submit", "my.yaml"], "the token is wrong"),
        ({"RAY_AUTH_MODE": "disabled"}, ["submit", "my.yaml"], "it wants a token"),
        ({}, ["submit", "my.yaml", "--address", "http://127.0.0.1:9"], "nobody listens"),
        ({}, ["run", "my.yaml"], "  hydra-ray submit my.yaml "),
        ({"RAY_ADDRESS": "10.77.0.1:6379", "RAY_AUTH_TOKEN": "a" * 64}, ["check", "my.yaml"], "the token is wrong"),
    ],
    ids=["wrong-token", "no-token", "wrong-port", "http", "wrong-token-of-a-driver"],
)
def test_what_a_cluster_refuses_is_one_sentence(
    cluster: Lan, folder: Path, environment: dict[str, str], words: list[str], reason: str
):
    upload = ["--upload", "/tmp"] if words[0] == "submit" else []
    done = typed(cluster, folder, *words, *upload, "lamp.users_files=[s3://bucket/june.jsonl]", **environment)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_who_stops_watching_is_told_how_to_go_on_and_the_job_goes_on(cluster: Lan, folder: Path, tmp_path: Path):
    # A job that waits for its endpoint, and so does not end while it is watched.
    waiting = ["generator.engine=openai", f"generator.api={json.dumps({**DEAD['api'], 'breaker_seconds': 900})}"]
    words = [*HYDRA_RAY, "submit", "my.yaml", *waiting, "--upload", str(tmp_path / "inputs")]
    with cluster.watched("env", f"--chdir={folder}", *words, "--address", ADDRESS) as shown:
        assert shown.stdout is not None
        assert shown.stderr is not None
        assert any("users: starts" in line for line in shown.stdout)
        cluster.interrupt(shown)
        said = shown.stderr.read()
        shown.stdout.read()
    assert shown.returncode == 130
    assert "no longer watching; the job goes on" in said
    (job_id,) = set(re.findall(r"raysubmit_\w+", said))
    asked = cluster.on_head(RAY, "job", "status", job_id, f"--address={ADDRESS}")
    assert "RUNNING" in asked.stdout
    stopped = cluster.on_head(RAY, "job", "stop", job_id, f"--address={ADDRESS}")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
