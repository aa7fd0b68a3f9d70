"""Lines of a batch: requests in, results out.

A line is one call: a request, or some of its samples. Its `custom_id` holds the bucket, a keyed hash of the request and
the first sample: it leads back to the request, and tells the endpoint nothing about the user.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hydra_ray.config import ApiConfig, BatchConfig, GeneratorConfig
from hydra_ray.errors import ReplyError
from hydra_ray.generate.call_faults import Fault, fault_of, status_error
from hydra_ray.generate.calls import call_arguments, call_body
from hydra_ray.generate.engines.token_counts import TokenCounts
from hydra_ray.generate.error_replies import CODE
from hydra_ray.generate.failures import FailureKind
from hydra_ray.generate.replies import Answered, Flaw, has_cut, parse_reply, read_answers
from hydra_ray.rows import Request
from hydra_ray.runs.root import pseudonym

UNREADABLE = Fault(kind=FailureKind.UNAVAILABLE, message="its result cannot be read", is_final=False, is_answered=False)
MISSING = Fault(kind=FailureKind.UNAVAILABLE, message="its batch has no result", is_final=False, is_answered=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineForm:
    """Form of the lines of a run."""

    api: ApiConfig
    batch: BatchConfig
    chat_template_kwargs: Mapping[str, Any]
    is_constrained: bool
    """Whether the endpoint is constrained to a request's choices."""
    is_thinking: bool
    """Whether the model is known to think."""
    counts: TokenCounts
    """Lengths that the endpoint does not report."""
    key: str
    """Secret key of the root."""
    samples_per_line: int | None
    """Largest number of samples of a line; None for all of a request."""

    def chunks(self, request: Request) -> Iterator[range]:
        """Yield the samples of each line of a request."""
        size = self.samples_per_line or request.num_samples
        for start in range(0, request.num_samples, size):
            yield range(start, min(start + size, request.num_samples))

    def custom_ids(self, bucket: int, request: Request) -> dict[str, range]:
        """Return the samples of each line of a request, by the line's id."""
        name = f"{bucket:05d}-{pseudonym(request.request_id, self.key)}"
        return {f"{name}-{samples.start}": samples for samples in self.chunks(request)}

    def lines(self, bucket: int, request: Request) -> list[bytes]:
        """Return the lines of a request, each with its line break."""
        return [
            json.dumps(
                {
                    "custom_id": custom_id,
                    "method": "POST",
                    "url": self.batch.endpoint,
                    "body": self.body(request, samples),
                }
            ).encode()
            + b"\n"
            for custom_id, samples in self.custom_ids(bucket, request).items()
        ]

    def body(self, request: Request, samples: range) -> dict[str, Any]:
        """Return the body of the call for some samples of a request."""
        arguments = call_arguments(
            request,
            self.api,
            samples,
            is_constrained=self.is_constrained,
            chat_template_kwargs=self.chat_template_kwargs,
        )
        return call_body(arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultLine:
    """One line of a result file. Key: custom_id."""

    custom_id: str
    content: Mapping[str, Any]

    @property
    def bucket(self) -> int | None:
        """Bucket of its request; None where the id is none of ours."""
        number = self.custom_id.partition("-")[0]
        return int(number) if len(number) == 5 and number.isascii() and number.isdigit() else None


def line_form(generator: GeneratorConfig, api: ApiConfig, key: str) -> LineForm:
    """Return the form of the lines of a run."""
    return LineForm(
        api=api,
        batch=generator.batch,
        chat_template_kwargs=generator.chat_template_kwargs,
        is_constrained=generator.can_constrain,
        is_thinking=generator.thinking_tokens > 0,
        counts=TokenCounts(generator),
        key=key,
        samples_per_line=api.samples_per_call,
    )


def read_line(line: bytes) -> ResultLine | None:
    """Return a line of a result file; None where it is none."""
    try:
        content = parse_reply(line)
    except ReplyError:
        return None
    custom_id = content.get("custom_id") if isinstance(content, dict) else None
    return ResultLine(custom_id=custom_id, content=content) if isinstance(custom_id, str) else None


def read_result(line: ResultLine, request: Request, samples: range, form: LineForm) -> Answered | Fault:
    """Return the answers of a line, or why it has none, as for the same call on its own.

    Raises:
        EndpointError: every request would fail in the same way.
    """
    response, error = line.content.get("response"), line.content.get("error")
    if not isinstance(response, dict):
        return _fault_of_line(error)
    status, body = response.get("status_code"), response.get("body")
    if isinstance(status, int) and not isinstance(status, bool) and 300 <= status <= 599:
        return fault_of(status_error(status, body, form.api), form.api, request, form.body(request, samples))
    try:
        answered = read_answers(
            body,
            len(samples),
            request.num_top_tokens,
            is_thinking=form.is_thinking or (has_cut(body) and form.api.is_thinking and form.counts.opens_thought),
            count_tokens=form.counts.of_text,
        )
    except ReplyError as unusable:
        return fault_of(unusable, form.api, request, {})
    if Flaw.PROMPT_TOKENS in answered.flaws:
        return replace(answered, prompt_tokens=form.counts.of_prompt(request))
    return answered


def code_of(error: Any) -> str:
    """Return the code of an error of a batch or a line; empty where it has none that looks like one."""
    code = error.get("code") if isinstance(error, Mapping) else None
    return code if isinstance(code, str) and CODE.fullmatch(code) else ""


def _fault_of_line(error: Any) -> Fault:
    """Return the fault of a line that the endpoint did not execute."""
    code = code_of(error)
    if not code:
        return UNREADABLE
    kind = FailureKind.TIMEOUT if code == "batch_expired" else FailureKind.UNAVAILABLE
    return Fault(kind=kind, message=f"not executed ({code})", is_final=False, is_answered=True)
