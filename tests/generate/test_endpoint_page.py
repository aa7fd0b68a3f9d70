"""The tables of docs/endpoint.md: each status does what the page says, and each preset is what it says."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from answering import answered
from fault_server import ANSWER, FaultServer, Reply

from hydra_ray.config import ApiConfig, GeneratorConfig
from hydra_ray.config.providers import PRESETS
from hydra_ray.errors import EndpointError
from hydra_ray.generate.engines.openai import OpenAiEngine
from hydra_ray.generate.rate_limits import Limiter
from hydra_ray.rows import Completion, Message, Request

PAGE = Path(__file__).parents[2] / "docs" / "endpoint.md"
HTML = "<!DOCTYPE html><html><body>Sorry, you have been blocked</body></html>"
_ASKED = 6
_BEFORE = {"first": [0], "later": [3], "whichever": [0, 3]}


@dataclass(frozen=True)
class Rule:
    """One status of one row, before or after answers."""

    status: int
    body: str
    num_before: int
    outcome: str
    says: str


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of each row of the table with this first column."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]


def rules() -> list[Rule]:
    return [
        Rule(int(status), body.strip("`"), num_before, outcome, says)
        for statuses, body, when, outcome, says in rows("status")
        for status in statuses.split(",")
        for num_before in _BEFORE[when]
    ]


def reply_of(rule: Rule) -> Reply:
    if rule.body == "any":
        return Reply(status=rule.status, headers={"location": "http://127.0.0.1:9/v1"} if rule.status < 400 else {})
    if rule.body == "HTML":
        return Reply(status=rule.status, body=HTML, headers={"content-type": "text/html"})
    assert json.loads(rule.body)
    return Reply(status=rule.status, body=rule.body)


def requests() -> list[Request]:
    """Requests with every field that one can have; the prompt says what an error could say."""
    text = "Unsupported parameter: 'top_logprobs' is not supported, it was flagged by the content policy, page"
    return [
        Request(
            request_id=f"r{place}",
            user_id="u",
            messages=(Message(role="user", content=f"{text} {place}"),),
            num_samples=2,
            temperature=0.5,
            max_tokens=16,
            choices=(),
            num_top_tokens=3,
            seed=1000 * place,
        )
        for place in range(_ASKED)
    ]


def engine_of(url: str) -> OpenAiEngine:
    api = ApiConfig(
        base_url=url,
        model="small-1",
        api_key_env="HYDRA_TEST_KEY",
        max_concurrent_requests=1,
        max_backoff_seconds=0.01,
        attempt_timeout_seconds=20,
        breaker_seconds=1000,
    )
    return OpenAiEngine(GeneratorConfig(engine="openai", model="tokenizer", api=api), api, Limiter(api))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: f"{rule.status} {rule.num_before} {rule.body[:60]}")
def test_a_status_does_what_the_page_says(rule: Rule, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HYDRA_TEST_KEY", "secret")
    kept: list[Completion] = []
    with FaultServer(*[ANSWER] * rule.num_before, reply_of(rule)) as server:
        engine = engine_of(server.url)
        if rule.outcome == "stops":
            with pytest.raises(EndpointError) as stop:
                answered(engine, requests(), kept.extend)
            message = str(stop.value)
            assert rule.says in message
            assert server.url in message
            assert len(message.splitlines()) == 1
            assert not any(word in message for word in ("secret", "page", "Sorry", "no,"))
            assert [each.error for each in kept] == [None] * rule.num_before
            return
        found = {each.request_id: each for each in answered(engine, requests(), kept.extend)}
    hit = found.pop(f"r{rule.num_before}")
    assert [each.error for each in found.values()] == [None] * (_ASKED - 1)
    if rule.outcome == "waits":
        assert (hit.error, hit.attempts) == (None, 2)
        return
    assert f"row fails: {hit.failure}" == rule.outcome
    assert hit.attempts == 1
    assert replace(hit, user_id="u") in kept, "it is not asked again"


def test_every_status_that_a_server_can_send_is_on_the_page():
    known = {rule.status for rule in rules()}
    clients = {400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 413, 414, 415, 417, 418, 421, 422, 424, 425}
    servers = {500, 501, 502, 503, 504, 505, 507, 529, *range(520, 527)}
    assert clients | {426, 429, 431, 451} | servers | {300, 301, 302, 303, 304, 307, 308} <= known


def test_every_preset_is_what_the_page_says():
    told = {
        provider.strip("`"): (
            {
                name: value
                for each in re.findall(r"`([^`]+)`", settings)
                for name, value in yaml.safe_load(each).items()
            },
            json.loads(switch.strip("`")),
        )
        for provider, settings, switch in rows("provider")
    }
    assert told == {name: (dict(each.settings), dict(each.without_thinking)) for name, each in PRESETS.items()}
