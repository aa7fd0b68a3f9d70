"""OpenAI-compatible endpoints: many concurrent calls, with retries and a bounded wait.

A failed request becomes a completion with an error. The run stops where every request would fail: the endpoint refuses
the key, the model, a field or each of the first requests, or was silent for `breaker_seconds`. While the endpoint
rather than a request is suspected, requests are not given up, so that a short outage loses no answer. Where it asks to
wait, all requests wait. Answers are stored within about a second, even if the run is stopped then. No message contains
the key or a text of a user.
"""

import asyncio
import logging
import random
import time
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import openai.resources.chat  # otherwise loaded lazily, during the first call

from hydra_ray.config import ApiConfig, GeneratorConfig
from hydra_ray.errors import EndpointError, HydraError, ReplyError
from hydra_ray.findings import counted
from hydra_ray.generate.call_faults import Fault, fault_of, refusal_in
from hydra_ray.generate.calls import call_arguments, call_body, expected_tokens
from hydra_ray.generate.credentials import call_headers, client_settings, quiet_client_logs, require_credentials
from hydra_ray.generate.engine import Keep, keep_nowhere
from hydra_ray.generate.engines.bounded_client import BoundedClient, reply_bytes
from hydra_ray.generate.engines.call_progress import Answers, Attempts
from hydra_ray.generate.engines.token_counts import TokenCounts
from hydra_ray.generate.failures import FailureKind
from hydra_ray.generate.rate_limits import Turns
from hydra_ray.generate.refusals import MANY_REFUSALS, Refusals
from hydra_ray.generate.replies import Answered, Flaw, has_cut, parse_reply, read_answers, without_broken_choices
from hydra_ray.generate.retry_policy import Breaker, Pause, pause_seconds
from hydra_ray.rows import Completion, Generation, Prompt, Request

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_KEEP_SECONDS = 1.0
_KEEP_REQUESTS = 100
"""Number of waiting answers at which they are stored before `_KEEP_SECONDS` have passed."""
_FREE_WAIT_SECONDS = 1.0
"""Pause asked for by the endpoint from which on a call does not count as one of `max_attempts`."""
_LONGEST_WAIT_SECONDS = 10 * 365 * 86_400
"""Longest pause that is told; an endpoint may ask for any."""
_MANY_SHORT_REPLIES = 3
"""Number of replies with fewer samples than were asked for that means that the endpoint knows no `n`."""
_REMEDIES = {
    Flaw.PROMPT_TOKENS: "prompts are counted by the tokenizer of generator.model",
    Flaw.GENERATED_TOKENS: "answers are counted by the tokenizer of generator.model",
    Flaw.LOG_PROBABILITIES: "they are left out; set generator.api.has_log_probabilities=false if it has none",
    Flaw.SURROGATES: "each becomes U+FFFD",
}
logger = logging.getLogger(__name__)


