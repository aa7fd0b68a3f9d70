"""Ray Tune callbacks of a sweep: a log line per finished trial, and TensorBoard events."""

import logging
from typing import Any

from ray.tune import Callback
from ray.tune.logger import TBXLoggerCallback

from hydra_ray.findings import counted
from hydra_ray.runs.signals import defers_stop

logger = logging.getLogger(__name__)


class Announcer(Callback):
    """Logs each trial when it ends."""

    def __init__(self, num_trials: int):
        self._num_trials = num_trials
        self._num_ended = 0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Log a trial that reported a result."""
        self._log(trial.last_result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Log a trial that failed without a result."""
        self._log({})

    def _log(self, reported: dict[str, Any]) -> None:
        self._num_ended += 1
        outcome = "failed"
        if "quality" in reported:
            quality, tokens = f"{reported['quality']:.3f}", reported["generated_tokens"]
            computed = counted(reported["num_computed"], "stage")
            outcome = f"{reported['run']}: quality {quality}, {tokens} generated tokens, {computed} computed"
        logger.info("trial %d of %d: %s", self._num_ended, self._num_trials, outcome)


class EventWriter(TBXLoggerCallback):
    """Tune's TensorBoard logger, with signals deferred while it closes a file.

    A signal that interrupts closing would leave the writer thread writing to a closed file: Python considers a thread
    ended once a join of it was interrupted (bpo-45274).
    """

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """Flush a trial's events and close its file."""
        with defers_stop():
            super().log_trial_end(trial, failed)
