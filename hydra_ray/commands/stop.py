"""Stop of a run: its process is asked to end, and its batches go on at the endpoint or are cancelled."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

from hydra_ray.config import RunConfig
from hydra_ray.errors import ConfigError, StorageError
from hydra_ray.findings import counted
from hydra_ray.generate.batches.records import MERGED, BatchRecord, batches_below
from hydra_ray.generate.completion_store import CompletionStore, asker_of
from hydra_ray.runs.lease import Owner, live_owners, run_lease
from hydra_ray.runs.run_folder import read_config, root_of_run
from hydra_ray.stages.outline import Outline, read_outline

_END_SECONDS = 30.0
"""Longest wait for the run's process to end."""
_LOOK_SECONDS = 0.1


def stop_lines(run_folder: str, *, is_cancelling: bool) -> Iterator[str]:
    """Stop the run in `run_folder` and yield lines on what became of its process and its batches.

    Args:
        is_cancelling: whether to cancel its batches too; what they have answered is stored.

    Raises:
        InputError: there is no run in the folder.
        EndpointError: the endpoint does not cancel them.
        StorageError: a process on another machine works on the run, and no batch was cancelled.
    """
    config = read_config(run_folder)
    location = run_lease(root_of_run(run_folder), config.run)
    owner = live_owners([location]).get(location)
    yield "no process works on the run" if owner is None else _end(owner)
    if is_cancelling and location in live_owners([location]):
        raise StorageError(
            f"{owner} still works on the run and would submit again what is cancelled. No batch was cancelled. Stop "
            "that process, then repeat the command."
        )
    found = batches_of_run(run_folder)
    if not found:
        yield "no batches are under way"
    elif is_cancelling:
        yield from _cancel(config, found)
    else:
        yield from (f"{batch_line(record)} goes on at {record.base_url}" for _, record in found.values())
        yield (
            "They are paid for. Run the same configuration again to wait for their answers, or cancel them with "
            f"`hydra-ray stop {run_folder} --cancel`."
        )


def batches_of_run(run_folder: str) -> dict[str, tuple[CompletionStore, BatchRecord]]:
    """Return the batches of a run's stages that are not cleared away, with their stores, by key."""
    askers = stages_by_asker(read_outline(run_folder))
    below = batches_below(root_of_run(run_folder))
    return {record.key: (store, record) for store, record in below if record.asker in askers}


def stages_by_asker(outline: Outline) -> dict[str, str]:
    """Return the names of a run's stages by the names that they have in stores."""
    return {asker_of(each.stage.name, each.stage.fingerprint): each.stage.name for each in outline.stages}


def batch_line(record: BatchRecord) -> str:
    """Return a line on a batch."""
    stage = record.asker.rpartition("-")[0]
    done = f"{record.num_done} of {counted(record.num_lines, 'request')} done"
    return f"batch {record.name} of {stage}: {record.status}, {done}"


def _end(owner: Owner) -> str:
    """Ask the process of a run to end, and wait until it has."""
    if not owner.is_here():
        return f"{owner} works on the run: stop it there (`ray job stop`, or SIGTERM)"
    with suppress(ProcessLookupError):
        os.kill(owner.pid, signal.SIGTERM)
    end = time.monotonic() + _END_SECONDS
    while owner.is_here() and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
    return f"{owner} {'was asked to end, and is still ending' if owner.is_here() else 'has ended'}"


def _cancel(config: RunConfig, found: dict[str, tuple[CompletionStore, BatchRecord]]) -> Iterator[str]:
    from hydra_ray.generate.batches.session import open_session

    if config.generator.api is None:
        raise ConfigError(
            f"the run {config.run} has batches under way, and its configuration has no generator.api to cancel them: "
            "run it with the endpoint that has them first"
        )
    stores = {record.asker: store for store, record in found.values()}
    left: dict[str, BatchRecord] = {}
    for asker, store in stores.items():
        with open_session(asker.rpartition("-")[0], asker, store, config.generator, lambda _: None) as session:
            left |= {each.key: each for each in session.cancel()}
    for key, (_, record) in found.items():
        state = "is being cancelled" if key in left else "has ended; what it answered is stored, and its files are gone"
        yield f"batch {record.batch_id or key} {state}"
    if any(record.status != MERGED for record in left.values()):
        yield "Repeat the command in some minutes to store what was answered before and to remove the files."
