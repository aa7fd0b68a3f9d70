import asyncio
import copy
import json
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from answering import answered
from fault_server import (
    ANSWER,
    CUT_OFF,
    HANG,
    HTML,
    MALFORMED,
    NO_COMPLETION,
    FaultServer,
    Reply,
    request_of,
    thinking,
    without_usage,
)
from reply_bodies import body_of, with_tokens

from hydra_ray.config import ApiConfig, GeneratorConfig
from hydra_ray.errors import ConfigError, EndpointError
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.generate.engines import token_counts
from hydra_ray.generate.engines.fake import complete, fake_tokenizer
from hydra_ray.generate.engines.openai import OpenAiEngine
from hydra_ray.generate.failures import TRANSIENT, FailureKind
from hydra_ray.generate.prompts import count_prompt_tokens
from hydra_ray.generate.rate_limits import Limiter, Turns
from hydra_ray.generate.replies import read_answers
from hydra_ray.generate.retry_policy import Breaker
from hydra_ray.rows import Completion, Message, Request

SECRET_TEXT = "my diary of last summer"
"""In every prompt; the server's errors repeat it."""
KEY = "sk-very-secret"
OWN_ERROR = Reply(body=json.dumps({"error": {"message": SECRET_TEXT, "code": 429}, "choices": None}))


def requests(number: int, **changes: Any) -> list[Request]:
    return [
        replace(
            Request(
                request_id=f"r{place}",
                user_id="ann@example.org",
                messages=(Message(role="user", content=f"{SECRET_TEXT}, page {place}"),),
                num_samples=1,
                temperature=0.0,
                max_tokens=16,
                choices=(),
                num_top_tokens=0,
                seed=1000 * place,
            ),
            **changes,
        )
        for place in range(number)
    ]


def engine_of(url: str, turns: Turns | None = None, **settings: Any) -> OpenAiEngine:
    """An engine of little patience."""
    usual: dict[str, Any] = {
        "model": "small-1",
        "max_attempts": 3,
        "max_backoff_seconds": 0.02,
        "attempt_timeout_seconds": 20,
        "request_deadline_seconds": 60,
        "breaker_failures": 1000,
        "breaker_seconds": 20_000,
    }
    api = ApiConfig(base_url=url, **usual | settings)
    return OpenAiEngine(GeneratorConfig(engine="openai", model="tokenizer", api=api), api, turns or Limiter(api))


def answers(engine: OpenAiEngine, asked: Sequence[Request]) -> dict[str, Completion]:
    found = answered(engine, asked)
    assert len(found) == len(asked)
    return {each.request_id: each for each in found}


def texts(completion: Completion) -> list[str]:
    return [each.text for each in completion.generations]


def test_every_request_is_answered_once_many_at_a_time():
    asked = requests(40)
    with FaultServer(usual=Reply(seconds=0.05)) as server:
        found = answers(engine_of(server.url, max_concurrent_requests=8), asked)
    for request in asked:
        expected = complete(request)
        assert texts(found[request.request_id]) == texts(expected)
        assert (found[request.request_id].error, found[request.request_id].attempts) == (None, 1)
    assert len(server.calls) == 40
    assert server.most_at_once == 8


def test_samples_of_a_request_come_in_one_call_or_in_as_many_as_the_endpoint_needs():
    asked = requests(2, num_samples=5, temperature=1.0)
    for size, num_calls in ((None, 1), (2, 3), (1, 5)):
        with FaultServer() as server:
            found = answers(engine_of(server.url, max_samples_per_call=size), asked)
        assert len(server.calls) == 2 * num_calls
        sampled = {request_of(call).seed + place for call in server.calls for place in range(call.get("n", 1))}
        assert len(sampled) == 10
        for completion in found.values():
            assert len(completion.generations) == 5
            assert completion.attempts == num_calls


@pytest.mark.parametrize(
    "fault",
    [
        Reply(status=429),
        Reply(status=500),
        Reply(status=503, body="<html>overloaded</html>"),
        Reply(status=408),
        CUT_OFF,
        MALFORMED,
        NO_COMPLETION,
        HTML,
    ],
    ids=lambda fault: f"{fault.status}{fault.body or ''}"[:20],
)
def test_what_may_pass_is_tried_again(fault: Reply):
    with FaultServer(fault, fault) as server:
        found = answers(engine_of(server.url, max_concurrent_requests=1), requests(2))
    assert [each.error for each in found.values()] == [None, None]
    assert [each.attempts for each in found.values()] == [3, 1]


