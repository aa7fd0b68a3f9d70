"""vLLM engine: tokenized prompts in, completions out, whichever way it runs.

On CPU the result of a part depends on its prompts alone, so that a part generated again is the same: the prefix cache
is emptied first, prompts are sorted, and each sample draws from a random generator of its own, seeded by its request's
seed, its prompt and its index. This requires unchunked prefill: in vLLM 0.32 a chunked prefill rewinds the request's
random generator, which PyTorch cannot do on CPU. Per-sample seeds have no measurable cost against unseeded samples
(benchmarks/generate.py). On GPUs samples are seeded alike, but what is computed together depends on when requests come;
with `generator.is_batch_invariant` this changes no bit.
"""

import logging
import os
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from hydra_ray.config import GeneratorConfig, PlacementConfig, Task
from hydra_ray.errors import ConfigError, GenerationError, HydraError, ModelError
from hydra_ray.generate.engine import Keep, keep_nowhere
from hydra_ray.generate.engines.keeping import Keeper
from hydra_ray.generate.engines.vllm_runners import Asked, AsyncRunner, Runner, StepRunner, start_engine
from hydra_ray.generate.engines.vllm_settings import engine_arguments, set_environment
from hydra_ray.generate.vllm_outputs import read_output, special_marks
from hydra_ray.models import load_tokenizer
from hydra_ray.rows import Completion, Prompt, Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from vllm import RequestOutput


def open_vllm(config: GeneratorConfig, placement: PlacementConfig, task: Task | None) -> "VllmEngine":
    """Load a model on the CPU, or on the GPUs that this process sees.

    Args:
        task: task whose labels must fit the answer length; None for requests of any kind.

    Raises:
        ConfigError: a label of the task is longer than the task's answers may be, or vLLM has no such argument.
        ModelError: the model is missing or cannot be loaded.
    """
    set_environment(config, placement)  # before anything imports torch
    tokenizer = load_tokenizer(config.model)
    if task is not None:
        require_labels_fit(task, tokenizer, config)
    return VllmEngine(config, open_runner(config, placement), special_marks(tokenizer))


def open_runner(config: GeneratorConfig, placement: PlacementConfig) -> Runner:
    """Load a model.

    Raises:
        ConfigError: vLLM has no such argument.
        ModelError: the model is missing or cannot be loaded.
    """
    arguments = engine_arguments(config, placement)
    try:
        if placement.generator_gpus == 0:
            return StepRunner(arguments, placement.generator_threads)
        return AsyncRunner(partial(start_engine, arguments))
    except HydraError:
        raise
    except Exception as error:
        raise ModelError(
            f"vLLM cannot load generator.model={config.model!r} from {arguments['model']}: {error}. Check the model, "
            "generator.dtype, generator.max_model_tokens, generator.engine_args, and the memory that placement gives."
        ) from error


class VllmEngine:
    """A model loaded by vLLM."""

    def __init__(self, config: GeneratorConfig, runner: Runner, special_tokens: Sequence[str] = ()) -> None:
        """Take a loaded model.

        Args:
            special_tokens: the tokenizer's `special_marks`.
        """
        self._config, self.runner, self._special_marks = config, runner, tuple(special_tokens)
        self.max_parts = runner.max_parts

    async def answer(self, prompts: Sequence[Prompt], keep: Keep = keep_nowhere) -> list[Completion]:
        """Return one completion per prompt, in the order in which they were answered.

        Raises:
            GenerationError: vLLM failed; this engine cannot be used any more.
        """
        prompts = sorted_prompts(prompts)
        asked = [self.asked(prompt) for prompt in prompts]
        async with Keeper(keep) as keeper:
            try:
                async with aclosing(self.runner.run(asked)) as lists:
                    async for answered in lists:
                        for place, output in answered:
                            keeper.add(self._completion(prompts[place], output))
            except HydraError:
                raise
            except Exception as error:
                raise GenerationError(
                    f"vLLM failed on a batch of {len(prompts)} requests of model {self._config.model}: {error!r}. The "
                    "part is not committed; what it has no answer to is asked again."
                ) from error
        return keeper.completions

    def close(self) -> None:
        """Release the model's memory."""
        self.runner.close()

    def asked(self, prompt: Prompt) -> Asked:
        """Return a prompt as vLLM takes it, and how it is to be answered."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        request = prompt.request
        params = SamplingParams(
            n=request.num_samples,
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            seed=prompt.seed,
            structured_outputs=StructuredOutputsParams(choice=list(request.choices))
            if self._is_constrained(request)
            else None,
            skip_special_tokens=not self._special_marks,
            logprobs=request.num_top_tokens,  # 0: only those of the generated tokens
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        return tokens_input(list(prompt.token_ids)), params

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


def sorted_prompts(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return prompts in the order in which they are asked: those with a common prefix are neighbours, which find it in
    the cache."""
    return sorted(prompts, key=lambda prompt: (prompt.token_ids, prompt.request.request_id))


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
