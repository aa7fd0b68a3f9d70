"""vLLM engine in this process, without a separate engine process.

The result of a batch depends on the batch alone, so that a part generated again after a crash is the same: the prefix
cache is emptied first, prompts are sorted, and each sample draws from a random generator of its own, seeded by its
request's seed, its prompt and its index. On CPU this requires unchunked prefill: in vLLM 0.32 a chunked prefill rewinds
the request's random generator, which PyTorch cannot do on CPU. Per-sample seeds have no measurable cost against
unseeded samples (benchmarks/generate.py).
"""

import gc
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra_ray.config import GeneratorConfig, PlacementConfig, Task
from hydra_ray.errors import ConfigError, GenerationError, ModelError
from hydra_ray.generate.engine import Keep, keep_nowhere
from hydra_ray.generate.vllm_outputs import read_output, special_marks
from hydra_ray.models import load_tokenizer, resolve_model
from hydra_ray.rows import Completion, Prompt, Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from vllm import LLM, RequestOutput, SamplingParams

CPU_BLOCK_TOKENS = 32
"""Tokens per block of the key-value cache on CPU, where vLLM's default of 128 shares few prefixes."""


class VllmEngine:
    """A model loaded by vLLM, on the CPU or on the GPUs that this process sees."""

    max_parts = 1

    def __init__(self, config: GeneratorConfig, placement: PlacementConfig, task: Task | None) -> None:
        self._config = config
        _set_environment(placement)  # before anything imports torch
        self._tokenizer = load_tokenizer(config.model)
        if task is not None:
            require_labels_fit(task, self._tokenizer, config)
        self._special_marks = special_marks(self._tokenizer)
        self.llm = _load(config, placement)
        """The loaded model, for measuring it without this class."""

    async def answer(self, prompts: Sequence[Prompt], keep: Keep = keep_nowhere) -> list[Completion]:
        """Return one completion per prompt, in the order in which they were run.

        Raises:
            GenerationError: vLLM failed; this engine cannot be used any more.
        """
        # Prompts with a common prefix become neighbours and find it in the cache.
        prompts = sorted(prompts, key=lambda prompt: (prompt.token_ids, prompt.request.request_id))
        try:
            if not self.llm.reset_prefix_cache():
                raise RuntimeError("the prefix cache cannot be emptied, some of its blocks are still in use")
            outputs = self.llm.generate(
                [{"prompt_token_ids": list(prompt.token_ids)} for prompt in prompts],
                [self._sampling_params(prompt) for prompt in prompts],
                use_tqdm=False,
            )
        except Exception as error:
            raise GenerationError(
                f"vLLM failed on a batch of {len(prompts)} requests of model {self._config.model}: {error!r}. The part "
                "is not committed and is generated again by the next run."
            ) from error
        completions = [self._completion(prompt, output) for prompt, output in zip(prompts, outputs, strict=True)]
        keep(completions)
        return completions

    def close(self) -> None:
        """Release the model's memory."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        cleanup_dist_env_and_memory()
        gc.collect()

    def _sampling_params(self, prompt: Prompt) -> "SamplingParams":
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        request = prompt.request
        return SamplingParams(
            n=request.num_samples,
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            seed=prompt.seed,
            structured_outputs=StructuredOutputsParams(choice=list(request.choices))
            if self._is_constrained(request)
            else None,
            skip_special_tokens=not self._special_marks,
            logprobs=request.num_top_tokens,  # 0: only those of the generated tokens
        )

    def _is_constrained(self, request: Request) -> bool:
        """Return whether only a request's choices may be generated. vLLM constrains from the first token on, unless it
        is told the model's family; so a model that is to think is not constrained."""
        return self._config.is_constrained and bool(request.choices) and not self._config.thinking_tokens

    def _completion(self, prompt: Prompt, output: "RequestOutput") -> Completion:
        return Completion(
            request_id=prompt.request.request_id,
            user_id=prompt.request.user_id,
            prompt_tokens=len(output.prompt_token_ids or ()),
            generations=tuple(
                read_output(
                    each,
                    is_opened=prompt.opens_thought,
                    is_constrained=self._is_constrained(prompt.request),
                    is_thinking=self._config.thinking_tokens > 0,
                    has_first_tokens=prompt.request.num_top_tokens > 0,
                    special_tokens=self._special_marks,
                )
                for each in sorted(output.outputs, key=lambda each: each.index)
            ),
            error=None,
        )


def require_labels_fit(task: Task, tokenizer: "PreTrainedTokenizerBase", config: GeneratorConfig) -> None:
    """Check that no label of the task is longer than its answers may be.

    Raises:
        ConfigError: a label is longer.
    """
    for label in task.labels:
        num_tokens = len(tokenizer(label, add_special_tokens=False)["input_ids"])
        if num_tokens > task.max_tokens:
            raise ConfigError(
                f"the label {label!r} of task {task.name} has {num_tokens} tokens in {config.model}, but answers are "
                f"cut at lamp.task.max_tokens={task.max_tokens}: raise it."
            )


def supports_architecture(architecture: str) -> bool:
    """Return whether the installed vLLM can load models of an architecture, natively or through transformers.

    Raises:
        ImportError: vLLM cannot be imported.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("vllm").setLevel(logging.ERROR)  # it logs before it reads the variable
    import transformers

    try:
        from vllm import ModelRegistry
    except OSError as error:  # a shared library that it needs is missing
        raise ImportError(str(error)) from error
    return architecture in ModelRegistry.get_supported_archs() or hasattr(transformers, architecture)


def _load(config: GeneratorConfig, placement: PlacementConfig) -> "LLM":
    is_cpu = placement.generator_gpus == 0
    location = resolve_model(config.model)
    settings = _cpu_settings(config) if is_cpu else _gpu_settings(placement)
    try:
        import torch
        from vllm import LLM

        if is_cpu:
            # If torch was imported earlier, OpenMP did not read the environment variable.
            torch.set_num_threads(placement.generator_threads)
        return LLM(
            model=location,
            dtype=config.dtype,
            seed=config.seed,
            max_model_len=config.max_model_tokens,
            max_num_seqs=placement.max_concurrent_sequences,
            enable_prefix_caching=True,
            use_tqdm_on_load=False,
            **settings,
        )
    except Exception as error:
        raise ModelError(
            f"vLLM cannot load generator.model={config.model!r} from {location}: {error}. Check the model, "
            "generator.dtype, generator.max_model_tokens, and the memory that placement gives."
        ) from error


def _set_environment(placement: PlacementConfig) -> None:
    """Set the environment variables that vLLM and OpenMP read when they are imported."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    if placement.generator_gpus == 0:
        os.environ |= {
            "OMP_NUM_THREADS": str(placement.generator_threads),
            "VLLM_CPU_KVCACHE_SPACE": str(placement.generator_kv_cache_gigabytes),
        }


def _cpu_settings(config: GeneratorConfig) -> dict[str, Any]:
    return {
        "enforce_eager": True,
        "block_size": CPU_BLOCK_TOKENS,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(config.max_model_tokens, 2048),
    }


def _gpu_settings(placement: PlacementConfig) -> dict[str, Any]:
    num_ranks = max(1, int(placement.generator_gpus))
    return {
        "tensor_parallel_size": num_ranks,
        # All ranks are on this node, where Ray reserved their GPUs; by default vLLM would request them from Ray again.
        "distributed_executor_backend": "mp" if num_ranks > 1 else None,
        "gpu_memory_utilization": placement.gpu_memory_fraction,
    }
