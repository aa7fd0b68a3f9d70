"""Engine of another package, whose answers are checked before they are stored."""

from collections.abc import Sequence
from typing import cast

from hydra_ray.config import GeneratorConfig, PlacementConfig, Task
from hydra_ray.errors import ConfigError, HydraError
from hydra_ray.generate.engine import ENGINE, Engine, Keep, keep_nowhere
from hydra_ray.plugins import call_plugin, failure_of
from hydra_ray.rows import Completion, Generation, Prompt, Request


class EngineOfPlugin:
    """Asks an engine of another package, and lets no completion through that is not one of a request."""

    def __init__(self, config: GeneratorConfig, placement: PlacementConfig, task: Task | None):
        """Open the engine.

        Raises:
            ConfigError: the function fails, or returns no engine.
        """
        self._name = config.engine
        found = call_plugin(self._name, ENGINE, config, placement, task)
        max_parts = getattr(found, "max_parts", None)
        if not isinstance(max_parts, int) or max_parts < 1:
            raise self._wrong(f"an engine whose max_parts is {max_parts!r}", "a number of parts, at least 1")
        if not callable(getattr(found, "answer", None)) or not callable(getattr(found, "close", None)):
            raise self._wrong(type(found).__name__, "an engine with the functions answer and close")
        self._engine: Engine = found
        self.max_parts = max_parts

    async def answer(self, prompts: Sequence[Prompt], keep: Keep = keep_nowhere) -> list[Completion]:
        """Return one completion per prompt.

        Raises:
            ConfigError: the engine fails with another error than those of this package, or returns something else.
        """
        asked = {prompt.request.request_id: prompt.request for prompt in prompts}
        try:
            found = await self._engine.answer(prompts, lambda completions: keep(self._checked(completions, asked)))
        except HydraError:
            raise
        except Exception as error:
            raise failure_of(self._name, ENGINE, error) from None
        completions = self._checked(found, asked)
        if {each.request_id for each in completions} != {*asked} or len(completions) != len(asked):
            raise self._wrong(f"{len(completions)} completions", f"one for each of {len(asked)} requests")
        return completions

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _checked(self, found: object, asked: dict[str, Request]) -> list[Completion]:
        if not isinstance(found, list | tuple):
            raise self._wrong(type(found).__name__, "a list of hydra_ray.rows.Completion")
        for each in cast(Sequence[object], found):
            if not isinstance(each, Completion):
                raise self._wrong(f"a list with {type(each).__name__}", "a list of hydra_ray.rows.Completion")
            request = asked.get(each.request_id)
            if request is None or request.user_id != each.user_id:
                raise self._wrong("a completion of another request", "the request_id and user_id of a request")
            self._require_generations(each, request)
        return list(cast(Sequence[Completion], found))

    def _require_generations(self, completion: Completion, request: Request) -> None:
        generations = completion.generations
        expected = request.num_samples if completion.error is None else 0
        if len(generations) != expected:
            raise self._wrong(
                f"{len(generations)} generations {'with' if completion.error else 'without'} an error",
                f"{expected}: num_samples of the request without an error, none with one",
            )
        if not all(isinstance(each, Generation) and isinstance(each.text, str) for each in generations):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise self._wrong("generations of another type", "hydra_ray.rows.Generation with a text")

    def _wrong(self, got: str, expected: str) -> ConfigError:
        return ConfigError(f"{ENGINE} is {self._name}, which returned {got}; expected {expected}")
