"""How vLLM is loaded: its environment, and the arguments of its engine by a configuration."""

import ast
import importlib.util
import os
from functools import cache
from pathlib import Path
from typing import Any

from hydra_ray.config import GeneratorConfig, PlacementConfig
from hydra_ray.config.check import did_you_mean
from hydra_ray.config.engine_arguments import parallel_ranks
from hydra_ray.errors import ConfigError
from hydra_ray.models import resolve_model

CPU_BLOCK_TOKENS = 32
"""Tokens per block of the key-value cache on CPU, where vLLM's default of 128 shares few prefixes."""
_CPU_SEQUENCES = 64
"""Largest number of concurrent sequences on CPU, where none is configured."""
_DEFINITION = Path("engine", "arg_utils.py"), "EngineArgs"
"""Where vLLM defines the arguments of its engine."""


def set_environment(config: GeneratorConfig, placement: PlacementConfig) -> None:
    """Set the environment variables that vLLM and OpenMP read when they are imported."""
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    if placement.generator_gpus == 0:
        os.environ |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the model in this process
            "OMP_NUM_THREADS": str(placement.generator_threads),
            "VLLM_CPU_KVCACHE_SPACE": str(placement.generator_kv_cache_gigabytes),
        }
    else:
        os.environ["VLLM_BATCH_INVARIANT"] = str(int(config.is_batch_invariant))


def engine_arguments(config: GeneratorConfig, placement: PlacementConfig) -> dict[str, Any]:
    """Return the arguments of vLLM's engine.

    Raises:
        ConfigError: some of `generator.engine_args` are none of vLLM's.
        ModelError: the model is missing.
    """
    require_known_arguments(config)
    is_cpu = placement.generator_gpus == 0
    return {
        "model": resolve_model(config.model),
        "dtype": config.dtype,
        "seed": config.seed,
        "max_model_len": config.max_model_tokens,
        "max_num_seqs": placement.max_concurrent_sequences or (_CPU_SEQUENCES if is_cpu else None),
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        **(_cpu_arguments(config) if is_cpu else _gpu_arguments(config, placement)),
        **config.engine_args,
    }


def require_known_arguments(config: GeneratorConfig) -> None:
    """Check that the installed vLLM has the arguments in `generator.engine_args`. Where it is not installed, as on the
    driver of a cluster, nothing is checked: the machines that load the model do.

    Raises:
        ConfigError: it does not have one of them.
    """
    known = known_arguments() if config.engine_args else None
    for name in config.engine_args:
        if known is not None and name not in known:
            raise ConfigError(
                f"generator.engine_args: vLLM's EngineArgs have no {name}{did_you_mean(name, sorted(known))}"
            )


@cache
def known_arguments() -> frozenset[str] | None:
    """Return the names of the installed vLLM's engine arguments, read from its source, as importing it takes seconds;
    None where vLLM is not installed or defines them elsewhere."""
    package = importlib.util.find_spec("vllm")
    place, name = _DEFINITION
    source = Path(next(iter(package.submodule_search_locations or ())), place) if package else None
    if source is None or not source.is_file():
        return None
    defined = (node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.ClassDef))
    fields = {
        field.target.id
        for each in defined
        if each.name == name
        for field in each.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }
    return frozenset(each for each in fields if not each.startswith("_")) or None


def _cpu_arguments(config: GeneratorConfig) -> dict[str, Any]:
    return {
        "enforce_eager": True,
        "block_size": CPU_BLOCK_TOKENS,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(config.max_model_tokens, 2048),
    }


def _gpu_arguments(config: GeneratorConfig, placement: PlacementConfig) -> dict[str, Any]:
    tensor, pipeline = parallel_ranks(config.engine_args, placement.generator_gpus)
    return {
        "tensor_parallel_size": tensor,
        "pipeline_parallel_size": pipeline,
        # All ranks are on this node, where Ray reserved their GPUs; by default vLLM would request them from Ray again.
        "distributed_executor_backend": "mp" if tensor * pipeline > 1 else None,
        "gpu_memory_utilization": placement.gpu_memory_fraction,
    }
