"""The pool on Ray: one load for several stages and runs, deaths of copies, and room for other work."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from builders import run_config
from fault_server import FaultServer, Reply

from hydra_ray.config import GeneratorConfig, PlacementConfig
from hydra_ray.engine.generation import AskingStage, run_generation
from hydra_ray.engine.generator_actor import Loadable
from hydra_ray.engine.generator_pool import generators_kept, open_pool, room_for
from hydra_ray.engine.parts import Counters
from hydra_ray.errors import BudgetError, ConfigError
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.generate.requests import make_request
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Asked, Completion, Message
from hydra_ray.runs.resources import other_work
from hydra_ray.runs.stage import Stage
from hydra_ray.storage import write_part

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    # Third parties: Ray leaves sockets and processes to the interpreter's end and uses what others have deprecated.
    pytest.mark.filterwarnings("default"),
]

NUM_PARTS, NUM_REQUESTS = 3, 4


@pytest.fixture(scope="module", autouse=True)
def _own_classes_travel() -> None:
    """Workers cannot import this module."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Given:
    """Requests of a stage that are the same whenever they are made."""

    def __init__(self, stage: Stage, config: GeneratorConfig):
        self._stage, self._config = stage, config

    def requests(self, bucket: int) -> list[Asked]:
        return [
            Asked(
                key=str(number),
                request=make_request(
                    user_id=f"user {bucket}",
                    messages=(Message(role="user", content=f"{self._stage.name} question {number} of part {bucket}"),),
                    max_tokens=8,
                    config=self._config,
                ),
            )
            for number in range(NUM_REQUESTS)
        ]

    def commit(self, bucket: int, completions: Mapping[str, Completion], counters: Counters) -> Counters:
        table = pa.table({"key": list(completions), "error": [each.error for each in completions.values()]})
        write_part(self._stage.part("rows", bucket), table, counters)
        return counters


def ask(
    root: Path, names: Sequence[str], generator: GeneratorConfig, is_refused: bool = False, **placement: Any
) -> dict[str, Counters]:
    stages = [Stage(name=name, fingerprint="0" * 16, root=str(root), num_buckets=NUM_PARTS) for name in names]
    asking = [AskingStage(stage=stage, tables=["rows"], work=Given(stage, generator)) for stage in stages]
    loadable = Loadable(task=TASKS["planted"], generator=generator, placement=PlacementConfig(**placement))
    found: dict[str, Counters] = {}

    def go_on(_: Counters) -> None:
        if is_refused:
            raise BudgetError("nothing is left")

    store = CompletionStore(root=str(root), name="0" * 16)
    run_generation(asking, store, loadable, go_on, lambda stage, counters: found.update({stage.name: counters}))
    return found


def num_started() -> int:
    import ray

    return ray.get(open_pool().num_started.remote())


def copies() -> set[int]:
    """Processes of this process's Ray that hold a copy of the generator."""
    found: set[int] = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any("GeneratorActor" in word for word in process.cmdline()):
                found.add(process.pid)
    return found


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    with generators_kept():
        yield


def test_stages_asked_together_and_runs_after_them_are_answered_by_one_copy(tmp_path: Path):
    generator = run_config().generator
    found = ask(tmp_path / "first", ["profiles", "probes"], generator)
    assert set(found) == {"profiles", "probes"}
    assert [each["asked_now"] for each in found.values()] == [NUM_PARTS * NUM_REQUESTS] * 2
    ask(tmp_path / "second", ["drafts"], generator)
    assert num_started() == 1


def test_what_is_known_is_committed_without_a_generator(tmp_path: Path):
    generator = run_config().generator
    stage = Stage(name="probes", fingerprint="0" * 16, root=str(tmp_path), num_buckets=NUM_PARTS)
    ask(tmp_path, ["probes"], generator)
    for bucket in range(NUM_PARTS):
        Path(stage.part("rows", bucket)).unlink()
    before = num_started()
    found = ask(
        tmp_path, ["probes"], generator, is_refused=True, generator_threads=1
    )  # another generator, never loaded
    assert found["probes"]["requests"] == NUM_PARTS * NUM_REQUESTS
    assert num_started() == before
    with pytest.raises(BudgetError, match="nothing is left"):
        ask(tmp_path, ["drafts"], generator, is_refused=True)


def test_a_generator_that_cannot_be_opened_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HYDRA_TEST_KEY", raising=False)
    api = {"base_url": "http://localhost/v1", "model": "m", "api_key_env": "HYDRA_TEST_KEY"}
    with pytest.raises(ConfigError, match=r"^[^\n]*HYDRA_TEST_KEY[^\n]*$"):
        ask(tmp_path, ["probes"], run_config(generator={"engine": "openai", "api": api}).generator)


def test_a_killed_copy_is_replaced_and_its_answers_are_not_asked_again(tmp_path: Path):
    with FaultServer(usual=Reply(seconds=2)) as server:
        api = {"base_url": server.url, "model": "m", "max_concurrent_requests": 2}
        generator = run_config(generator={"engine": "openai", "api": api}).generator
        killed: list[int] = []

        def kill() -> None:
            if wait_for(lambda: server.num_answered >= 6):  # of its first part, at least two are kept by then
                killed.extend(copies())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

        killing = threading.Thread(target=kill)
        killing.start()
        found = ask(tmp_path, ["probes"], generator)
        killing.join()
    assert killed
    assert found["probes"]["requests"] == NUM_PARTS * NUM_REQUESTS
    assert found["probes"].get("failed", 0) == 0
    # No more than what was in flight, or had come within the second in which answers are kept.
    assert len(server.calls) <= NUM_PARTS * NUM_REQUESTS + 4


def test_idle_copies_leave_when_other_work_needs_their_room(tmp_path: Path):
    generator = run_config().generator
    ask(tmp_path, ["probes"], generator, generator_cpus=1.5)  # which leaves room for steps, and not for an encoder
    with room_for(other_work("encoders", PlacementConfig())):
        pass
    assert wait_for(lambda: not copies())
    ask(tmp_path, ["drafts"], generator, generator_cpus=1)
    with room_for(other_work("encoders", PlacementConfig())):
        assert len(copies()) == 1


def wait_for(condition: Callable[[], bool]) -> bool:
    """Return whether a condition comes true within a minute."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()
