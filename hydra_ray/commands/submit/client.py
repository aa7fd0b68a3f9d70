"""Submission of jobs through Ray's job client, with each kind of failure explained in one sentence."""

import asyncio
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hydra_ray.commands.submit.job import Job, job_environment
from hydra_ray.engine.listener import connection_error
from hydra_ray.engine.ray_connection import ADDRESS, TOKEN_HELP, send_token
from hydra_ray.errors import ClusterError
from hydra_ray.temporary import temporary_folder

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_ADDRESSES = ("RAY_API_SERVER_ADDRESS", ADDRESS)
"""Environment variables in which Ray's client looks for the dashboard's address first."""
_RAYS_OWN = re.compile(r"\S+ \S+\tINFO job_manager\.py:|Running entrypoint for job ")
"""Lines that Ray writes to a job's log before the job does."""


def open_client(address: str | None) -> "JobSubmissionClient":
    """Return a client of the cluster at an address, by default the one that the environment names.

    Raises:
        ClusterError: there is no such address, nothing listens there, or the token is wrong.
    """
    named = address or next((os.environ[name] for name in _ADDRESSES if os.environ.get(name)), None)
    if named is None:
        raise ClusterError("no cluster to submit to: give --address http://HOST:8265, the address of its dashboard")
    _require_listener(named)
    send_token()
    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ[_ADDRESSES[0]] = named  # otherwise the environment's address would take precedence over the given one
    with _explained(named):
        return JobSubmissionClient(named)


def submit(client: "JobSubmissionClient", job: Job, typed: str) -> str:
    """Submit a job with its files, after users' files have been copied for the cluster; return the job's id.

    Args:
        typed: command that submits it.

    Raises:
        ClusterError: the cluster rejected it.
    """
    with temporary_folder("job") as folder, _explained(client.get_address()):
        for name, content in job.files.items():
            Path(folder, name).write_bytes(content)
        sent = {"working_dir": folder} if job.files else {}
        return client.submit_job(entrypoint=job.entrypoint, runtime_env={**sent, "env_vars": job_environment(typed)})


def watch(client: "JobSubmissionClient", job_id: str) -> int:
    """Stream a job's log to standard output until it ends; return the job's exit status.

    Raises:
        ClusterError: the connection to the cluster was lost.
    """
    with _explained(client.get_address()):
        asyncio.run(_print_log(client, job_id))
        info = client.get_job_info(job_id)
    if info.status == "SUCCEEDED":
        return 0
    if info.status == "RUNNING":
        raise ClusterError(f"the connection to {client.get_address()} was lost; the job {job_id} goes on")
    if info.driver_exit_code is None or info.status == "STOPPED":
        sys.stderr.write(f"job {job_id} {info.status.lower()}: {info.message}\n")
    return info.driver_exit_code or 1


def handling_lines(client: "JobSubmissionClient", job_id: str) -> list[str]:
    """Return the commands that show and stop a job."""
    where = shlex.quote(client.get_address())
    return [
        f"  see it:  ray job logs --follow {job_id} --address {where}",
        f"  stop it: ray job stop {job_id} --address {where}",
    ]


async def _print_log(client: "JobSubmissionClient", job_id: str) -> None:
    async for lines in client.tail_job_logs(job_id):
        sys.stdout.write("".join(line for line in lines.splitlines(keepends=True) if not _RAYS_OWN.match(line)))
        sys.stdout.flush()


def _require_listener(address: str) -> None:
    """Check that the address accepts connections: Ray itself would wait for minutes behind a silent firewall."""
    url = urlsplit(address)
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
    except ValueError:
        port = None
    if url.scheme not in ("http", "https") or not url.hostname or port is None:
        raise ClusterError(
            f"{address} is not an address to submit jobs to: expected http://HOST:8265, the address of the cluster's "
            "dashboard"
        )
    if (error := connection_error(url.hostname, port)) is not None:
        raise ClusterError(
            f"nobody listens at {address}: {error.strerror or error}. The dashboard is bound to the head itself: "
            "`ray dashboard CLUSTER.yaml`, `kubectl port-forward` or `ssh -L 8265:localhost:8265 HEAD` bring it here."
        ) from error


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Convert what prevents a cluster from accepting or showing jobs into one sentence."""
    import aiohttp
    import ray.exceptions
    import requests

    try:
        yield
    except ray.exceptions.AuthenticationError as error:
        # Ray's message begins with the server's.
        is_wrong = str(error).startswith("Authentication failed")
        found = "the token is wrong" if is_wrong else "it wants a token, and there is none here"
        raise ClusterError(f"{address} refused: {found}. {TOKEN_HELP}.") from error
    except aiohttp.WSServerHandshakeError as error:
        raise ClusterError(f"{address} does not show the job's log: {error.status} {error.message}") from error
    except (ConnectionError, requests.ConnectionError, aiohttp.ClientError) as error:
        raise ClusterError(
            f"the connection to {address} broke ({type(error).__name__}): either it is no Ray dashboard, whose address "
            "is http://HOST:8265, or its head has ended"
        ) from error
    except (requests.RequestException, KeyError) as error:
        raise ClusterError(
            f"{address} is no Ray dashboard: it answers, but not as one ({type(error).__name__}). Expected "
            "http://HOST:8265"
        ) from error
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        if "returned 404" in reason:
            raise ClusterError(f"{address} is no Ray dashboard: it has no jobs. Expected http://HOST:8265") from error
        raise ClusterError(f"{address} did not take the job: {reason}") from error
