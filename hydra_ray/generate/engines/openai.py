"""OpenAI-compatible endpoints: many concurrent calls, with retries and a bounded wait.

A failed request becomes a completion with an error. The run stops where every request would fail: the endpoint refuses
the key, the model or each of the first requests, or was silent for `breaker_seconds`. While the endpoint rather than
a request is suspected, requests are not given up, so that a short outage loses no answer. Answers are stored within
about a second, even if the run is stopped then. No message contains the key or a text of a user.
"""

import asyncio
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import openai
import openai.resources.chat  # otherwise loaded lazily, during the first call

from hydra_ray.config import ApiConfig, GeneratorConfig
from hydra_ray.errors import ConfigError, EndpointError, HydraError
from hydra_ray.findings import counted
from hydra_ray.generate.call_faults import Fault, fault_of
from hydra_ray.generate.calls import call_arguments, expected_tokens
from hydra_ray.generate.engine import Keep, keep_nowhere
from hydra_ray.generate.engines.token_counts import TokenCounts
from hydra_ray.generate.failures import FailureKind
from hydra_ray.generate.rate_limits import Turns
from hydra_ray.generate.replies import Answered, Flaw, parse_reply, read_answers
from hydra_ray.generate.retry_policy import Breaker, pause_seconds
from hydra_ray.rows import Completion, Generation, Request

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_KEEP_SECONDS = 1.0
_KEEP_REQUESTS = 100
"""Number of waiting answers at which they are stored before `_KEEP_SECONDS` have passed."""
_MANY_REFUSALS = 10
"""Number of refused requests, or of unreadable replies, before any request is answered, that means that the endpoint
accepts none of this form."""
_REMEDIES = {
    Flaw.PROMPT_TOKENS: "prompts are counted by the tokenizer of generator.model",
    Flaw.GENERATED_TOKENS: "answers are counted by the tokenizer of generator.model",
    Flaw.LOG_PROBABILITIES: "they are left out; set generator.api.has_log_probabilities=false if it has none",
    Flaw.SURROGATES: "each becomes U+FFFD",
}
logger = logging.getLogger(__name__)


