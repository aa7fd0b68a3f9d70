"""Arguments of vLLM's engine that a configuration passes on, in `generator.engine_args`: which of them it may have."""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import JsonValue, StringConstraints

ArgumentName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]
"""Name of an argument as vLLM's EngineArgs has it: words joined by _."""

_BY_SETTING: Mapping[str, str] = {
    "model": "generator.model",
    "tokenizer": "generator.model",
    "revision": "generator.model=org/name@revision",
    "tokenizer_revision": "generator.model=org/name@revision",
    "dtype": "generator.dtype",
    "seed": "generator.seed",
    "max_model_len": "generator.max_model_tokens",
    "max_num_seqs": "placement.max_concurrent_sequences",
    "gpu_memory_utilization": "placement.gpu_memory_fraction",
    "data_parallel_size": "placement.generator_actors",
}
"""Settings by the argument that they set."""
_FIXED: Mapping[str, str] = {
    "distributed_executor_backend": "the ranks of a copy are processes of one node",
    "enable_prefix_caching": "common prefixes are always kept",
    "hf_token": "a secret must not stand in a configuration: set HF_TOKEN where the generator runs",
    "max_num_queued_reqs": "no request may be turned away",
    "max_num_queued_tokens": "no request may be turned away",
    "nnodes": "the ranks of a copy are processes of one node",
    "runner": "the generator writes texts",
    "skip_tokenizer_init": "answers are texts",
    "trust_remote_code": "a model's own code is never run",
}
"""Arguments that have one value, and why."""


_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size")
"""Arguments that divide a copy among its GPUs, and change no answer."""


def answering_arguments(arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the arguments that answers may depend on."""
    return {name: value for name, value in arguments.items() if name not in _PARALLEL}


def problems_of_arguments(arguments: Mapping[str, JsonValue]) -> Iterator[str]:
    """Yield what is wrong with arguments of vLLM: those that settings of this package or nobody may set."""
    for name in arguments:
        if name in _BY_SETTING:
            yield f"engine_args must not have {name}: set {_BY_SETTING[name]}"
        elif name in _FIXED:
            yield f"engine_args must not have {name}: {_FIXED[name]}"


def parallel_ranks(arguments: Mapping[str, JsonValue], gpus: float) -> tuple[int, int]:
    """Return the numbers of tensor and of pipeline parallel ranks of one copy, whose product are its GPUs.

    Args:
        arguments: `generator.engine_args`.
        gpus: `placement.generator_gpus`.

    Raises:
        ValueError: the arguments name other numbers.
    """
    num_ranks = max(1, int(gpus))
    given = [arguments.get(name) for name in _PARALLEL]
    if any(each is not None and (type(each) is not int or each < 1) for each in given):
        raise ValueError("generator.engine_args: tensor_parallel_size and pipeline_parallel_size are whole numbers > 0")
    tensor, pipeline = (each if isinstance(each, int) else None for each in given)
    pipeline = pipeline if pipeline is not None else num_ranks // tensor if tensor and num_ranks % tensor == 0 else 1
    tensor = tensor if tensor is not None else max(1, num_ranks // pipeline)
    if tensor * pipeline != num_ranks:
        raise ValueError(
            f"generator.engine_args: {tensor} tensor parallel x {pipeline} pipeline parallel ranks are "
            f"{tensor * pipeline} GPUs of a copy, and placement.generator_gpus={gpus:g}: set it to their product"
        )
    return tensor, pipeline