@pytest.mark.parametrize("fault", [Reply(status=500), CUT_OFF, MALFORMED, HTML])
def test_what_does_not_pass_fails_its_request_alone_and_is_not_kept(fault: Reply):
    with FaultServer(fault, fault, fault) as server:
        found = answers(engine_of(server.url, max_concurrent_requests=1), requests(3))
    assert found["r0"].failure == FailureKind.UNAVAILABLE
    assert found["r0"].failure in TRANSIENT
    assert found["r0"].attempts == 3
    assert [found[name].error for name in ("r1", "r2")] == [None, None]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(status=400), FailureKind.REFUSED),
        (Reply(status=422), FailureKind.REFUSED),
        (Reply(status=413), FailureKind.REFUSED),
        (Reply(status=400, code="context_length_exceeded"), FailureKind.TOO_LONG),
        (Reply(status=400, code="content_filter"), FailureKind.CONTENT_FILTER),
    ],
)
def test_one_bad_prompt_fails_alone_and_is_not_tried_again(reply: Reply, kind: FailureKind):
    with FaultServer(ANSWER, reply) as server:
        found = answers(engine_of(server.url, max_concurrent_requests=1), requests(3))
    assert [each.failure for each in found.values()] == [None, kind, None]
    assert len(server.calls) == 3


def test_a_prompt_that_is_no_text_fails_alone():
    broken = replace(requests(1)[0], request_id="bad", messages=(Message(role="user", content="a \ud800 b"),))
    with FaultServer() as server:
        found = answers(engine_of(server.url), [broken, *requests(2)])
    assert found["bad"].failure == FailureKind.REFUSED
    assert [found[name].error for name in ("r0", "r1")] == [None, None]


def test_why_an_answer_ended_is_recorded():
    replies = [Reply(finish_reason=reason) for reason in ("length", "content_filter", "stop")]
    with FaultServer(*replies) as server:
        found = answers(engine_of(server.url, max_concurrent_requests=1), requests(3))
    assert [each.generations[0].finish_reason for each in found.values()] == ["length", "content_filter", "stop"]
    assert [each.error for each in found.values()] == [None, None, None]


@pytest.mark.parametrize("headers", [{"retry-after": "1"}, {"retry-after-ms": "1000"}])
def test_a_pause_that_the_endpoint_asks_for_is_made(headers: dict[str, str]):
    with FaultServer(Reply(status=429, headers=headers)) as server:
        answers(engine_of(server.url), requests(1))
    assert server.times[1] - server.times[0] >= 1


def test_a_pause_beyond_the_deadline_stops_the_run_and_says_when_to_go_on():
    kept: list[Completion] = []
    with FaultServer(ANSWER, usual=Reply(status=429, headers={"retry-after": "3600"})) as server:
        engine = engine_of(server.url, max_concurrent_requests=2)
        with pytest.raises(EndpointError, match=r"3600 s .*request_deadline_seconds=60 .*run again after \d{4}-.* UTC"):
            answered(engine, requests(200), kept.extend)
    assert len(server.calls) <= 4, "no request after another is asked, and fails"
    assert [each.error for each in kept] == [None]


def test_all_requests_wait_while_the_endpoint_asks_one_of_them_to():
    with FaultServer(Reply(status=429, headers={"retry-after": "1"}), Reply(seconds=0.2), usual=ANSWER) as server:
        found = answers(engine_of(server.url, max_concurrent_requests=2, max_attempts=1), requests(40))
    assert [each.error for each in found.values()] == [None] * 40, "a wait that is asked for is no failed attempt"
    early = [each for each in server.times if each < server.times[0] + 1]
    assert len(early) == 2, "only those that were under way"


def test_a_wait_is_no_sign_of_death_and_neither_is_an_overload(monkeypatch: pytest.MonkeyPatch):
    signs = list[str]()
    monkeypatch.setattr(Breaker, "failed", lambda _, request_id, start: signs.append(request_id))
    monkeypatch.setattr("hydra_ray.generate.engines.openai.random.random", lambda: 0.0)
    overloads = [Reply(status=status, headers={"retry-after-ms": "5"}) for status in (429, 503, 529)]
    with FaultServer(*overloads * 4) as server:
        found = answers(engine_of(server.url, breaker_failures=1, max_attempts=100), requests(2))
    assert [each.error for each in found.values()] == [None] * 2
    assert len(server.calls) == 2 + len(overloads) * 4
    assert signs == []


