"""SIGKILL of the process that speaks with the endpoint, at every call and between all writes: nothing is paid twice.

The endpoint kills its caller when a call arrives or after it has had its effect; the process kills itself before a
write or a removal of a file. Another process then goes on.
"""

import multiprocessing
import signal
from pathlib import Path

import pytest
from batch_server import BatchServer, Fault
from batch_stage import killed_answer, two_batches

from hydra_ray.generate.batches.records import batches_of
from hydra_ray.storage import list_tree

pytestmark = pytest.mark.integration

CALLS = ("upload", "list_files", "create", "list_batches", "retrieve", "content", "delete_file")
BEFORE, AFTER = Fault(kills_before=True), Fault(kills_after=True)
MAX_WRITES = 100
_PROCESSES = multiprocessing.get_context("forkserver")
# What is imported at its first use otherwise, by each process anew.
_LATE = ("httpcore2", "openai.resources.batches", "openai.resources.files", "pandas", "pyarrow.dataset")
_PROCESSES.set_forkserver_preload(["hydra_ray.generate.batches.session", *_LATE])


def run(server: BatchServer, root: Path, kill_at: int | None = None) -> int | None:
    """Answer the stage in a process of its own; return its exit code."""
    may_start = _PROCESSES.Event()
    process = _PROCESSES.Process(target=killed_answer, args=(root, server.url, may_start, kill_at))
    process.start()
    server.caller = process.pid
    may_start.set()
    process.join()
    return process.exitcode


def require_all_answered_once(server: BatchServer, root: Path) -> None:
    stage = two_batches(root, server.url)
    assert stage.num_left == 0
    assert server.paid.total() == len(server.paid) == 10
    assert len([each for each in server.batches.values() if each.fields["status"] != "failed"]) == 2
    assert server.files == {}
    assert list_tree(batches_of(stage.store).folder) == []


@pytest.mark.parametrize("when", [BEFORE, AFTER], ids=["before", "after"])
@pytest.mark.parametrize("call", CALLS)
def test_a_kill_at_a_call_is_paid_once(server: BatchServer, tmp_path: Path, call: str, when: Fault):
    server.fail(call, when)
    assert run(server, tmp_path) == -signal.SIGKILL
    assert run(server, tmp_path) == 0
    require_all_answered_once(server, tmp_path)


@pytest.mark.parametrize("call", CALLS)
def test_repeated_kills_at_a_later_call_are_paid_once(server: BatchServer, tmp_path: Path, call: str):
    server.fail(call, Fault(), AFTER, BEFORE, AFTER)
    while (code := run(server, tmp_path)) == -signal.SIGKILL:
        pass
    assert code == 0
    require_all_answered_once(server, tmp_path)


def test_a_kill_before_any_write_or_removal_is_paid_once(tmp_path: Path):
    for kill_at in range(MAX_WRITES):
        with BatchServer() as server:
            root = tmp_path / str(kill_at)
            code = run(server, root, kill_at)
            if code == 0:
                assert kill_at > 15
                return
            assert code == -signal.SIGKILL
            assert run(server, root) == 0
            require_all_answered_once(server, root)
    pytest.fail(f"the stage took more than {MAX_WRITES} writes")
