"""A line for each trial that has ended."""

import logging
from typing import Any

from ray.tune import Callback

logger = logging.getLogger(__name__)


class Announcer(Callback):
    """Tells Tune's trials as they end."""

    def __init__(self, num_trials: int):
        self._num_trials = num_trials
        self._num_ended = 0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """One more trial has ended with a report."""
        self._tell(trial.last_result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """One more trial has ended without any."""
        self._tell({})

    def _tell(self, reported: dict[str, Any]) -> None:
        self._num_ended += 1
        told = "failed"
        if "quality" in reported:
            quality, tokens = f"{reported['quality']:.3f}", reported["generated_tokens"]
            num_computed = reported["num_computed"]
            told = f"{reported['run']}: quality {quality}, {tokens} generated tokens, {num_computed} stages computed"
        logger.info("trial %d of %d: %s", self._num_ended, self._num_trials, told)
