"""One owner at a time, whatever becomes of owners; on both kinds of stores."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hydra_ray import storage
from hydra_ray.runs import lease as leases
from hydra_ray.runs.lease import Pace, claim, lease, live_owners, root_lease
from hydra_ray.runs.stage import Stage

QUICK = Pace(beat_seconds=0.02, poll_seconds=0.01, patience_seconds=3)
HASTY = replace(QUICK, patience_seconds=0.1)


@pytest.fixture(scope="module", params=["local", "s3"])
def location(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """A new place for a lease."""
    root = str(tmp_path_factory.mktemp("root")) if request.param == "local" else request.getfixturevalue("s3_root")
    return lambda: f"{root}/{uuid.uuid4().hex}/lease.json"


def left_behind(location: str, **changes: object) -> None:
    """Put the lease of an owner who does not change it any more."""
    owner = replace(leases._new_owner(), name="left behind", **changes)
    storage.write_bytes(location, owner.content())


@contextmanager
def elsewhere(location: str) -> Iterator[threading.Event]:
    """Another run, which holds the lease until the event is set."""
    holds, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with lease(location, "other", QUICK):
            holds.set()
            may_end.wait()

    other = threading.Thread(target=hold)
    other.start()
    holds.wait()
    try:
        yield may_end
    finally:
        may_end.set()
        other.join()


def test_of_many_there_is_one_owner_at_a_time_and_everybody_has_a_turn(location):
    place, inside, most = location(), [], []

    def work(number: int) -> None:
        with lease(place, f"work {number}", QUICK):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most == [1] * 5
    assert not storage.exists(place)


def test_who_waits_says_for_whom(location, caplog: pytest.LogCaptureFixture):
    place = location()
    caplog.set_level("INFO")
    with elsewhere(place) as may_end:
        threading.Timer(0.1, may_end.set).start()
        with lease(place, "stage probes", QUICK):
            pass
    assert f"stage probes: waits for process {os.getpid()} on " in caplog.text


def test_an_owner_who_changes_the_lease_is_never_taken_over(location):
    place = location()
    patient = replace(QUICK, patience_seconds=1)
    with elsewhere(place) as may_end:
        end = threading.Timer(3, may_end.set)
        end.start()
        with lease(place, "second", patient):
            assert may_end.is_set()


def test_an_owner_elsewhere_who_is_silent_is_taken_over(location):
    place = location()
    left_behind(place, machine="another", pid=1)
    with lease(place, "second", HASTY):
        assert json.loads(storage.read_bytes(place))["name"] != "left behind"


def test_an_owner_whose_process_is_gone_is_taken_over_at_once(location):
    place = location()
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pid = process.pid
    left_behind(place, pid=pid, started="1")
    with lease(place, "second", replace(QUICK, patience_seconds=1e9)):
        pass


def test_a_process_that_has_the_number_of_an_owner_who_is_gone_is_not_the_owner(location):
    place = location()
    left_behind(place, started="1")
    with lease(place, "second", replace(QUICK, patience_seconds=1e9)):
        pass


@pytest.mark.parametrize("content", [b"", b'{"name": "x"', b"[]", b'{"owner": "of another version"}'])
def test_a_lease_that_nobody_can_read_expires(location, content: bytes):
    place = location()
    storage.write_bytes(place, content)
    with lease(place, "second", HASTY):
        pass


def test_no_time_of_day_decides_anything(location, monkeypatch: pytest.MonkeyPatch):
    place = location()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    left_behind(place, machine="another", pid=1)
    with lease(place, "second", HASTY):
        assert json.loads(storage.read_bytes(place))["name"] != "left behind"
    with elsewhere(place) as may_end:
        monkeypatch.setattr(time, "time", lambda: 4e9)  # the year 2096
        threading.Timer(0.1, may_end.set).start()
        with lease(place, "third", QUICK):
            assert may_end.is_set()


def test_an_owner_who_was_taken_over_is_told_and_leaves_the_new_owner_alone(location, caplog):
    place = location()
    with lease(place, "first", QUICK):
        new = replace(leases._new_owner(), name="new").content()
        while "first: another run took over" not in caplog.text:
            storage.write_bytes(place, new)  # again, since a sign of life may have been under way
            time.sleep(0.01)
    assert json.loads(storage.read_bytes(place))["name"] == "new"


def test_the_lease_is_given_back_after_an_error(location):
    place = location()
    with pytest.raises(RuntimeError), lease(place, "failing", QUICK):
        raise RuntimeError
    assert not storage.exists(place)


def test_only_live_owners_are_told(location):
    held, silent, gone, absent, changing = (location() for _ in range(5))
    left_behind(silent, machine="another", pid=1)
    left_behind(changing, machine="another", pid=2)
    left_behind(gone, started="1")
    is_over = threading.Event()

    def change() -> None:
        beat = 0
        while not is_over.wait(0.02):
            left_behind(changing, machine="another", pid=2, beat=(beat := beat + 1))

    changes = threading.Thread(target=change)
    changes.start()
    with elsewhere(held):
        found = live_owners([held, silent, gone, absent, changing], replace(QUICK, patience_seconds=2))
    is_over.set()
    changes.join()
    assert {place: owner.pid for place, owner in found.items()} == {held: os.getpid(), changing: 2}


def test_no_stage_is_made_while_users_are_forgotten(tmp_path: Path):
    stage = Stage(name="probes", fingerprint="f" * 16, root=str(tmp_path), num_buckets=1)
    with elsewhere(root_lease(str(tmp_path))) as may_end:
        threading.Timer(0.1, may_end.set).start()
        with claim(stage, QUICK):
            assert may_end.is_set()
            assert storage.exists(stage.lease_location)
            assert not storage.exists(root_lease(str(tmp_path)))