class OpenAiEngine:
    """Client of an endpoint, with its rate limiter and its circuit breaker."""

    def __init__(self, config: GeneratorConfig, api: ApiConfig, turns: Turns):
        self._api, self._turns = api, turns
        self._is_constrained = config.is_constrained and api.has_structured_outputs
        self._key = key_of(api)
        self._breaker = Breaker(api.breaker_failures, api.breaker_seconds)
        self._num_refused, self._num_unreadable, self._has_answered = 0, 0, False
        self._counts, self._is_thinking = TokenCounts(config), config.thinking_tokens > 0
        self._told = set[Flaw]()
        for library in ("openai", "httpx", "httpx2", "httpcore"):
            # Below this level they log addresses and, at debug level, whole requests.
            logging.getLogger(library).setLevel(logging.WARNING)

    def generate(self, requests: Sequence[Request], keep: Keep = keep_nowhere) -> list[Completion]:
        """Return one completion per request, in the order of arrival.

        Raises:
            EndpointError: the endpoint is dead, or refuses every request.
        """
        return asyncio.run(self._generate(requests, keep))

    def close(self) -> None:
        """Do nothing: each part opens its own connections."""

    async def _generate(self, requests: Sequence[Request], keep: Keep) -> list[Completion]:
        answers = _Answers(keep)
        waiting = iter(requests)
        try:
            async with self._client() as client, asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch(answers))
                num_workers = min(len(requests), self._api.max_concurrent_requests)
                workers = [group.create_task(self._work(client, waiting, answers)) for _ in range(num_workers)]
                await asyncio.gather(*workers)
                watch.cancel()
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            # If there were only refusals, the form of the calls may be the cause: they are not stored, so a rerun
            # repeats them.
            if self._has_answered or len(answers.all) == len(requests):
                await answers.flush()
        return answers.all

    async def _work(self, client: "AsyncOpenAI", waiting: Iterator[Request], answers: "_Answers") -> None:
        """Complete one request after another."""
        for request in waiting:
            answers.add(await self._complete(client, request))
            if self._has_answered and answers.num_waiting >= _KEEP_REQUESTS:
                await answers.flush()

    async def _watch(self, answers: "_Answers") -> None:
        """Store answers periodically, and raise when the endpoint is dead."""
        while True:
            await asyncio.sleep(min(_KEEP_SECONDS, self._api.breaker_seconds / 10))
            if self._breaker.is_dead(time.monotonic()):
                raise EndpointError(
                    f"the endpoint {self._api.base_url} is dead: no call was answered for "
                    f"{self._api.breaker_seconds:g} s, and {counted(self._api.breaker_failures, 'request')} or more "
                    "failed in a row. Earlier answers are kept; run again when it answers."
                )
            if self._has_answered:
                await answers.flush()

    async def _complete(self, client: "AsyncOpenAI", request: Request) -> Completion:
        """Return all samples of a request, in as many calls as they need, or its failure."""
        size = self._api.max_samples_per_call or request.num_samples
        attempts, prompt_tokens, generations = _Attempts(), 0, list[Generation]()
        for start in range(0, request.num_samples, size):
            samples = range(start, min(start + size, request.num_samples))
            answered = await self._call(client, request, samples, attempts)
            if isinstance(answered, Fault):
                return self._failed(request, answered, attempts, prompt_tokens)
            prompt_tokens += answered.prompt_tokens
            generations += answered.generations
        return Completion(
            request_id=request.request_id,
            user_id=request.user_id,
            prompt_tokens=prompt_tokens + attempts.lost_tokens,
            generations=tuple(generations),
            error=None,
            attempts=attempts.number,
        )

    def _failed(self, request: Request, fault: Fault, attempts: "_Attempts", prompt_tokens: int) -> Completion:
        self._num_refused += fault.is_final
        if self._num_refused >= _MANY_REFUSALS and not self._has_answered:
            raise EndpointError(
                f"the endpoint {self._api.base_url} refused each of the first {_MANY_REFUSALS} requests, the last one: "
                f"{fault.message}. Check the settings in generator.api that say what it supports: "
                "has_log_probabilities, has_structured_outputs, length_field, max_samples_per_call."
            )
        return Completion(
            request_id=request.request_id,
            user_id=request.user_id,
            prompt_tokens=prompt_tokens + attempts.lost_tokens,
            generations=(),
            error=f"{fault.message}, {attempts.number} attempts",
            failure=fault.kind,
            attempts=attempts.number,
        )

    async def _call(
        self, client: "AsyncOpenAI", request: Request, samples: range, attempts: "_Attempts"
    ) -> Answered | Fault:
        """Call the endpoint until it answers, the fault is final, or attempts or time run out."""
        num_failed = 0
        while True:
            async with self._turn(request, len(samples)) as turn:
                left = attempts.begin(self._api.request_deadline_seconds)
                found = await self._attempt(client, request, samples, min(left, self._api.attempt_timeout_seconds))
                turn.tokens = _taken(found, turn.tokens)
            if isinstance(found, Answered) or found.is_final:
                return found
            attempts.lost_tokens += expected_tokens(request, 0) if found.is_paid else 0
            num_failed += 1
            if num_failed >= self._api.max_attempts and not self._breaker.is_suspected:
                return found
            pause = pause_seconds(num_failed, found.retry_after, self._api.max_backoff_seconds, random.random())
            if pause >= attempts.left(self._api.request_deadline_seconds):
                return found
            await asyncio.sleep(pause)

    async def _attempt(
        self, client: "AsyncOpenAI", request: Request, samples: range, seconds: float
    ) -> Answered | Fault:
        arguments = call_arguments(request, self._api, samples, is_constrained=self._is_constrained)
        start = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                response = await client.chat.completions.with_raw_response.create(**arguments)
            answered = await self._read(response.content, request, len(samples))
        except (openai.OpenAIError, TimeoutError, ValueError) as error:
            fault = fault_of(error, self._api)
            if fault.is_answered:
                self._breaker.sign_of_life(time.monotonic())
            elif not fault.is_final:
                self._breaker.failed(request.request_id, start)
            self._require_readable(fault)
            return fault
        except HydraError:
            raise
        except Exception as error:  # whatever it is, the answers of the other requests must not be lost
            message = f"the call failed by an unexpected {type(error).__name__}"
            return Fault(kind=FailureKind.ENGINE, message=message, is_final=True, is_answered=False)
        self._breaker.sign_of_life(time.monotonic())
        self._has_answered = True
        return answered

    async def _read(self, content: bytes, request: Request, num_samples: int) -> Answered:
        """Return the answers in a reply, with their tokens counted here where the reply does not tell them.

        Raises:
            ReplyError: there are none.
        """
        body = parse_reply(content)
        read = partial(read_answers, body, num_samples, request.num_top_tokens, is_thinking=self._is_thinking)
        answered = read()
        for flaw in sorted(answered.flaws - self._told):
            self._told.add(flaw)
            logger.warning("the endpoint %s sends %s: %s", self._api.base_url, flaw.value, _REMEDIES[flaw])
        if Flaw.GENERATED_TOKENS in answered.flaws:
            answered = await asyncio.to_thread(read, count_tokens=self._counts.of_text)
        if Flaw.PROMPT_TOKENS in answered.flaws:
            answered = replace(answered, prompt_tokens=await asyncio.to_thread(self._counts.of_prompt, request))
        return answered

    def _require_readable(self, fault: Fault) -> None:
        """Count replies that cannot be read.

        Raises:
            EndpointError: all the first ones.
        """
        self._num_unreadable += fault.is_paid
        if self._num_unreadable >= _MANY_REFUSALS and not self._has_answered:
            raise EndpointError(
                f"the endpoint {self._api.base_url} answers, but none of its first {_MANY_REFUSALS} replies can be "
                f"used: {fault.message}. Correct that setting, or look what listens there."
            )

    @asynccontextmanager
    async def _turn(self, request: Request, num_samples: int) -> AsyncIterator["_Turn"]:
        """Wait for a turn of the rate limiter; at the end report the tokens taken."""
        turn = _Turn(expected_tokens(request, num_samples))
        ticket = await self._turns.reserve(turn.tokens)
        try:
            yield turn
        finally:
            await self._turns.settle(ticket, turn.tokens)

    def _client(self) -> "AsyncOpenAI":
        api = self._api
        return openai.AsyncOpenAI(
            base_url=api.base_url, api_key=self._key, max_retries=0, timeout=api.attempt_timeout_seconds
        )


