"""Opens the engine that a configuration names; each engine module is imported only when it is opened."""

from typing import TYPE_CHECKING

from hydra_ray.config import GeneratorConfig, PlacementConfig, Task
from hydra_ray.config.section import is_plugin
from hydra_ray.generate.engine import Engine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def open_engine(config: GeneratorConfig, placement: PlacementConfig, task: Task | None) -> Engine:
    """Load the generator that `config` names into this process, or connect to its endpoint.

    Args:
        task: task whose labels must fit the answer length; None for requests of any kind.

    Raises:
        ConfigError: a label of the task is longer than the task's answers may be, an endpoint's key is missing, vLLM
            does not have an argument that is to be passed on, or a function of another package returns no engine.
        ModelError: the model is missing or cannot be loaded.
    """
    if config.engine == "fake":
        from hydra_ray.generate.engines.fake import FakeEngine

        return FakeEngine()
    if is_plugin(config.engine):
        from hydra_ray.generate.engines.of_plugin import EngineOfPlugin

        return EngineOfPlugin(config, placement, task)
    if config.api is not None:
        from hydra_ray.generate.engines.limiter_actor import open_limiter
        from hydra_ray.generate.engines.openai import OpenAiEngine

        return OpenAiEngine(config, config.api, open_limiter(config.api))
    from hydra_ray.generate.engines.vllm import open_vllm

    return open_vllm(config, placement, task)


def open_tokenizer(config: GeneratorConfig) -> "PreTrainedTokenizerBase":
    """Return the tokenizer with which prompts for the generator are fitted to its context.

    Raises:
        ModelError: the model is missing or its tokenizer cannot be loaded.
    """
    if config.engine in ("fake", "none"):  # a forecast without a generator fits no prompts
        from hydra_ray.generate.engines.fake import fake_tokenizer

        return fake_tokenizer()
    from hydra_ray.models import load_tokenizer

    return load_tokenizer(config.model)
