"""A scorer that follows its run: a thread pulls the run's updates, and whom to forget, every few seconds."""

import logging
import threading
import time
from contextlib import ExitStack

from hydra_ray.errors import HydraError
from hydra_ray.serving.opening import open_scorer

_log = logging.getLogger(__name__)


class FollowedScorer:
    """The scorer at a location, as of a few seconds ago."""

    def __init__(self, location: str, run: str | None = None, pull_seconds: float = 5) -> None:
        """Load the scorer and pull once, so that nobody who was forgotten is known after a restart either.

        Args:
            location: folder or URI of an export or of a finished run.
            run: folder of the run; by default where the export found it.
            pull_seconds: time between two pulls; 0 never pulls, not even once.

        Raises:
            HydraError: as `open_scorer` and `ServedScorer.pull`.
        """
        self._stop = threading.Event()
        with ExitStack() as stack:  # so that a pull that fails leaves no copy
            self.scorer = open_scorer(location, stack)
            self._run, self._pull_seconds = run, pull_seconds
            self.updates: tuple[str, ...] = self.scorer.pull(run) if pull_seconds else ()
            self._pulled_at = time.monotonic()
            self._stack = stack.pop_all()
        self._thread = threading.Thread(target=self._follow, name="pull", daemon=True) if pull_seconds else None
        if self._thread is not None:
            self._thread.start()

    @property
    def is_followed(self) -> bool:
        """Whether the run is followed still, or was never to be: False after an error that no later pull gets over."""
        return self._thread is None or self._thread.is_alive()

    @property
    def seconds_since_pull(self) -> float:
        """Time since the last pull that succeeded; of a scorer that never pulls, since it was loaded."""
        return time.monotonic() - self._pulled_at

    def pull(self) -> tuple[str, ...]:
        """Pull now; return the names of the updates that are known beside the export, oldest first.

        Raises:
            HydraError: as `ServedScorer.pull`; what was known before stays.
        """
        self.updates = self.scorer.pull(self._run)
        self._pulled_at = time.monotonic()
        return self.updates

    def close(self) -> None:
        """Stop following, and remove a local copy."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._stack.close()

    def _follow(self) -> None:
        told = ""
        while not self._stop.wait(self._pull_seconds):
            try:
                self.pull()
                told = ""
            except HydraError as error:  # a store that cannot be reached, an update that is damaged
                if str(error) != told:
                    told = str(error)
                    _log.warning("what was pulled last stays: %s", told)
