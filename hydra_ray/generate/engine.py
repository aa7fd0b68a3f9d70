"""The generator as everything else sees it: requests in, completions out."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from hydra_ray.config import GeneratorConfig, PlacementConfig, Task
from hydra_ray.records import Completion, Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Keep = Callable[[Sequence[Completion]], None]
"""Puts completions where they outlast the engine."""


def keep_nowhere(_: Sequence[Completion]) -> None:
    """For callers who need completions only once all are there."""


class Engine(Protocol):
    """A generator that can be asked."""

    def generate(self, requests: Sequence[Request], keep: Keep = keep_nowhere) -> list[Completion]:
        """One completion a request, joined by request_id; the order is not defined.

        The result depends on nothing but the requests: neither on earlier calls nor on the process. A request that
        cannot be completed yields a completion with an error.

        Args:
            keep: called with every completion, several at a time, as soon as they are worth keeping.

        Raises:
            EndpointError: nothing can be asked of the generator, whoever asks it.
            GenerationError: the generator itself failed and cannot be used any more.
        """
        ...

    def close(self) -> None:
        """Give its memory back."""
        ...


def open_engine(config: GeneratorConfig, placement: PlacementConfig, task: Task | None) -> Engine:
    """Load the generator that `config` names into this process.

    Args:
        task: the task whose answers it will write, to check that they fit; None for requests of any kind.

    Raises:
        ConfigError: a label of the task is longer than the task's answers may be, or an endpoint's key is missing.
        ModelError: the model is missing or cannot be loaded.
    """
    if config.engine == "fake":
        from hydra_ray.generate.fake_engine import FakeEngine

        return FakeEngine()
    if config.api is not None:
        from hydra_ray.generate.limiter_actor import open_limiter
        from hydra_ray.generate.openai_engine import OpenAiEngine

        return OpenAiEngine(config, config.api, open_limiter(config.api))
    from hydra_ray.generate.vllm_engine import VllmEngine

    return VllmEngine(config, placement, task)


def open_tokenizer(config: GeneratorConfig) -> "PreTrainedTokenizerBase":
    """The tokenizer with which prompts for the generator that `config` names are fitted.

    Raises:
        ModelError: the model is missing or its tokenizer cannot be loaded.
    """
    if config.engine == "fake":
        from hydra_ray.generate.fake_engine import fake_tokenizer

        return fake_tokenizer()
    from hydra_ray.models import load_tokenizer

    return load_tokenizer(config.model)
