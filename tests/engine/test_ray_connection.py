"""Which addresses are a cluster's, and what is said of all others."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray.exceptions

from hydra_ray.cli import main
from hydra_ray.engine.ray_connection import cluster_address, connection_errors, send_token, without_native_notes
from hydra_ray.errors import ClusterError, SubmissionAddressError

TOUR = str(Path(__file__).parents[2] / "jobs" / "configs" / "tour.yaml")


@pytest.fixture
def listener() -> Iterator[int]:
    """A port at which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def deaf() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize("address", [None, "", "local"])
def test_without_an_address_ray_starts_here(monkeypatch: pytest.MonkeyPatch, address: str | None):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster_address() is None


def test_an_address_at_which_somebody_listens_is_the_clusters(monkeypatch: pytest.MonkeyPatch, listener: int):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listener}")
    assert cluster_address() == f"127.0.0.1:{listener}"


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("http://head:8265", SubmissionAddressError, "hydra-ray submit CONFIG --address http://head:8265"),
        ("https://head", SubmissionAddressError, "jobs are submitted there"),
        ("ray://head:10001", ClusterError, "Ray Client"),
        ("127.0.0.1:{deaf}", ClusterError, "nobody listens at RAY_ADDRESS=127.0.0.1"),
        ("no.such.host.invalid:6379", ClusterError, "nobody listens"),
    ],
)
def test_an_address_that_is_no_clusters_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, deaf: int, address: str, error: type[Exception], words: str
):
    monkeypatch.setenv("RAY_ADDRESS", address.format(deaf=deaf))
    with pytest.raises(error, match=words):
        cluster_address()


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (
            ray.exceptions.AuthenticationError("No token was found. Ensure that"),
            "No token was found. With RAY_AUTH_MODE=token",
        ),
        (ConnectionError("Failed to connect"), "Either the token is wrong"),
        (RuntimeError("Version mismatch:\n  Ray: 2.59"), "Version mismatch: Ray: 2.59"),
        (ValueError("Invalid address format: x"), "Invalid address format"),
        (TimeoutError("The current node timed out during startup"), "timed out during startup"),
    ],
)
def test_what_keeps_ray_from_connecting_is_one_line(raised: Exception, words: str):
    with pytest.raises(ClusterError) as told, connection_errors("head:6379"):
        raise raised
    assert str(told.value).startswith("cannot connect to Ray at head:6379: ")
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_no_cluster_to_be_found_is_told_with_what_starts_one():
    with pytest.raises(ClusterError, match="ray start --head"), connection_errors("auto"):
        raise ConnectionError("Could not find any running Ray instance.")


@pytest.mark.parametrize(
    ("typed", "submitted"),
    [
        (["run", TOUR, "run=x", "--until", "users"], f"hydra-ray submit {TOUR} run=x --until users"),
        (
            ["--log-format", "json", "retry", "/r/runs/x"],
            "hydra-ray --log-format json submit /r/runs/x --command retry",
        ),
        (["sweep", "s.yaml", "--dry"], "hydra-ray submit s.yaml --dry --command sweep"),
        (["plan", TOUR], f"hydra-ray submit {TOUR} --command plan"),
        (["update", "/r/runs/x", "--users", "a.jsonl"], "submit /r/runs/x --users a.jsonl --command update"),
        (["feedback", "/r/runs/x", "--file", "a.csv"], "submit /r/runs/x --file a.csv --command feedback"),
        (["fit-users", "/r/runs/x", "--users", "a.jsonl"], "submit /r/runs/x --users a.jsonl --command update"),
        (["doctor", "--cluster", TOUR, "run=x"], f"hydra-ray submit {TOUR} run=x --command check"),
        (["check", TOUR], f"hydra-ray submit {TOUR} --command check"),
    ],
)
def test_a_command_for_an_http_address_names_the_command_that_submits_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: list[str], submitted: str
):
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert main(typed) == 2
    error = capsys.readouterr().err
    assert f"{submitted} " in error
    assert error.rstrip().endswith("--address http://head:8265")


def test_commands_that_need_no_ray_do_not_look_at_its_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert main(["status", str(tmp_path)]) == 2
    assert main(["prune", str(tmp_path)]) == 2


def test_a_token_that_is_there_is_sent_unless_that_is_switched_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # what is set below is taken back in the end
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "ray")
    send_token()
    assert "RAY_AUTH_MODE" not in os.environ
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    send_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    send_token()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_of_what_native_code_writes_only_errors_are_shown(capfd: pytest.CaptureFixture[str]):
    note = b"[2026-01-01 10:00:00,000 I 12 12] logging.cc:303: Set ray log level from environment variable\n"
    error = b"[2026-01-01 10:00:00,000 E 12 12] core_worker.cc:1: the store is full\n"
    with without_native_notes():
        os.write(2, note + error)
    os.write(2, b"after\n")
    assert capfd.readouterr().err.splitlines() == [error.decode().strip(), "after"]
