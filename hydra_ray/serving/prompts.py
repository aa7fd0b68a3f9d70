"""Prompts of a request, as the run would send them, and what is made of the answers to them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hydra_ray.config import ApiConfig, GeneratorConfig, Task
from hydra_ray.errors import InputError
from hydra_ray.generate.calls import call_arguments
from hydra_ray.generate.parsing import parse_answer
from hydra_ray.generate.replies import read_answers
from hydra_ray.rows import Draft, Generation, Probe, Request

PROBE = "probe"
"""Name of the prompts with one record each, whose answers are evidence on that record."""
_SERVED = ApiConfig(base_url="http://localhost", model="served", has_structured_outputs=True)
"""Rules of an endpoint that serves a model that a run loaded, as vLLM's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPrompt:
    """One prompt of a query, at one temperature. Key: (name, record_ids, request.temperature)."""

    name: str
    """Name of the prompt, such as "rag_k" or "personal" (`hydra_ray.adapt.prompting`), or "probe"."""
    record_ids: tuple[str, ...]
    """Records that are shown in it, best first."""
    request: Request
    """Chat messages, number of samples, temperature and length limit."""
    text: str | None
    """The messages rendered by the generator's own chat template, up to where its answer begins; None for a generator
    that is asked at an endpoint, which renders them itself."""
    task: Task
    generator: GeneratorConfig

    def calls(self, model: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the arguments of `chat.completions.create` of an OpenAI-compatible client that ask for all samples:
        one call, unless the endpoint gives fewer samples a call.

        Args:
            model: name of the model at the endpoint; by default the one that the run asked.
        """
        api = self._api
        for samples in self._samples():
            arguments = call_arguments(
                self.request,
                api,
                samples,
                is_constrained=self.generator.is_constrained and api.has_structured_outputs,
                chat_template_kwargs=self.generator.chat_template_kwargs,
            )
            yield arguments if model is None else {**arguments, "model": model}

    def read(self, *replies: Any) -> list[Draft | Probe]:
        """Return the answers in the replies to `calls`, in the same order, as `answered` does.

        Args:
            replies: chat completions of the `openai` package, or their JSON as plain values.

        Raises:
            ReplyError: one is no chat completion with the samples that were asked for.
        """
        bodies = (reply.model_dump() if hasattr(reply, "model_dump") else reply for reply in replies)
        is_thinking = self.generator.thinking_tokens > 0
        answered = [
            read_answers(body, len(samples), self.request.num_top_tokens, is_thinking=is_thinking)
            for body, samples in zip(bodies, self._samples(), strict=False)
        ]
        return self.answered(*(generation for each in answered for generation in each.generations))

    def answered(self, *answers: str | Generation) -> list[Draft | Probe]:
        """Return the answers to the prompt as `ServedScorer.choose` takes them.

        Args:
            answers: text of each sample, or a generation, which may have log-probabilities too.

        Raises:
            InputError: there are more answers than the prompt asks for.
        """
        if len(answers) > self.request.num_samples:
            raise InputError(
                f"got {len(answers)} answers to the prompt {self.name}; it asks for {self.request.num_samples}"
            )
        parsed = [parse_answer(self.task, generation_of(each)) for each in answers]
        if self.name == PROBE:
            return [Probe(record_id=self.record_ids[0], answer=each, quality=None) for each in parsed]
        temperature = self.request.temperature
        return [
            Draft(prompt=self.name, temperature=temperature, sample=sample, answer=each, quality=None)
            for sample, each in enumerate(parsed)
        ]

    @property
    def _api(self) -> ApiConfig:
        """The endpoint that the run asked, or else one that serves the model that it loaded."""
        return self.generator.api or _SERVED.model_copy(update={"model": self.generator.model})

    def _samples(self) -> Iterator[range]:
        """Yield the samples of each call."""
        number = self.request.num_samples
        size = self._api.samples_per_call or number
        return (range(start, min(start + size, number)) for start in range(0, number, size))


def generation_of(answer: str | Generation) -> Generation:
    """Return an answer as a generation; a text is taken as whole, with about as many tokens as words."""
    if isinstance(answer, Generation):
        return answer
    return Generation(text=answer, num_tokens=len(answer.split()), finish_reason="stop")
