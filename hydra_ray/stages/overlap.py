"""Stages that are made while the generator is loaded and answers, since they read nothing that it says.

The label model and own heads are made of users' records alone. Where Ray has room for them beside the generator, they
are made meanwhile, one after the other, in a thread of their own. They and the steps before and after the generator may
have to wait for each other's CPUs, but not longer than if these stages were made afterwards.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager

from hydra_ray.config import RunConfig
from hydra_ray.engine.generator_pool import has_room_beside
from hydra_ray.runs.resources import other_work
from hydra_ray.runs.signals import begin_aside
from hydra_ray.runs.stage import Stage
from hydra_ray.stages.definition import StageDefinition

MadeStage = tuple[StageDefinition, Stage]
Make = Callable[[MadeStage], None]


class Overlap:
    """Makes stages while the generator answers."""

    def __init__(self, config: RunConfig, stages: Sequence[MadeStage], make: Make):
        self._config, self._stages, self._make = config, stages, make
        self._work: Future[None] | None = None
        self._is_over = threading.Event()

    def begin(self) -> None:
        """Begin to make those that are missing, unless they were begun or lack room. Called before the generator is
        asked."""
        missing = [(definition, stage) for definition, stage in self._stages if not stage.is_complete()]
        if self._work is not None or not missing:
            return
        placement = self._config.placement
        demands = [demand for definition, _ in missing for demand in other_work(definition.workers, placement)]
        if has_room_beside(placement, demands):
            self._work = begin_aside(lambda: self._make_all(missing))

    def has_made(self, made: MadeStage) -> bool:
        """Return whether a stage was made by this; waits for it. What failed is raised, of whatever stage it was."""
        is_own = self._work is not None and made in self._stages
        if self._work is not None and (is_own or self._work.done()):
            self._work.result()
        return is_own

    def end(self) -> None:
        """Begin no further stage, and wait for the one under way."""
        self._is_over.set()
        if self._work is not None:
            wait([self._work])

    def _make_all(self, stages: Sequence[MadeStage]) -> None:
        for each in stages:
            if self._is_over.is_set():
                return
            self._make(each)


@contextmanager
def overlapping(config: RunConfig, stages: Sequence[MadeStage], make: Make) -> Iterator[Overlap]:
    """Yield what makes stages while the generator answers; nothing of it is at work after the block, unless a signal
    ends the program.

    Args:
        stages: all stages of the run, in order.
        make: makes one stage.
    """
    overlap = Overlap(config, _without_answers(stages), make)
    try:
        yield overlap
    except Exception:
        overlap.end()
        raise


def _without_answers(stages: Sequence[MadeStage]) -> list[MadeStage]:
    """Return the stages whose work needs workers and that read nothing that the generator answers, not even by way of
    others."""
    answered, found = set[str](), list[MadeStage]()
    for definition, stage in stages:
        if definition.asks is not None or not answered.isdisjoint((*definition.inputs, *definition.added_inputs)):
            answered.add(definition.name)
        elif definition.inputs and definition.workers != "driver":
            found.append((definition, stage))
    return found
