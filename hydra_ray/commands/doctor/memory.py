"""Checks that memory holds the generator: its weights, and the key-value cache of its concurrent sequences.

Sizes follow from a model's configuration. Whatever else a loaded model needs is covered by an allowance; vLLM measures
it when it loads the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hydra_ray.commands.doctor.machine import GIGABYTE, Gpu, Machine, gigabytes
from hydra_ray.commands.doctor.model_files import ModelDescription
from hydra_ray.config import PlacementConfig, RunConfig
from hydra_ray.config.engine_arguments import parallel_ranks
from hydra_ray.findings import Finding, problem

_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
GPU_ALLOWANCE_BYTES = 2 * GIGABYTE
"""Allowance for CUDA's context, activations and captured graphs."""
CPU_ALLOWANCE_BYTES = 2 * GIGABYTE
"""Allowance for a copy's process and activations."""
LEAST_DRIVERS = {12: 525, 13: 580}
"""Minimum branch of NVIDIA's Linux driver for each major version of CUDA (CUDA Toolkit release notes, minor version
compatibility)."""
_LEAST_CAPABILITY = (7, 5)
"""Minimum compute capability of CUDA 13 (CUDA Toolkit 13.0 release notes)."""
_GPU_LOCK = "install the packages for GPUs into a new environment: make install LOCK=gpu"
_BFLOAT16_CAPABILITY = (8, 0)
"""Minimum compute capability for bfloat16: vLLM refuses it on older GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """Memory size of a generator, in the dtype in which it is loaded."""

    weight_bytes: int
    token_bytes: int | None
    """Bytes per token of the key-value cache; None where the model's configuration does not determine it."""
    num_heads: int | None
    """Number of attention heads, which tensor parallel ranks divide among them."""

    def rank_bytes(self, num_ranks: int) -> float:
        """Return the bytes of weights per GPU."""
        return self.weight_bytes / num_ranks


def size_of(found: ModelDescription, dtype: str) -> ModelSize | None:
    """Return the size of a generator; None where the size of its weights is unknown."""
    if found.weight_bytes is None:
        return None
    text: Any = found.config.get_text_config()
    stored = _DTYPE_BYTES.get(str(getattr(text, "dtype", None)).removeprefix("torch."))
    is_quantized = getattr(found.config, "quantization_config", None) is not None
    factor = 1.0 if stored is None or is_quantized else _DTYPE_BYTES[dtype] / stored
    num_heads, num_layers = getattr(text, "num_attention_heads", None), getattr(text, "num_hidden_layers", None)
    token_bytes = None
    if num_heads and num_layers:
        head_width = getattr(text, "head_dim", None) or text.hidden_size // num_heads
        num_kept = getattr(text, "num_key_value_heads", None) or num_heads
        token_bytes = 2 * num_layers * num_kept * head_width * _DTYPE_BYTES[dtype]
    return ModelSize(weight_bytes=round(found.weight_bytes * factor), token_bytes=token_bytes, num_heads=num_heads)


def wants_gpus(config: RunConfig) -> dict[str, float]:
    """Return the GPUs that a run reserves on one machine, by setting."""
    placement = config.placement
    wanted: dict[str, float] = {}
    if config.generator.engine == "vllm":
        wanted["placement.generator_gpus"] = placement.generator_gpus
    if any(scorer.base.num_epochs for scorer in (config.reranker, config.adapter)):
        wanted["placement.train_gpus_per_worker"] = placement.train_gpus_per_worker
    wanted["placement.encoder_gpus"] = placement.encoder_gpus
    return {setting: number for setting, number in wanted.items() if number}


def gpu_findings(config: RunConfig, machine: Machine, size: ModelSize | None) -> Iterator[Finding]:
    """Yield findings on whether the GPUs that a run reserves exist, can be used, and hold the generator."""
    wanted = wants_gpus(config)
    if not wanted:
        unused = f"; {len(machine.gpus)} here" if machine.gpus else ""
        yield Finding(name="gpus", value=f"none are wanted{unused}")
        return
    needs, settings = max(wanted.values()), ", ".join(f"{name}={number:g}" for name, number in wanted.items())
    if len(machine.gpus) < needs:
        there = f"{len(machine.gpus)} of the {needs:g} wanted" if machine.gpus else "no GPU"
        zeros = " ".join(f"{name}=0" for name in wanted)
        yield problem(
            "gpus",
            f"{there} on this machine ({settings})",
            f"`nvidia-smi` must list it and CUDA_VISIBLE_DEVICES not hide it; {zeros} runs on the CPU",
        )
        return
    yield Finding(name="gpus", value=", ".join(f"{gpu.name}, {gigabytes(gpu.memory_bytes)}" for gpu in machine.gpus))
    yield _driver(machine)
    yield from _capability(config, machine)
    if "placement.generator_gpus" in wanted and size is not None:
        yield _fit(config, min(machine.gpus, key=lambda gpu: gpu.memory_bytes), size)


