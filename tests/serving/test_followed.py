"""A scorer that follows its run knows whom to forget soon, and outlasts a store that cannot be reached."""

import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException

from hydra_ray.errors import StorageError
from hydra_ray.forget.removal import forget_users
from hydra_ray.rows import User
from hydra_ray.serving.export import export_run
from hydra_ray.serving.followed import FollowedScorer
from hydra_ray.serving.scorer import ServedScorer
from hydra_ray.serving.service import require_followed
from hydra_ray.stages.plan import Plan, plan_recorded
from hydra_ray.stages.tables import read_users

# Third parties: what imports torch uses what others have deprecated.
pytestmark = pytest.mark.filterwarnings("default")
SOON = 0.01
SECONDS = 60


@pytest.fixture
def run(small_run: Plan, tmp_path: Path) -> Plan:
    """A copy of the run, whose users may be forgotten."""
    shutil.copytree(small_run.config.storage.root, tmp_path / "root")
    return plan_recorded(str(tmp_path / "root" / "runs" / small_run.config.run))


@pytest.fixture
def export(run: Plan, tmp_path: Path) -> str:
    return export_run(run, str(tmp_path / "export")).folder


class Pulls:
    """Every pull of every scorer: what each does, and that it has been done."""

    def __init__(self, pull: Any) -> None:
        self.error: Exception | None = None
        self._pull, self._done = pull, threading.Semaphore(0)

    def pull(self, scorer: ServedScorer, *run: Any) -> tuple[str, ...]:
        try:
            if self.error is not None:
                raise self.error
            return self._pull(scorer, *run)
        finally:
            self._done.release()

    def wait_for(self, number: int) -> None:
        """Wait until some pulls have begun and ended."""
        while self._done.acquire(blocking=False):
            pass
        for _ in range(1 + number):  # the first may have begun before
            assert self._done.acquire(timeout=SECONDS)


@pytest.fixture
def pulls(monkeypatch: pytest.MonkeyPatch) -> Pulls:
    pulls = Pulls(ServedScorer.pull)

    def pull(scorer: ServedScorer, *run: Any) -> tuple[str, ...]:
        return pulls.pull(scorer, *run)

    monkeypatch.setattr(ServedScorer, "pull", pull)
    return pulls


@pytest.fixture
def followed(export: str, pulls: Pulls) -> Iterator[FollowedScorer]:
    followed = FollowedScorer(export, pull_seconds=SOON)
    yield followed
    followed.close()


def users_of(run: Plan) -> list[User]:
    return [user for bucket in run.users.buckets for user in read_users(run, bucket)]


def test_whoever_is_forgotten_is_unknown_after_the_next_pull(run: Plan, followed: FollowedScorer, pulls: Pulls):
    gone, stays, *_ = users_of(run)
    assert followed.scorer.history_of(gone.user_id) == gone.history
    forget_users(run.config.storage.root, [gone.user_id])
    while followed.scorer.history_of(gone.user_id):
        pulls.wait_for(1)
    assert followed.scorer.history_of(stays.user_id) == stays.history


def test_whoever_was_forgotten_before_the_start_is_unknown_from_the_start(run: Plan, export: str):
    gone, *_ = users_of(run)
    forget_users(run.config.storage.root, [gone.user_id])
    followed = FollowedScorer(export, pull_seconds=3600)
    assert followed.scorer.history_of(gone.user_id) == ()
    followed.close()


def test_a_store_that_cannot_be_reached_is_told_once_and_got_over(
    followed: FollowedScorer, pulls: Pulls, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        pulls.error = StorageError("the store cannot be reached")
        pulls.wait_for(5)
    (told,) = caplog.messages
    assert told == "what was pulled last stays: the store cannot be reached"
    require_followed(followed)
    pulls.error = None
    pulls.wait_for(1)
    require_followed(followed)


def test_without_a_first_pull_nothing_is_served_and_no_copy_is_left(
    run: Plan, pulls: Pulls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    pulls.error = StorageError("the store cannot be reached")
    with pytest.raises(StorageError, match="cannot be reached"):
        FollowedScorer(run.run_folder)
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_the_program_itself_ends_following_and_is_told_as_unhealthy(followed: FollowedScorer, pulls: Pulls):
    pulls.error = AssertionError("a fault of the program")
    assert followed._thread is not None
    followed._thread.join(SECONDS)
    assert not followed.is_followed
    with pytest.raises(HTTPException, match="not pulled any more"):
        require_followed(followed)


def test_a_scorer_that_never_pulls_needs_no_root(run: Plan, export: str, pulls: Pulls):
    shutil.rmtree(run.config.storage.root)
    pulls.error = AssertionError("pulled")
    followed = FollowedScorer(export, pull_seconds=0)
    require_followed(followed)
    followed.close()