class OpenAiEngine:
    """Client of an endpoint, with its rate limiter and its circuit breaker."""

    max_parts = 1

    def __init__(self, config: GeneratorConfig, api: ApiConfig, turns: Turns):
        self._api, self._turns = api, turns
        require_credentials(api)
        self._is_constrained = config.can_constrain
        self._call_headers = call_headers(api)
        self._chat_template_kwargs = config.chat_template_kwargs
        self._breaker = Breaker(api.breaker_failures, api.breaker_seconds)
        self._refusals, self._pause = Refusals(api), Pause()
        self._num_unreadable, self._num_short, self._most_returned, self._knows_n = 0, 0, 1, False
        self._has_answered, self._last_answer = False, float("-inf")
        self._counts, self._is_thinking = TokenCounts(config), config.thinking_tokens > 0
        self._told, self._told_bugs = set[Flaw](), set[str]()
        self._workers, self._calling = set[asyncio.Task[None]](), set[asyncio.Task[None] | None]()
        self._stop: EndpointError | None = None
        """Why the run stops; calls that are under way are still awaited, since they may be paid."""
        quiet_client_logs()

    async def answer(self, prompts: Sequence[Prompt], keep: Keep = keep_nowhere) -> list[Completion]:
        """Return one completion per prompt, in the order of arrival.

        Raises:
            EndpointError: the endpoint is dead, or refuses every request.
        """
        requests = [prompt.request for prompt in prompts]
        answers, self._stop = Answers(keep), None
        waiting = iter(requests)
        try:
            async with self._client(requests) as client, asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch(answers))
                num_workers = min(len(requests), self._api.max_concurrent_requests)
                self._workers = {group.create_task(self._work(client, waiting, answers)) for _ in range(num_workers)}
                await asyncio.gather(*self._workers, return_exceptions=True)
                watch.cancel()
            self._require_whole_replies()
            if self._stop is not None:
                raise self._stop
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            # If there were only refusals, the form of the calls may be the cause: they are not stored.
            await answers.flush(has_refusals=self._has_answered)
        answers.end_doubt()
        return answers.all

    def close(self) -> None:
        """Do nothing: each part opens its own connections."""

    async def _work(self, client: "AsyncOpenAI", waiting: Iterator[Request], answers: Answers) -> None:
        """Complete one request after another."""
        for request in waiting:
            if self._has_short_replies:
                return
            try:
                completion, fault = await self._complete(client, request)
            except EndpointError as error:
                self._end(error)
                return
            if fault is not None and fault.is_doubtful:
                answers.hold(completion)
            else:
                answers.add(completion)
            if fault is None:
                answers.release()
            if self._has_answered and answers.num_waiting >= _KEEP_REQUESTS:
                await answers.flush()

    def _end(self, error: EndpointError) -> None:
        """Stop all work but the calls that are under way."""
        if self._stop is None:
            self._stop = error
            for worker in self._workers - self._calling - {asyncio.current_task()}:
                worker.cancel()

    async def _watch(self, answers: Answers) -> None:
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

    async def _complete(self, client: "AsyncOpenAI", request: Request) -> tuple[Completion, Fault | None]:
        """Return all samples of a request, in as many calls as they need, or its failure and the cause."""
        size = self._api.samples_per_call or request.num_samples
        attempts, prompt_tokens, generations = Attempts(), 0, list[Generation]()
        missing = list(range(request.num_samples))
        while missing:
            samples = _first_run(missing, size)
            answered = await self._call(client, request, samples, attempts)
            if isinstance(answered, Fault):
                return _failed(request, answered, attempts, prompt_tokens), answered
            prompt_tokens += answered.prompt_tokens
            generations += answered.generations
            self._count_samples(len(answered.generations) + len(answered.broken), len(samples))
            # Indices that a server tells twice must not leave a sample that came among the missing ones.
            came = [samples[place] for place in sorted(range(len(samples)), key=answered.broken.__contains__)]
            missing = sorted({*missing} - {*came[: len(answered.generations)]})
            if len(answered.generations) < len(samples):
                size = 1  # what came is paid, and only the rest is asked for
        completion = Completion(
            request_id=request.request_id,
            user_id=request.user_id,
            prompt_tokens=prompt_tokens + attempts.lost_tokens,
            generations=tuple(generations),
            error=None,
            attempts=attempts.number,
        )
        return completion, None

    def _count_samples(self, num_returned: int, num_asked: int) -> None:
        """Count a reply that has fewer samples than were asked for."""
        if num_returned >= num_asked > 1:
            self._knows_n = True
        self._num_short += num_returned < num_asked
        self._most_returned = max(self._most_returned, num_returned)

    @property
    def _has_short_replies(self) -> bool:
        """Whether the endpoint never returned as many samples as one call asked for."""
        return self._num_short >= _MANY_SHORT_REPLIES and not self._knows_n

    def _require_whole_replies(self) -> None:
        if self._has_short_replies:
            raise EndpointError(
                f"the endpoint {self._api.base_url} returned fewer samples than asked for by n in each of the first "
                f"{counted(self._num_short, 'call')}: set generator.api.max_samples_per_call to "
                f"{self._most_returned}. Answers so far are kept."
            )

    async def _call(
        self, client: "AsyncOpenAI", request: Request, samples: range, attempts: Attempts
    ) -> Answered | Fault:
        """Call the endpoint until it answers, the fault is final, or attempts or time run out."""
        num_failed, deadline = 0, self._api.request_deadline_seconds
        while True:
            if self._stop is not None:
                raise self._stop
            await self._wait_out_pause(attempts)
            async with self._turn(request, len(samples)) as turn:
                if self._pause.left(time.monotonic()) > 0:  # asked for by another call meanwhile
                    turn.tokens = 0
                    continue
                left = attempts.begin(deadline)
                self._calling.add(asyncio.current_task())
                try:
                    found = await self._attempt(client, request, samples, min(left, self._api.attempt_timeout_seconds))
                finally:
                    self._calling.discard(asyncio.current_task())
                turn.tokens = _taken(found, turn.tokens)
            if isinstance(found, Answered) or found.is_final:
                return found
            attempts.lost_tokens += expected_tokens(request, 0) if found.is_paid else 0
            # Waiting as long as the endpoint asks for is bounded by the deadline alone.
            num_failed += found.retry_after is None or found.retry_after < _FREE_WAIT_SECONDS
            if num_failed >= self._api.max_attempts and not self._breaker.is_suspected:
                return found
            if found.retry_after is not None:
                self._pause.ask(time.monotonic(), found.retry_after)
            pause = pause_seconds(max(num_failed, 1), found.retry_after, self._api.max_backoff_seconds, random.random())
            if pause >= attempts.left(deadline):
                self._require_waitable(found, attempts)
                return found
            await asyncio.sleep(pause)

    async def _wait_out_pause(self, attempts: Attempts) -> None:
        """Wait while the endpoint asks everybody to; what another call was asked for does not count for the deadline of
        this request."""
        while (left := self._pause.left(time.monotonic())) > 0:
            await asyncio.sleep(left)
            attempts.excuse(left)

    def _require_waitable(self, fault: Fault, attempts: Attempts) -> None:
        """Check that an endpoint that asks to wait is not silent for everybody until after the deadline."""
        seconds = None if fault.retry_after is None else min(fault.retry_after, _LONGEST_WAIT_SECONDS)
        if seconds is None or (
            seconds < self._api.request_deadline_seconds and attempts.began_before(self._last_answer)
        ):
            return
        until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time() + seconds))
        again = " again and again" if seconds < self._api.request_deadline_seconds else ""
        raise EndpointError(
            f"the endpoint {self._api.base_url} asks to wait for {seconds:.0f} s{again} ({fault.message}), longer than "
            f"generator.api.request_deadline_seconds={self._api.request_deadline_seconds:g} allows. Earlier answers "
            f"are kept: run again after {until}, or raise that setting."
        )

    async def _attempt(
        self, client: "AsyncOpenAI", request: Request, samples: range, seconds: float
    ) -> Answered | Fault:
        arguments = call_arguments(
            request,
            self._api,
            samples,
            is_constrained=self._is_constrained,
            chat_template_kwargs=self._chat_template_kwargs,
        )
        start = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                response = await client.chat.completions.with_raw_response.create(
                    **arguments, extra_headers=self._call_headers
                )
            answered = await self._read(response.content, request, len(samples))
        except (openai.OpenAIError, TimeoutError, ReplyError, UnicodeEncodeError) as error:
            sent = call_body(arguments)
            fault = fault_of(error, self._api, request, sent)
            if fault.is_answered:
                self._breaker.sign_of_life(time.monotonic())
            elif not fault.is_final:
                self._breaker.failed(request.request_id, start)
            if fault.is_final:
                self._refusals.refused(fault, sent)
            self._require_readable(fault)
            return fault
        except HydraError:
            raise
        except Exception as error:  # whatever it is, the answers of the other requests must not be lost
            message = f"the call failed by an unexpected {_place_of(error)}"
            if message not in self._told_bugs:
                self._told_bugs.add(message)
                logger.error("%s: please report it; the request fails, and the others go on", message)
            return Fault(kind=FailureKind.ENGINE, message=message, is_final=True, is_answered=False)
        self._last_answer = time.monotonic()
        self._breaker.sign_of_life(self._last_answer)
        self._refusals.answered(call_body(arguments))
        self._has_answered = True
        return answered

    async def _read(self, content: bytes, request: Request, num_samples: int) -> Answered:
        """Return the answers in a reply, with their tokens counted here where the reply does not tell them.

        Raises:
            ReplyError: there are none.
            APIStatusError: there is a refusal instead.
        """
        body, broken = without_broken_choices(parse_reply(content))
        if (refusal := refusal_in(body, self._api)) is not None:
            raise refusal
        num_returned = _num_returned(body, num_samples)
        is_thinking = self._is_thinking or (has_cut(body) and await asyncio.to_thread(self._opens_thought))
        read = partial(read_answers, body, num_returned, request.num_top_tokens, is_thinking=is_thinking)
        answered = read()
        for flaw in sorted(answered.flaws - self._told):
            self._told.add(flaw)
            logger.warning("the endpoint %s sends %s: %s", self._api.base_url, flaw.value, _REMEDIES[flaw])
        if Flaw.GENERATED_TOKENS in answered.flaws:
            answered = await asyncio.to_thread(read, count_tokens=self._counts.of_text)
        answered = replace(answered, broken=broken & set(range(num_samples)))
        if Flaw.PROMPT_TOKENS in answered.flaws:
            answered = replace(answered, prompt_tokens=await asyncio.to_thread(self._counts.of_prompt, request))
        return answered

    def _opens_thought(self) -> bool:
        return self._api.is_thinking and self._counts.opens_thought

    def _require_readable(self, fault: Fault) -> None:
        """Count replies that cannot be read.

        Raises:
            EndpointError: all the first ones.
        """
        self._num_unreadable += fault.is_unreadable
        if self._num_unreadable >= MANY_REFUSALS and not self._has_answered:
            raise EndpointError(
                f"the endpoint {self._api.base_url} answers, but none of its first {MANY_REFUSALS} replies can be "
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

    def _client(self, requests: Sequence[Request]) -> "AsyncOpenAI":
        return openai.AsyncOpenAI(**client_settings(self._api), http_client=BoundedClient(reply_bytes(requests)))


class _Turn:
    """A call admitted by the rate limiter, with the tokens that it has taken or may take."""

    def __init__(self, tokens: int):
        self.tokens = tokens


def _failed(request: Request, fault: Fault, attempts: Attempts, prompt_tokens: int) -> Completion:
    return Completion(
        request_id=request.request_id,
        user_id=request.user_id,
        prompt_tokens=prompt_tokens + attempts.lost_tokens,
        generations=(),
        error=f"{fault.message}, {attempts.number} attempts",
        failure=fault.kind,
        attempts=attempts.number,
    )


def _place_of(error: Exception) -> str:
    """Return the class of an exception and where it was raised, without its words, which may quote a text."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "hydra_ray" in Path(frame.filename).parts]
    place = (own or frames)[-1]
    return f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno} ({place.name})"


def _first_run(missing: Sequence[int], size: int) -> range:
    """Return the first samples that are missing and follow each other, at most `size`."""
    end = next(place for place in range(1, size + 1) if place == size or missing[0] + place not in missing)
    return range(missing[0], missing[0] + end)


def _num_returned(body: Any, num_asked: int) -> int:
    """Return the number of samples to read: as many as there are, if there are any, and no more than were asked for."""
    choices = body.get("choices") if isinstance(body, dict) else None
    return min(len(choices), num_asked) if isinstance(choices, list) and choices else num_asked


def _taken(found: Answered | Fault, expected: int) -> int:
    """Return the tokens that a call has taken: the expected number if it timed out or its answer cannot be used, none
    if it was refused."""
    if isinstance(found, Answered):
        return found.prompt_tokens + sum(each.num_tokens for each in found.generations)
    return expected if found.kind == FailureKind.TIMEOUT or found.is_paid else 0
