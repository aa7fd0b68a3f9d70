"""Connection to Ray: the cluster that a command uses, how Ray is started, and a one-sentence error where it cannot
connect."""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra_ray.engine.listener import connection_error
from hydra_ray.errors import ClusterError, SubmissionAddressError
from hydra_ray.runs.signals import own_handlers
from hydra_ray.temporary import temporary_file

ADDRESS = "RAY_ADDRESS"
"""Environment variable that names the cluster; Ray sets it in a submitted job."""
SUBMITTED_AS = "HYDRA_SUBMITTED_AS"
"""Environment variable of a job: the command that submitted it and that resumes it after a stop."""
TOKEN_HELP = (
    "With RAY_AUTH_MODE=token, Ray looks for it in RAY_AUTH_TOKEN, then in the file RAY_AUTH_TOKEN_PATH, then in "
    "~/.ray/auth_token"
)
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_TOKEN_FILE = Path("~/.ray/auth_token")
_LOGGED_TWICE = ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state")
"""Ray Data modules that log the traceback of errors that they also raise."""
_NATIVE_NOTE = re.compile(r"\[[^\]]* [IW] \d+ \d+\] ")


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names (as in a submitted job), or start Ray in this process.

    Raises:
        ClusterError: the cluster does not exist, is not one to connect to, or Ray does not start.
    """
    address = cluster_address()
    # Ray's C++ layer logs to the driver only Ray Data's own settings, ended processes, and what is raised as an
    # exception too. It reads this variable when it is loaded.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Else a call after the end of Ray, as of a block that is closed late, would join another cluster or start one.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    import ray.data

    # On Ctrl-C, Tune would end its trials and continue with the results so far.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    if not ray.is_initialized():
        with own_handlers(), connection_errors(address), without_native_notes():
            _init_ray(address)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Otherwise the error of a step would lose its class and message on the way to this process.
    context.raise_original_map_exception = True
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    for name in _LOGGED_TWICE:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def cluster_address() -> str | None:
    """Return the address of the cluster to connect to; None where this process starts Ray itself.

    Raises:
        SubmissionAddressError: it is a dashboard's address, to which jobs are submitted.
        ClusterError: it is an address of Ray Client, or nothing listens there.
    """
    address = os.environ.get(ADDRESS, "")
    if address in ("", "local"):
        return None
    require_cluster_address()
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        _require_listener(address, host.strip("[]"), int(port))
    return address


def require_cluster_address() -> None:
    """Check the form of RAY_ADDRESS, without connecting.

    Raises:
        SubmissionAddressError: it is a dashboard's address, to which jobs are submitted.
        ClusterError: it is an address of Ray Client.
    """
    address = os.environ.get(ADDRESS, "")
    if address.startswith(("http://", "https://")):
        raise SubmissionAddressError(
            f"{ADDRESS} is {address}: jobs are submitted there, but this command runs here. Submit it with "
            f"`hydra-ray submit CONFIG --address {address}`, or unset {ADDRESS} to run on this machine."
        )
    if address.startswith("ray://"):
        raise ClusterError(
            f"{ADDRESS} is {address}: Ray Client, which supports neither Ray Data nor Ray Train. Submit a job "
            "to the dashboard's address instead: `hydra-ray submit CONFIG --address http://HOST:8265`."
        )


def send_token() -> None:
    """Make Ray's job client send the authentication token if there is one, as Ray does when it joins a cluster.

    Ray reads the variable when it is imported, so nothing is done if it is imported already.
    """
    if "ray" in sys.modules:
        return
    has_one = any(os.environ.get(name) for name in _TOKENS) or _TOKEN_FILE.expanduser().is_file()
    if has_one:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def connection_errors(address: str | None) -> Iterator[None]:
    """Convert what keeps Ray from starting or from being connected to into one sentence.

    Args:
        address: address of a running cluster; None where Ray starts in this process.

    Raises:
        ClusterError: Ray could not be started or connected to.
    """
    import ray.exceptions

    where = "Ray cannot be started on this machine" if address is None else f"cannot connect to Ray at {address}"
    try:
        yield
    except ray.exceptions.AuthenticationError as error:
        raise ClusterError(f"{where}: {_first_sentence(error)}. {TOKEN_HELP}.") from error
    except ConnectionError as error:
        raise ClusterError(f"{where}: {_what_failed(address, error)}") from error
    except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise ClusterError(f"{where}: {_joined(error)}") from error


@contextmanager
def without_native_notes() -> Iterator[None]:
    """Filter informational lines of Ray's C++ layer out of standard error."""
    sys.stderr.flush()
    shown = os.dup(2)
    with temporary_file() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(shown, 2)
            os.close(shown)
            written.seek(0)
            for line in written.read().decode(errors="replace").splitlines():
                if not _NATIVE_NOTE.match(line):
                    sys.stderr.write(f"{line}\n")


def _init_ray(address: str | None) -> None:
    import ray

    if address is not None:
        runtime = {"env_vars": _storage_environment()}
        ray.init(address, runtime_env=runtime, log_to_driver=False, logging_level=logging.ERROR)
        return
    # Ray runs its workers at nice 15, so any other process could starve them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Else all but one process per core end a second after their work, and the next stage starts others, which import
    # torch and load an encoder again. Where memory is needed, Ray ends idle processes first.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", str(60 * 60 * 1000))
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=1 << 30,
    )


def _storage_environment() -> dict[str, str]:
    """Return the object store's variables for the cluster's workers, without those that a submitted job sets itself."""
    # It loads pyarrow, which `--help` does without.
    from hydra_ray.storage.locations import worker_environment

    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    given = job.get("runtime_env", {}).get("env_vars", {})
    return {name: value for name, value in worker_environment().items() if name not in given}


def _what_failed(address: str | None, error: Exception) -> str:
    if address in (None, "auto"):
        return f"{_joined(error)} Start it with `ray start --head`, or unset {ADDRESS}."
    return (
        "something listens there, but it does not answer like a Ray head. Either the token is wrong "
        f"({TOKEN_HELP}), or the port is not Ray's (6379 by default)."
    )


def _require_listener(address: str, host: str, port: int) -> None:
    """Check that the port accepts connections: Ray itself would retry for a minute or two."""
    if (error := connection_error(host, port)) is not None:
        raise ClusterError(
            f"nobody listens at {ADDRESS}={address}: {error.strerror or error}. Expected HOST:PORT of a running head "
            "(port 6379 by default), which can be reached from inside the cluster only."
        ) from error


def _first_sentence(error: Exception) -> str:
    return str(error).split(". ", 1)[0].strip()


def _joined(error: Exception) -> str:
    """Return an error's message on one line, without its traceback."""
    return " ".join(str(error).partition("Traceback (most recent")[0].split()).removesuffix(" Last connection error:")