@pytest.mark.parametrize("seconds", ["1e300", "999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_wait_of_any_length_is_told(seconds: str):
    reply = Reply(status=429, headers={"retry-after": seconds})
    with FaultServer(reply) as server, pytest.raises(EndpointError, match="asks to wait"):
        answered(engine_of(server.url), requests(3))


def test_an_endpoint_that_knows_no_n_is_told_after_few_calls_and_what_it_gave_is_used():
    kept: list[Completion] = []
    one = Reply(first_choices=1)
    asked = requests(50, num_samples=3, temperature=1.0)
    with FaultServer(usual=one) as server:
        engine = engine_of(server.url, max_concurrent_requests=2)
        with pytest.raises(EndpointError, match=r"fewer samples .*max_samples_per_call to 1"):
            answered(engine, asked, kept.extend)
    assert len([each for each in server.calls if each.get("n") == 3]) <= 4
    assert 3 <= len(kept) <= 4
    assert all(len(each.generations) == 3 for each in kept)
    seeds = Counter(call["seed"] for call in server.calls)
    for request in asked[:2]:
        assert [seeds[request.seed + sample] for sample in range(3)] == [1] * 3, (
            "each sample is asked with its own seed"
        )


def test_a_reply_with_a_sample_less_among_whole_ones_is_completed():
    replies = [ANSWER, *[Reply(first_choices=2), ANSWER] * 5]
    with FaultServer(*replies) as server:
        found = answers(engine_of(server.url, max_concurrent_requests=1), requests(8, num_samples=3, temperature=1.0))
    assert {len(each.generations) for each in found.values()} == {3}
    assert len(server.calls) == 8 + 5


def test_one_forbidden_row_among_answers_fails_alone_and_is_kept_as_refused():
    kept: list[Completion] = []
    with FaultServer(*[ANSWER] * 5, Reply(status=403)) as server:
        found = answered(engine_of(server.url, max_concurrent_requests=1), requests(20), kept.extend)
    assert [each.failure for each in found if each.error] == [FailureKind.REFUSED]
    assert len(kept) == 20


def test_a_key_revoked_in_the_middle_stops_the_run_and_keeps_no_refusal():
    kept: list[Completion] = []
    with (
        FaultServer(*[ANSWER] * 5, usual=Reply(status=403)) as server,
        pytest.raises(EndpointError, match=r"refused 10 requests in a row, though it answered before.*Check the key"),
    ):
        answered(engine_of(server.url, max_concurrent_requests=1), requests(50), kept.extend)
    assert [each.error for each in kept] == [None] * 5
    assert len(server.calls) == 15


def test_a_last_row_that_is_forbidden_is_not_kept_as_refused():
    kept: list[Completion] = []
    with FaultServer(*[ANSWER] * 5, usual=Reply(status=403)) as server:
        found = answered(engine_of(server.url, max_concurrent_requests=1), requests(6), kept.extend)
    assert [each.failure in TRANSIENT for each in found if each.error] == [True]
    assert [each.error for each in kept] == [None] * 5


def test_unpaid_calls_stop_the_run_and_are_asked_again_after_payment():
    kept: list[Completion] = []
    with FaultServer(
        *[ANSWER] * 7, usual=Reply(status=402, body='{"error": {"message": "Insufficient Balance"}}')
    ) as server:
        engine = engine_of(server.url, max_concurrent_requests=3)
        with pytest.raises(EndpointError, match=r"status 402.*pay"):
            answered(engine, requests(30), kept.extend)
        known = {each.request_id for each in kept}
        assert [each.error for each in kept] == [None] * 7
        server.usual = ANSWER
        found = answered(engine, [each for each in requests(30) if each.request_id not in known], kept.extend)
    assert [each.error for each in found] == [None] * 23
    assert len({each.request_id for each in kept}) == len(kept) == 30


def test_calls_under_way_are_awaited_and_kept_when_the_run_stops():
    kept: list[Completion] = []
    slow = Reply(seconds=0.5)
    with FaultServer(slow, slow, Reply(status=500), Reply(status=402)) as server:
        engine = engine_of(server.url, max_concurrent_requests=4, max_backoff_seconds=1000)
        with pytest.raises(EndpointError, match="status 402"):
            answered(engine, requests(30), kept.extend)
    assert [each.error for each in kept] == [None] * 2, "what was paid is not lost"
    assert len(server.calls) == 4, "and nothing more is asked"


def test_a_small_part_of_which_all_is_refused_keeps_no_refusal():
    kept: list[Completion] = []
    with FaultServer(usual=Reply(status=400)) as server:
        found = answered(engine_of(server.url), requests(3), kept.extend)
    assert [each.failure for each in found] == [FailureKind.REFUSED] * 3
    assert kept == []


def test_a_form_that_is_not_taken_any_more_stops_the_run_after_many_refusals():
    refused = "refused 50 requests in a row, though it answered before"
    with FaultServer(*[ANSWER] * 3, usual=Reply(status=400)) as server, pytest.raises(EndpointError, match=refused):
        answered(engine_of(server.url, max_concurrent_requests=1), requests(100))


def test_a_redirect_sends_neither_key_nor_prompt_elsewhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HYDRA_TEST_KEY", KEY)
    with FaultServer() as other, FaultServer() as server:
        server.usual = Reply(status=307, headers={"location": f"{other.url}/chat/completions"}, body="")
        with pytest.raises(EndpointError, match=r"redirects.*base_url"):
            answered(engine_of(server.url, api_key_env="HYDRA_TEST_KEY", api_key_header="api-key"), requests(3))
    assert other.calls == []


def test_a_call_that_hangs_is_given_up_and_tried_again_within_the_requests_deadline():
    with FaultServer(HANG) as server:
        found = answers(engine_of(server.url, attempt_timeout_seconds=0.2), requests(1))
        assert (found["r0"].error, found["r0"].attempts) == (None, 2)
        server.usual = HANG
        found = answers(
            engine_of(server.url, attempt_timeout_seconds=0.2, request_deadline_seconds=0.5, max_attempts=1000),
            requests(3),
        )
    assert {each.failure for each in found.values()} == {FailureKind.TIMEOUT}
    assert all(2 <= each.attempts < 1000 for each in found.values())


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(status=401), "status 401.*HYDRA_TEST_KEY"),
        (Reply(status=403), "status 403.*HYDRA_TEST_KEY"),
        (Reply(status=404, code="model_not_found"), r"status 404 \(model_not_found\).*small-1"),
        (Reply(status=429, code="insufficient_quota"), "quota"),
        (Reply(status=402), "status 402.*credit"),
        (Reply(status=407), "proxy"),
        (Reply(status=400, code="invalid_api_key"), "HYDRA_TEST_KEY"),
    ],
)
def test_what_every_request_would_meet_ends_the_job_at_once(reply: Reply, says: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HYDRA_TEST_KEY", KEY)
    with FaultServer(reply) as server, pytest.raises(EndpointError, match=says) as caught:
        answered(engine_of(server.url, api_key_env="HYDRA_TEST_KEY", max_concurrent_requests=1), requests(50))
    assert server.url in str(caught.value)
    assert len(server.calls) == 1


def test_an_endpoint_that_refuses_every_request_ends_the_job_and_stores_nothing():
    kept: list[Completion] = []
    with FaultServer(usual=Reply(status=400, code="unsupported_parameter")) as server:
        engine = engine_of(server.url, max_concurrent_requests=2)
        with pytest.raises(EndpointError, match=r"refused each .*unsupported_parameter.*has_log_probabilities"):
            answered(engine, requests(50), kept.extend)
    assert len(server.calls) < 15
    assert kept == []


def test_a_dead_endpoint_ends_the_job_with_its_name_within_the_time_that_was_set():
    with FaultServer() as server:
        url = server.url
    engine = engine_of(url, breaker_failures=3, breaker_seconds=1, attempt_timeout_seconds=0.5, max_attempts=1)
    start = time.monotonic()
    with pytest.raises(EndpointError, match=f"{url} is dead.* 1 s"):
        answered(engine, requests(20))
    assert 1 <= time.monotonic() - start < 10


def test_an_endpoint_that_never_answers_ends_the_job_too():
    with FaultServer(usual=HANG) as server:
        engine = engine_of(server.url, breaker_failures=3, breaker_seconds=1, attempt_timeout_seconds=0.3)
        with pytest.raises(EndpointError, match=f"{server.url} is dead"):
            answered(engine, requests(20))


def test_an_outage_that_is_shorter_than_that_costs_no_answer():
    with FaultServer(*[Reply(status=503)] * 60) as server:
        settings = {"breaker_failures": 3, "breaker_seconds": 60, "max_attempts": 2}
        found = answers(engine_of(server.url, **settings, max_concurrent_requests=4), requests(8))
    assert [each.error for each in found.values()] == [None] * 8
    assert len(server.calls) == 68


def test_being_asked_to_slow_down_is_no_sign_of_death():
    with FaultServer(usual=Reply(status=429)) as server:
        settings = {"breaker_failures": 1, "breaker_seconds": 0.2, "attempt_timeout_seconds": 0.1, "max_attempts": 8}
        found = answers(engine_of(server.url, **settings, max_backoff_seconds=0.2), requests(2))
    assert {each.failure for each in found.values()} == {FailureKind.UNAVAILABLE}


def test_answers_are_kept_while_others_are_still_awaited():
    kept: list[str] = []
    is_kept, may_answer = threading.Event(), threading.Event()

    def keep(completions: Sequence[Completion]) -> None:
        kept.extend(each.request_id for each in completions)
        is_kept.set()

    with FaultServer(ANSWER, ANSWER, Reply(held_until=may_answer)) as server:
        engine = engine_of(server.url, max_concurrent_requests=1)
        asking = threading.Thread(target=answered, args=(engine, requests(5), keep))
        asking.start()
        assert is_kept.wait(30)
        assert sorted(kept) == ["r0", "r1"]
        may_answer.set()
        asking.join()
    assert sorted(kept) == [f"r{place}" for place in range(5)]


def test_what_was_answered_before_the_endpoint_died_is_kept():
    kept: list[Completion] = []
    with FaultServer(*[ANSWER] * 7, usual=Reply(status=401)) as server, pytest.raises(EndpointError):
        answered(engine_of(server.url, max_concurrent_requests=1), requests(20), kept.extend)
    assert [each.request_id for each in kept] == [f"r{place}" for place in range(7)]


def test_answers_whose_keeping_was_cancelled_before_it_began_are_kept_in_the_end(monkeypatch: pytest.MonkeyPatch):
    kept: list[Completion] = []
    keep, original, keeping_begins = kept.extend, asyncio.to_thread, threading.Event()

    async def to_thread(*arguments: Any) -> Any:
        # The client has work for a thread too, before it sends its first call.
        if arguments[0] == keep and not keeping_begins.is_set():
            # As where no thread is free until everything is cancelled.
            keeping_begins.set()
            await asyncio.Event().wait()
        return await original(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    replies = [*[ANSWER] * 5, Reply(status=401, held_until=keeping_begins)]
    with FaultServer(*replies) as server, pytest.raises(EndpointError):
        answered(engine_of(server.url, max_concurrent_requests=1), requests(20), keep)
    assert keeping_begins.is_set()
    assert [each.request_id for each in kept] == [f"r{place}" for place in range(5)]


class SixAtOnce:
    """Turns of which the first six are given at once, and each later one after a while."""

    def __init__(self, server: FaultServer):
        self.asked_before: list[int] = []
        """How many calls the server had got at the end of each wait."""
        self.settled = 0
        self._server, self._num = server, 0

    async def reserve(self, tokens: int) -> int:
        self._num += 1
        if self._num > 6:
            await asyncio.sleep(0.5)
            self.asked_before.append(len(self._server.calls))
        return self._num

    async def settle(self, ticket: int, tokens: int) -> None:
        self.settled += 1


def test_every_call_waits_for_its_turn_tries_again_included():
    with FaultServer(*[Reply(status=500)] * 3) as server:
        turns = SixAtOnce(server)
        found = answered(engine_of(server.url, turns, max_concurrent_requests=6), requests(6))
        assert [each.error for each in found] == [None] * 6
        assert min(turns.asked_before) == 6
        assert len(turns.asked_before) == 3
        assert turns.settled == len(server.calls) == 9


class Recording(Limiter):
    """A limiter that records what calls took."""

    def __init__(self, api: ApiConfig, settled: list[int]):
        super().__init__(api)
        self._settled = settled

    async def settle(self, ticket: int, tokens: int) -> None:
        self._settled.append(tokens)
        await super().settle(ticket, tokens)


class Impatient(Limiter):
    """A limiter whose callers give up."""

    async def reserve(self, tokens: int) -> int:
        try:
            return await asyncio.wait_for(super().reserve(tokens), 3)
        except TimeoutError:
            raise EndpointError("no turn in 3 s") from None


def test_the_clusters_limit_holds_for_every_call_tries_again_included():
    with FaultServer(*[Reply(status=500)] * 3) as server:
        settings = {"requests_per_minute": 6, "max_concurrent_requests": 6}
        turns = Impatient(ApiConfig(base_url=server.url, model="small-1", **settings))
        # Three calls are tried again, and must wait for the next minute.
        with pytest.raises(EndpointError, match="no turn in 3 s"):
            answered(engine_of(server.url, turns, **settings), requests(6))
        assert len(server.calls) == 6


def test_neither_the_key_nor_a_text_nor_a_user_is_in_any_message(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("HYDRA_TEST_KEY", KEY)
    faults = [
        Reply(status=400, code=f"no {SECRET_TEXT}"),
        Reply(status=500),
        Reply(status=500),
        Reply(status=500),
        HTML,
    ]
    with caplog.at_level(logging.DEBUG), FaultServer(ANSWER, *faults) as server:
        engine = engine_of(server.url, api_key_env="HYDRA_TEST_KEY", max_concurrent_requests=1)
        said = [each.error for each in answered(engine, requests(5))]
        server.replies.extend([Reply(status=401)])
        with pytest.raises(EndpointError) as caught:
            answered(engine, requests(1))
    assert server.keys[0] == f"Bearer {KEY}"
    told = caplog.text + repr(said) + repr(caught.value) + repr(caught.value.__cause__)
    for secret in (KEY, SECRET_TEXT, "ann@example.org"):
        assert secret not in told
    assert "status 400" in told


def test_a_key_that_is_not_there_is_missed_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HYDRA_TEST_KEY", raising=False)
    with pytest.raises(ConfigError, match="HYDRA_TEST_KEY, which is not set"):
        engine_of("http://localhost/v1", api_key_env="HYDRA_TEST_KEY")


def test_no_key_of_the_environment_is_sent_to_an_endpoint_that_wants_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FaultServer() as server:
        answers(engine_of(server.url), requests(1))
    assert KEY not in server.keys[0]


def test_a_reply_that_holds_no_answer_is_asked_again_and_is_a_sign_of_life():
    settings = {"breaker_failures": 1, "breaker_seconds": 1, "attempt_timeout_seconds": 1, "max_attempts": 4}
    replies = [ANSWER, *[NO_COMPLETION, HTML, MALFORMED, OWN_ERROR] * 3]
    with FaultServer(*replies) as server:
        engine = engine_of(server.url, **settings, max_concurrent_requests=1, max_backoff_seconds=0.6)
        found = answers(engine, requests(5))
    assert [each.error for each in found.values()].count(None) == 2
    assert {each.failure for each in found.values()} == {None, FailureKind.UNAVAILABLE}
    assert "an error (429) in the place of an answer" in str(found["r1"].error)


def test_broken_choices_of_one_index_leave_no_sample_too_many():
    odd = body_of({"content": "half"}, {"content": "half"}, {"content": "half"}, {"content": "war"})
    for place in range(3):
        odd["choices"][place]["error"] = {"code": 502}
    with FaultServer(Reply(body=json.dumps(odd))) as server:
        (found,) = answers(engine_of(server.url), requests(1, num_samples=3, temperature=1.0)).values()
        assert len(server.calls) == 3
    assert len(found.generations) == 3


def test_replies_that_are_broken_off_at_first_are_waited_out():
    odd = body_of({"content": ""})
    odd["choices"][0]["finish_reason"] = "load"
    with FaultServer(*[Reply(body=json.dumps(odd))] * 20) as server:
        found = answers(engine_of(server.url, max_attempts=30, max_concurrent_requests=1), requests(2))
    assert [each.error for each in found.values()] == [None, None]


def test_a_short_wait_that_is_asked_for_again_and_again_is_told_so():
    slow = Reply(status=429, headers={"retry-after": "1"})
    with FaultServer(usual=slow) as server, pytest.raises(EndpointError, match="wait for 1 s again and again"):
        answered(engine_of(server.url, request_deadline_seconds=2, attempt_timeout_seconds=2), requests(1))


def in_place_of_an_answer(code: int, message: str) -> Reply:
    return Reply(body=json.dumps({"error": {"message": message, "code": code}, "choices": None}))


def test_an_unpaid_account_that_is_told_with_status_200_stops_the_run():
    unpaid, kept = in_place_of_an_answer(402, "Insufficient credits"), list[Completion]()
    with FaultServer(ANSWER, usual=unpaid) as server:
        with pytest.raises(EndpointError, match=r"status 402\. The account's quota"):
            answered(engine_of(server.url, max_concurrent_requests=1), requests(5), kept.extend)
        assert len(server.calls) == 2
    assert [each.error for each in kept] == [None]


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (403, "Your input was flagged", FailureKind.CONTENT_FILTER),
        (400, "the maximum context length is 64", FailureKind.TOO_LONG),
    ],
)
def test_a_prompt_that_is_refused_with_status_200_fails_alone_at_once(code: int, message: str, kind: FailureKind):
    with FaultServer(ANSWER, in_place_of_an_answer(code, message)) as server:
        found = answers(engine_of(server.url, max_concurrent_requests=1), requests(3))
        assert len(server.calls) == 3
    assert [each.failure for each in found.values()] == [None, kind, None]


def test_an_endpoint_none_of_whose_first_replies_is_read_ends_the_job_by_name():
    for reply, says in ((HTML, "a web page.*base_url"), (NO_COMPLETION, "nothing as choices")):
        with FaultServer(usual=reply) as server:
            engine = engine_of(server.url, max_concurrent_requests=2, max_attempts=8)
            with pytest.raises(EndpointError, match=f"none of its first 10 replies.*{says}"):
                answered(engine, requests(50))
        assert len(server.calls) <= 12


@pytest.mark.parametrize(
    "message",
    [
        {"content": "half \ud83d"},
        {"content": [{"type": "thinking", "thinking": "a"}, {"type": "text", "text": "half"}]},
        {"content": {"type": "text", "text": "half"}, "reasoning": {"a": 1}},
    ],
)
def test_an_odd_answer_among_others_costs_none_and_is_kept(message: dict[str, Any], tmp_path: Path):
    odd = with_tokens(body_of(message, usage={"prompt_tokens": None}), "half", top=[{"token": "a", "logprob": 1000}])
    store, asked = CompletionStore(root=str(tmp_path), name="0" * 16), requests(5, num_top_tokens=5)
    with FaultServer(ANSWER, ANSWER, Reply(body=json.dumps(odd))) as server:
        engine = engine_of(server.url, max_concurrent_requests=1)
        found = answered(engine, asked, partial(store.write, 0, "probes-1"))
    assert store.read(0, asked) == {each.request_id: each for each in found}
    assert texts(store.read(0, asked)["r2"])[0].startswith("half")


@pytest.mark.parametrize("kind", [KeyError, ValueError])
def test_a_bug_of_ours_fails_its_requests_alone_and_is_logged_once_without_texts(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(body: Any, *others: Any, **named: Any) -> Any:
        if "half" in repr(body):
            raise kind("my diary")
        return read_answers(body, *others, **named)

    half = Reply(body=json.dumps(body_of({"content": "half"})))
    monkeypatch.setattr("hydra_ray.generate.engines.openai.read_answers", broken)
    with FaultServer(ANSWER, half, half) as server:
        found = answers(engine_of(server.url, max_concurrent_requests=1), requests(4))
    assert [each.failure for each in found.values()] == [None, FailureKind.ENGINE, FailureKind.ENGINE, None]
    place = rf"{kind.__name__} at openai.py:\d+ \(_read\)"
    assert re.fullmatch(rf"the call failed by an unexpected {place}, 1 attempts", found["r1"].error or "")
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert re.search(place, record.getMessage())
    assert "diary" not in caplog.text


def test_a_broken_choice_among_whole_ones_is_asked_alone():
    odd = body_of({"content": "war"}, {"content": "half"}, {"content": "love"})
    odd["choices"][1] |= {"finish_reason": "error", "error": {"code": 502}}
    with FaultServer(*[Reply(body=json.dumps(odd)), ANSWER] * 4) as server:
        found = answers(engine_of(server.url, max_concurrent_requests=1), requests(4, num_samples=3, temperature=1.0))
    assert all(texts(each)[:2] == ["war", "love"] and len(texts(each)) == 3 for each in found.values())
    assert [call.get("n") for call in server.calls] == [3, None] * 4
    assert [call["seed"] for call in server.calls[:2]] == [0, 1], "by its own seed"


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": -3, "completion_tokens": -1}, {"prompt_tokens": 0}])
def test_tokens_that_the_endpoint_does_not_tell_are_counted_and_said_once(
    usage: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(token_counts, "load_tokenizer", lambda _: fake_tokenizer())
    settled: list[int] = []
    with FaultServer(style=lambda completion: completion | {"usage": usage}) as server:
        turns = Recording(ApiConfig(base_url=server.url, model="small-1"), settled)
        found = answers(engine_of(server.url, turns), requests(6))
    for completion in found.values():
        (request,) = [each for each in requests(6) if each.request_id == completion.request_id]
        assert completion.prompt_tokens == count_prompt_tokens(request.messages, fake_tokenizer())
        assert [each.num_tokens for each in completion.generations] == [
            len(fake_tokenizer()(text)["input_ids"]) for text in texts(completion)
        ]
    assert sorted(settled) == sorted(each.prompt_tokens + each.generations[0].num_tokens for each in found.values())
    said = [record.getMessage() for record in caplog.records if "counted by the tokenizer" in record.getMessage()]
    assert len(said) == 2
    assert all(server.url in each and SECRET_TEXT not in each for each in said)


def test_without_a_tokenizer_tokens_are_counted_by_characters():
    with FaultServer(style=without_usage) as server:
        found = answers(engine_of(server.url), requests(2))
    for completion in found.values():
        assert completion.prompt_tokens > len(SECRET_TEXT) / 4
        assert completion.generations[0].num_tokens > 0


def test_what_unreadable_replies_took_is_counted_and_so_are_samples_of_failed_requests():
    with FaultServer(NO_COMPLETION, ANSWER, ANSWER, *[NO_COMPLETION] * 3) as server:
        engine = engine_of(server.url, max_samples_per_call=1, max_concurrent_requests=1)
        first, second = answered(engine, requests(2, num_samples=2, temperature=1.0))
    (plain,) = map(complete, requests(1))
    assert (first.error, second.failure) == (None, FailureKind.UNAVAILABLE)
    assert first.prompt_tokens > 2 * plain.prompt_tokens
    assert second.prompt_tokens > 0


def test_answers_of_a_thinking_model_are_those_without_its_thoughts():
    asked = requests(24)
    with FaultServer(style=thinking) as server:
        found = answers(engine_of(server.url), asked)
    for request in asked:
        expected = complete(request)
        assert texts(found[request.request_id]) == texts(expected)
        assert found[request.request_id].generations[0].thought_tokens > 0


def test_a_cut_text_of_a_model_with_room_for_thoughts_is_a_thought():
    with FaultServer(usual=Reply(finish_reason="length")) as server:
        api = ApiConfig(base_url=server.url, model="small-1")
        config = GeneratorConfig(engine="openai", model="tokenizer", api=api, thinking_tokens=50)
        (completion,) = answered(OpenAiEngine(config, api, Limiter(api)), requests(1))
    (generation,) = completion.generations
    assert (generation.text, generation.thought_tokens) == ("", generation.num_tokens)


@pytest.mark.parametrize(("settings", "is_thought"), [({}, True), ({"provider": "vllm", "is_thinking": False}, False)])
def test_a_cut_text_is_a_thought_where_the_models_own_template_opens_one(
    settings: dict[str, Any], is_thought: bool, monkeypatch: pytest.MonkeyPatch
):
    tokenizer = copy.deepcopy(fake_tokenizer())
    tokenizer.chat_template = str(tokenizer.chat_template) + "{% if add_generation_prompt %}<think>\n{% endif %}"
    monkeypatch.setattr(token_counts, "load_tokenizer", lambda _: tokenizer)
    with FaultServer(ANSWER, Reply(finish_reason="length")) as server:
        found = answers(engine_of(server.url, max_concurrent_requests=1, **settings), requests(2))
    assert [bool(each.generations[0].thought_tokens) for each in found.values()] == [False, is_thought]


def test_nothing_to_do_is_done():
    assert answered(engine_of("http://localhost/v1"), []) == []
