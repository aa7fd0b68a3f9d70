import socket
from typing import Any

import pytest
from builders import GENERATOR, run_config
from fault_server import ANSWER, CUT_OFF, HANG, HTML, FaultServer, Reply

from hydra_ray.commands.doctor.endpoint import endpoint_findings
from hydra_ray.config import GeneratorConfig
from hydra_ray.findings import Finding

KEY = "DOCTOR_TEST_KEY"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(KEY, "secret")


def generator(url: str, **api: Any) -> GeneratorConfig:
    settings = {"base_url": url, "model": "large", "api_key_env": KEY, "has_structured_outputs": True, **api}
    return run_config(generator={"engine": "openai", "model": GENERATOR, "api": settings}).generator


def examine(url: str, *, is_called: bool = False, **api: Any) -> dict[str, Finding]:
    findings = endpoint_findings(generator(url, **api), is_called=is_called)
    return {finding.name: finding for finding in findings}


def test_no_call_is_made_unless_it_is_asked_for():
    with FaultServer() as server:
        found = examine(server.url)
        assert server.calls == []
    assert list(found) == ["endpoint's key", "endpoint"]
    assert not any(each.is_problem for each in found.values())


def test_one_call_of_one_token_tells_that_it_was_answered():
    with FaultServer() as server:
        found = examine(server.url, is_called=True)["endpoint: one call"]
        (body,) = server.calls
        assert server.keys == ["Bearer secret"]
    assert not found.is_problem
    assert found.value.startswith("large answered in ")
    assert body["max_tokens"] == 1
    assert body["structured_outputs"] == {"choice": ["yes"]}


@pytest.mark.parametrize(
    ("reply", "remedy"),
    [
        (Reply(status=401), f"Check the key (the environment variable {KEY})"),
        (Reply(status=403), "Check the key"),
        (Reply(status=404), "that it serves the model 'large'"),
        (Reply(status=429), "asks to wait"),
        (Reply(status=429, code="insufficient_quota"), "quota is used up"),
        (Reply(status=400), "has_structured_outputs"),
        (Reply(status=503), "status 503"),
        (HTML, "cannot be read as a chat completion"),
        (CUT_OFF, "the connection failed"),
        (HANG, "no answer within 0.2 s"),
    ],
)
def test_a_call_that_fails_says_what_to_do(reply: Reply, remedy: str):
    with FaultServer(reply, usual=ANSWER) as server:
        found = examine(server.url, is_called=True, attempt_timeout_seconds=0.2)["endpoint: one call"]
        assert len(server.calls) == 1, "nothing is asked twice"
    assert found.is_problem
    assert remedy in found.remedy
    assert "secret" not in str(found)
    assert "Answer with yes" not in str(found), "errors of the endpoint repeat the prompt"
    assert "\n" not in str(found)


def test_a_connection_that_is_not_secure_is_told_from_one_that_fails():
    with FaultServer() as server:
        found = examine(server.url.replace("http://", "https://"), is_called=True)["endpoint: one call"]
    assert "no secure connection" in found.remedy


def test_a_host_without_address_is_told(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", fail)
    found = examine("https://no.such.host/v1", is_called=True)
    assert "there is no host no.such.host" in found["endpoint"].remedy
    assert "endpoint: one call" not in found


def test_a_silent_host_is_told(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", fail)
    assert "firewall" in examine("https://example.com/v1")["endpoint"].remedy


def test_a_proxy_is_connected_to_in_the_place_of_the_endpoint(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        port = proxy.getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        found = examine("https://no.such.host/v1")["endpoint"]
    assert not found.is_problem
    assert f"by the proxy 127.0.0.1:{port}" in found.value


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:99999", "http://127.0.0.1:abc", "http://a..b:80", "http://[::1"])
def test_a_proxy_that_is_no_url_is_told(proxy: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("https_proxy", proxy)
    found = examine("https://endpoint.invalid/v1")["endpoint"]
    assert found.is_problem
    assert "https_proxy in the environment is no URL" in found.remedy


def test_an_endpoint_that_wants_no_key_needs_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(KEY)
    with FaultServer() as server:
        found = examine(server.url, is_called=True, api_key_env=None)
    assert not any(each.is_problem for each in found.values())


@pytest.mark.parametrize("key", ["", "secret\n", " secret", "secret\r", "sec\x07ret", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_a_problem_and_never_shown(key: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEY, key)
    with FaultServer() as server:
        found = examine(server.url, is_called=True)
        assert server.calls == []
    assert found["endpoint's key"].is_problem
    assert not key or key.strip() not in str(found["endpoint's key"])


def test_a_variable_of_a_header_is_examined_as_the_key_is(monkeypatch: pytest.MonkeyPatch):
    headers = {"x-team-token": "Token ${DOCTOR_TEST_TOKEN}"}
    with FaultServer() as server:
        monkeypatch.delenv("DOCTOR_TEST_TOKEN", raising=False)
        found = examine(server.url, is_called=True, extra_headers=headers)["endpoint's variables"]
        assert found.is_problem
        assert "DOCTOR_TEST_TOKEN" in found.remedy
        assert server.calls == []
        monkeypatch.setenv("DOCTOR_TEST_TOKEN", "hidden")
        found = examine(server.url, is_called=True, extra_headers=headers)
        assert not any(each.is_problem for each in found.values())
        assert server.headers[0]["x-team-token"] == "Token hidden"
        assert "hidden" not in str(found)


def test_what_a_provider_begins_with_is_told():
    with FaultServer() as server:
        found = examine(server.url, provider="mistral", has_structured_outputs=False)["endpoint's provider"]
    assert found.value == f"mistral: api_key_env={KEY}, seed_field=random_seed, has_log_probabilities=False"


def test_labels_that_the_endpoint_does_not_enforce_are_told():
    with FaultServer() as server:
        free = examine(server.url, has_structured_outputs=False)["endpoint's choices"]
        assert "endpoint's choices" not in examine(server.url, has_structured_outputs=True)
    assert not free.is_problem
    assert "generator.api.has_structured_outputs is false" in free.value


def test_a_field_that_is_refused_names_the_setting():
    body = '{"error": {"message": "Unsupported parameter: \'max_tokens\'", "param": "max_tokens"}}'
    with FaultServer(Reply(status=400, body=body)) as server:
        found = examine(server.url, is_called=True)["endpoint: one call"]
    assert "length_field to max_completion_tokens" in found.remedy
