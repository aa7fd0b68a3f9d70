"""The service over HTTP, as docs/serving.md starts it: every path gives what the scorer gives."""

import asyncio
import types
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from fault_server import NO_COMPLETION, FaultServer
from markdown_blocks import blocks_of

from hydra_ray.errors import StorageError
from hydra_ray.rows import User
from hydra_ray.serving.export import export_run
from hydra_ray.serving.scorer import ServedScorer, load_scorer
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.tables import read_users

pytest.importorskip("fastapi")
# Third parties: what imports torch and FastAPI uses what others have deprecated.
pytestmark = pytest.mark.filterwarnings("default")
PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(small_run: Plan, tmp_path_factory: pytest.TempPathFactory) -> str:
    return export_run(small_run, str(tmp_path_factory.mktemp("export") / "export")).folder


@pytest.fixture(scope="module")
def scorer(folder: str) -> ServedScorer:
    return load_scorer(folder)


@pytest.fixture(scope="module")
def user(small_run: Plan) -> User:
    users = (user for bucket in small_run.users.buckets for user in read_users(small_run, bucket))
    return next(user for user in users if user.is_new)


@pytest.fixture
def llm() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def service(folder: str, llm: FaultServer, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module service.py of the page."""
    for name, value in {"HYDRA_EXPORT": folder, "OPENAI_BASE_URL": llm.url, "OPENAI_API_KEY": "none"}.items():
        monkeypatch.setenv(name, value)
    return module_of_the_page()


def module_of_the_page() -> types.ModuleType:
    (text,) = [block.text for block in blocks_of(PAGE) if "make_service" in block.text and block.language == "python"]
    module = types.ModuleType("service")
    exec(compile(text, "docs/serving.md", "exec"), vars(module))
    return module


def replies(module: types.ModuleType, *requests: tuple[str, Any]) -> list[httpx.Response]:
    """What the application answers to requests, one after the other, until it is shut down."""

    async def asked() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=module.app)
        async with (
            module.app.router.lifespan_context(module.app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            return [
                await (client.get(path) if body is None else client.post(path, json=body)) for path, body in requests
            ]

    return asyncio.run(asked())


def test_the_whole_path_asks_the_endpoint_and_chooses(
    small_run: Plan, scorer: ServedScorer, user: User, llm: FaultServer, service: types.ModuleType
):
    query = user.queries[0].input
    (reply,) = replies(service, ("/answer", {"user": user.user_id, "query": query}))
    assert reply.status_code == 200
    answer, prompts = reply.json(), scorer.prompts(user.user_id, query)
    assert len(llm.calls) == sum(len(list(each.calls())) for each in prompts)
    assert answer["answer"] in small_run.task.labels
    gate = scorer._exported.gate
    assert gate is not None
    assert (answer["system"], answer["reason"]) == (gate.choice, gate.reason)
    assert (answer["num_failed_prompts"], answer["error"]) == (0, None)


def test_prompts_that_the_callers_own_client_asks_lead_to_the_same_choice(
    scorer: ServedScorer, user: User, llm: FaultServer, service: types.ModuleType
):
    asked = {"user": user.user_id, "query": user.queries[0].input}
    (given,) = replies(service, ("/prompts", asked))
    replied = [
        {
            "prompt": prompt,
            "replies": [httpx.post(f"{llm.url}/chat/completions", json=call).json() for call in prompt["calls"]],
        }
        for prompt in given.json()
    ]
    (chosen,) = replies(module_of_the_page(), ("/choose", {**asked, "replied": replied}))
    drafts = [
        draft
        for each, served in zip(replied, scorer.prompts(*asked.values()), strict=True)
        for draft in served.read(*each["replies"])
    ]
    expected = asdict(scorer.choose(*asked.values(), drafts))
    assert chosen.json() == {**expected, "by_answer": pytest.approx(expected["by_answer"], abs=1e-5)}
    assert [each["prompt"]["name"] for each in replied] == [each.name for each in scorer.prompts(*asked.values())]


def test_what_was_learned_and_pulled_is_told(small_run: Plan, service: types.ModuleType):
    record = {"input": "a night of comedy", "output": small_run.task.labels[0]}
    told = {"user": "someone new", "records": [record]}
    learned, again, pulled, health = replies(
        service, ("/learn", told), ("/learn", told), ("/pull", {}), ("/health", None)
    )
    assert learned.json() == again.json() == {"num_records": 1}
    assert pulled.json() == {"updates": []}
    assert health.json()["updates"] == []
    assert health.json()["seconds_since_pull"] >= 0


def test_prompts_that_the_endpoint_does_not_answer_are_counted_and_left_out(
    scorer: ServedScorer, user: User, llm: FaultServer, service: types.ModuleType
):
    llm.usual = NO_COMPLETION
    asked = {"user": user.user_id, "query": user.queries[0].input}
    failed, chosen = replies(service, ("/answer", asked), ("/choose", asked))
    num_prompts = len(scorer.prompts(*asked.values()))
    assert failed.json() == {**chosen.json(), "num_failed_prompts": num_prompts}


def test_without_an_endpoint_everything_else_is_answered(folder: str, user: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HYDRA_EXPORT", folder)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    asked = {"user": user.user_id, "query": user.queries[0].input}
    refused, chosen = replies(module_of_the_page(), ("/answer", asked), ("/choose", asked))
    assert (refused.status_code, chosen.status_code) == (503, 200)
    assert refused.json() == {"detail": "no endpoint to ask for drafts: set OPENAI_API_KEY and OPENAI_BASE_URL"}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/choose", {"user": "ann"}, 422, "Field required"),
        ("/choose", {"user": "ann", "query": "a", "draft": []}, 422, "Extra inputs are not permitted"),
        ("/choose", {"user": "ann", "query": [{"role": "nobody"}]}, 400, "the query is"),
        ("/learn", {"user": "ann", "records": []}, 422, "at least 1 item"),
        ("/learn", {"user": "ann", "records": [{"input": "a"}]}, 400, "what is to be learned of a user cannot be used"),
    ],
)
def test_what_is_wrong_is_told(path: str, body: Any, status: int, words: str, service: types.ModuleType):
    (reply,) = replies(service, (path, body))
    assert reply.status_code == status
    assert words in str(reply.json()["detail"])


def test_what_cannot_be_read_now_is_told_apart_from_what_was_asked(
    service: types.ModuleType, monkeypatch: pytest.MonkeyPatch
):
    def failing(*_: Any, **__: Any) -> None:
        raise StorageError("the store cannot be reached")

    monkeypatch.setattr(ServedScorer, "choose", failing)
    (reply,) = replies(service, ("/choose", {"user": "ann", "query": "a"}))
    assert (reply.status_code, reply.json()) == (503, {"detail": "the store cannot be reached"})