def cpu_finding(config: RunConfig, machine: Machine, size: ModelSize | None, num_copies: int) -> Finding | None:
    """Return a finding on whether memory holds the generator's copies that run on the CPU; None where none does.

    Args:
        num_copies: number of copies loaded at the same time.
    """
    placement = config.placement
    if config.generator.engine != "vllm" or placement.generator_gpus or size is None:
        return None
    cache = placement.generator_kv_cache_gigabytes * GIGABYTE
    needs = num_copies * (size.weight_bytes + cache + CPU_ALLOWANCE_BYTES)
    said = f"{num_copies} x ({gigabytes(size.weight_bytes)} of weights + {gigabytes(cache)} of cache + "
    said += f"{gigabytes(CPU_ALLOWANCE_BYTES)} beside), {gigabytes(machine.available_bytes)} free"
    longest = (size.token_bytes or 0) * config.generator.max_model_tokens
    if longest > cache:
        return problem(
            "memory",
            f"{gigabytes(longest)} of cache for generator.max_model_tokens={config.generator.max_model_tokens}",
            f"set placement.generator_kv_cache_gigabytes={-(-longest // GIGABYTE)} or fewer tokens",
        )
    if needs > machine.available_bytes:
        remedy = "close other programs, or set a smaller generator.model, placement.generator_kv_cache_gigabytes"
        return problem("memory", said, remedy + (" or placement.generator_actors" if num_copies > 1 else ""))
    return Finding(name="memory", value=said)


def _driver(machine: Machine) -> Finding:
    """Return a finding on whether the installed torch can use the GPUs at all."""
    torch = machine.torch
    if torch.cuda is None:
        return problem("cuda", f"torch {torch.version} is a build for CPUs", _GPU_LOCK)
    least = LEAST_DRIVERS.get(int(torch.cuda.partition(".")[0]), 0)
    said = f"driver {machine.driver}, torch {torch.version} for CUDA {torch.cuda}"
    if _branch(machine.driver) < least:
        return problem("cuda", said, f"CUDA {torch.cuda} needs NVIDIA's driver {least} or newer: update it")
    return Finding(name="cuda", value=said)


def _branch(driver: str) -> int:
    branch = driver.partition(".")[0]
    return int(branch) if branch.isdigit() else 0


def _capability(config: RunConfig, machine: Machine) -> Iterator[Finding]:
    oldest = min(machine.gpus, key=lambda gpu: gpu.capability)
    said = f"{oldest.name} has compute capability {oldest.capability[0]}.{oldest.capability[1]}"
    if oldest.capability < _LEAST_CAPABILITY:
        yield problem("gpu generation", said, "CUDA 13 needs 7.5 (Turing) or newer: hide it by CUDA_VISIBLE_DEVICES")
    elif oldest.capability < _BFLOAT16_CAPABILITY and config.generator.dtype == "bfloat16":
        yield problem("gpu generation", said, "bfloat16 needs 8.0 (Ampere) or newer: set generator.dtype=float16")


def _fit(config: RunConfig, gpu: Gpu, size: ModelSize) -> Finding:
    """Return a finding on whether a copy of the generator fits on each of its GPUs."""
    placement, tokens = config.placement, config.generator.max_model_tokens
    tensor, pipeline = parallel_ranks(config.generator.engine_args, placement.generator_gpus)
    num_ranks = tensor * pipeline
    if size.num_heads and size.num_heads % tensor:
        return problem(
            "gpu memory",
            f"{size.num_heads} attention heads cannot be shared out to {tensor} GPUs",
            "set placement.generator_gpus, or generator.engine_args.tensor_parallel_size, to a divisor of the heads",
        )
    taken = placement.gpu_memory_fraction * gpu.memory_bytes
    room = taken - size.rank_bytes(num_ranks) - GPU_ALLOWANCE_BYTES
    said = f"{gigabytes(size.rank_bytes(num_ranks))} of weights + {gigabytes(GPU_ALLOWANCE_BYTES)} beside, of "
    said += f"{gigabytes(taken)} ({placement.gpu_memory_fraction:g} of {gigabytes(gpu.memory_bytes)})"
    if num_ranks > 1:
        said += f", on each of {num_ranks} GPUs"
    token_bytes = (size.token_bytes or 0) / num_ranks
    if room <= token_bytes * tokens:
        cache = f"{gigabytes(token_bytes * tokens)} ({tokens} tokens)"
        needed = size.rank_bytes(num_ranks) + GPU_ALLOWANCE_BYTES + token_bytes * tokens
        return problem("gpu memory", f"{said}, too little for {cache} of cache", _more_room(placement, gpu, needed))
    if shared := _shared(placement):
        return shared
    if gpu.free_bytes < taken:
        free = f"{gigabytes(gpu.free_bytes)} are free, a copy takes {gigabytes(taken)}"
        remedy = "end what else runs on it (nvidia-smi lists it), or set a smaller placement.gpu_memory_fraction"
        return problem("gpu memory", free, remedy)
    if not token_bytes:
        return Finding(name="gpu memory", value=said)
    cached = int(room / token_bytes)
    said += f": {cached:,} tokens of cache ({token_bytes / 1024:.0f} KB each), {cached // tokens} sequences of {tokens}"
    return Finding(name="gpu memory", value=said)


def _shared(placement: PlacementConfig) -> Finding | None:
    """Return a problem where the copies that share a GPU together take more than its memory; None otherwise."""
    copies = int(1 / placement.generator_gpus) if placement.generator_gpus < 1 else 1
    copies = min(copies, placement.generator_actors)
    if copies * placement.gpu_memory_fraction <= 1:
        return None
    return problem(
        "gpu memory",
        f"{copies} copies share a GPU, and each takes {placement.gpu_memory_fraction:g} of its memory",
        f"set placement.gpu_memory_fraction={int(90 / copies) / 100:g} or placement.generator_gpus=1",
    )


def _more_room(placement: PlacementConfig, gpu: Gpu, needed: float) -> str:
    if needed <= 0.95 * gpu.memory_bytes:
        return f"set placement.gpu_memory_fraction={min(0.95, needed / gpu.memory_bytes + 0.02):.2f}"
    ranks = max(2, 2 * int(placement.generator_gpus))
    return f"set a smaller or quantized generator.model, or placement.generator_gpus={ranks} where there are so many"