class _Turn:
    """A call admitted by the rate limiter, with the tokens that it has taken or may take."""

    def __init__(self, tokens: int):
        self.tokens = tokens


class _Attempts:
    """Number of calls of one request, and the time since the first one."""

    def __init__(self) -> None:
        self.number = 0
        self.lost_tokens = 0
        """Prompt tokens of replies that could not be used, approximately."""
        self._start: float | None = None

    def begin(self, deadline_seconds: float) -> float:
        """Count a call that begins; return the seconds left for it, at least a millisecond."""
        self.number += 1
        self._start = time.monotonic() if self._start is None else self._start
        return max(self.left(deadline_seconds), 0.001)

    def left(self, deadline_seconds: float) -> float:
        """Return the seconds left until the deadline."""
        return deadline_seconds - (time.monotonic() - (self._start or time.monotonic()))


class _Answers:
    """Completions so far, and the number of them that are stored."""

    def __init__(self, keep: Keep):
        self.all: list[Completion] = []
        self._keep, self._num_kept = keep, 0
        self._keeping = asyncio.Lock()

    @property
    def num_waiting(self) -> int:
        """Number of completions that are not stored yet."""
        return len(self.all) - self._num_kept

    def add(self, completion: Completion) -> None:
        """Add a completion."""
        self.all.append(completion)

    async def flush(self) -> None:
        """Store the waiting completions, while other requests continue."""
        async with self._keeping:
            batch = self.all[self._num_kept :]
            if batch:
                await asyncio.to_thread(self._keep, batch)
            # Only now: a thread that had not started when everything was cancelled stores nothing.
            self._num_kept += len(batch)


def _taken(found: Answered | Fault, expected: int) -> int:
    """Return the tokens that a call has taken: the expected number if it timed out or its answer cannot be used, none
    if it was refused."""
    if isinstance(found, Answered):
        return found.prompt_tokens + sum(each.num_tokens for each in found.generations)
    return expected if found.kind == FailureKind.TIMEOUT or found.is_paid else 0


def key_of(api: ApiConfig) -> str:
    """Return the endpoint's key; a placeholder where it needs none, since the client requires one.

    Raises:
        ConfigError: the environment variable of the key is not set.
    """
    if api.api_key_env is None:
        return "none"
    key = os.environ.get(api.api_key_env)
    if not key:
        raise ConfigError(
            f"generator.api.api_key_env names the environment variable {api.api_key_env}, which is not set where the "
            "generator runs: set it on every node before Ray is started there."
        )
    return key
