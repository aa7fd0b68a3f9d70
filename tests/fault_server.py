"""An OpenAI-compatible chat endpoint that answers as the fake engine does, with all that can go wrong with one."""

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from hydra_ray.generate.engines.fake import complete
from hydra_ray.rows import Generation, Message, Request


@dataclass(frozen=True, kw_only=True)
class Reply:
    """How one call is answered: as it should be, unless something else is said."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    """In the place of an answer or an error of the usual form."""
    change: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """Makes what is sent of the answer."""
    code: str = ""
    """Of an error."""
    finish_reason: str = "stop"
    first_choices: int | None = None
    """Number of choices of an answer, where it has not all."""
    seconds: float = 0
    """Until it is answered."""
    held_until: threading.Event | None = None
    """It is not answered before this is set."""
    is_cut_off: bool = False
    """The connection is closed in the middle of the body."""


ANSWER = Reply()
HANG = Reply(seconds=3600)
CUT_OFF = Reply(is_cut_off=True)
MALFORMED = Reply(body='{"choices": [{"index": 0,')
NO_COMPLETION = Reply(body='{"hello": "world"}')
HTML = Reply(body="<html>welcome</html>", headers={"content-type": "text/html"})


class FaultServer:
    """What is put into `replies` is the answer to the calls that follow, one each, in order; after that `usual` is.

    It listens while it is entered. An error's message repeats the prompt, as real ones do.
    """

    def __init__(
        self, *replies: Reply, usual: Reply = ANSWER, style: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    ):
        self.replies = deque(replies)
        self.usual = usual
        self.style = style or dict
        """What becomes of a completion before it is sent."""
        self.calls: list[dict[str, Any]] = []
        """Bodies of all calls."""
        self.headers: list[dict[str, str]] = []
        """Headers of all calls, by names in lower case."""
        self.queries: list[dict[str, str]] = []
        self.keys: list[str] = []
        """What they were authorized by."""
        self.times: list[float] = []
        """When they came, on the monotonic clock."""
        self.num_answered = 0
        """Calls whose answers were sent whole."""
        self.most_at_once = 0
        self._at_once = 0
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._port = 0

    @property
    def url(self) -> str:
        """The endpoint's base URL."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    def add_routes(self, app: web.Application) -> None:
        """Take calls on the path of `url`."""
        app.router.add_post("/v1/chat/completions", self._call)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        app = web.Application(client_max_size=1 << 24)
        self.add_routes(app)
        runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self._port = runner.addresses[0][1]
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _call(self, call: web.Request) -> web.StreamResponse:
        self.times.append(time.monotonic())
        body = await call.json()
        self.calls.append(body)
        self.headers.append({name.lower(): value for name, value in call.headers.items()})
        self.queries.append(dict(call.query))
        self.keys.append(call.headers.get("authorization", ""))
        reply = self.replies.popleft() if self.replies else self.usual
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if reply.held_until is not None:
                await asyncio.get_running_loop().run_in_executor(None, reply.held_until.wait)
            await asyncio.sleep(reply.seconds)
            return await self._reply(call, body, reply)
        finally:
            self._at_once -= 1

    async def _reply(self, call: web.Request, body: dict[str, Any], reply: Reply) -> web.StreamResponse:
        headers = {"content-type": "application/json", **reply.headers}
        if reply.status >= 400 and reply.body is None:
            said = body["messages"][-1]["content"]
            error = {"message": f"no, not {said}", "type": "error", "code": reply.code or None}
            return web.Response(status=reply.status, headers=headers, text=json.dumps({"error": error}))
        text = json.dumps(self.style(_answer(body, reply))) if reply.body is None else reply.body
        if not reply.is_cut_off:
            self.num_answered += reply.body is None
            return web.Response(status=reply.status, headers=headers, text=text)
        response = web.StreamResponse(headers={**headers, "content-length": str(len(text))})
        await response.prepare(call)
        await response.write(text[: len(text) // 2].encode())
        assert call.transport is not None
        call.transport.abort()
        return response


def _answer(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    completion = completion_of(body, reply.finish_reason)
    completion["choices"] = completion["choices"][: reply.first_choices]
    return completion if reply.change is None else reply.change(completion)


def request_of(body: dict[str, Any]) -> Request:
    """The request that a call's body asks for."""
    return Request(
        request_id="",
        user_id="",
        messages=tuple(Message(role=each["role"], content=each["content"]) for each in body["messages"]),
        num_samples=body.get("n", 1),
        temperature=body.get("temperature", 1.0),
        max_tokens=body.get("max_tokens") or body["max_completion_tokens"],
        choices=tuple(body.get("structured_outputs", {}).get("choice", ())),
        num_top_tokens=body.get("top_logprobs", 0),
        seed=body.get("seed", 0),
    )


def completion_of(body: dict[str, Any], finish_reason: str = "stop") -> dict[str, Any]:
    """The chat completion that answers a call."""
    completion = complete(request_of(body))
    generated = sum(each.num_tokens for each in completion.generations)
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [_choice(place, each, finish_reason) for place, each in enumerate(completion.generations)],
        "usage": {
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": completion.prompt_tokens + generated,
        },
    }


def _choice(place: int, generation: Generation, finish_reason: str) -> dict[str, Any]:
    content = None if finish_reason == "content_filter" else generation.text
    return {
        "index": place,
        "message": {"role": "assistant", "content": content},
        "finish_reason": finish_reason,
        "logprobs": None,
    }


THOUGHT = "The person likes war and love.\nOr comedy?"


def thinking(completion: dict[str, Any]) -> dict[str, Any]:
    """The same completion as a thinking model's, by its length in one of the forms that endpoints send.

    Of vLLM without a reasoning parser, where the template or the model opens the thought, and with one
    (https://docs.vllm.ai/en/latest/features/reasoning_outputs/), which is DeepSeek's form too
    (https://api-docs.deepseek.com/guides/reasoning_model), and of Mistral
    (https://docs.mistral.ai/studio-api/conversations/reasoning).
    """
    forms = (_tagged, _opened_by_template, _in_a_field, _in_parts)
    for choice in completion["choices"]:
        message = choice["message"]
        choice["message"] = message | forms[len(message["content"]) % len(forms)](message["content"])
    completion["usage"]["completion_tokens"] += 10 * len(completion["choices"])
    return completion


def cut_while_thinking(completion: dict[str, Any]) -> dict[str, Any]:
    """The same completion as of a thinking model whose limit was reached within the thought."""
    for place, choice in enumerate(completion["choices"]):
        message = {"content": f"<think>{THOUGHT}"} if place % 2 else {"content": None, "reasoning_content": THOUGHT}
        choice |= {"message": {"role": "assistant", **message}, "finish_reason": "length"}
    return completion


def without_usage(completion: dict[str, Any]) -> dict[str, Any]:
    """The same completion as of an endpoint that does not tell what it took."""
    return completion | {"usage": None}


def _tagged(answer: str) -> dict[str, Any]:
    return {"content": f"<think>\n{THOUGHT}\n</think>\n\n{answer}"}


def _opened_by_template(answer: str) -> dict[str, Any]:
    return {"content": f"{THOUGHT}\n</think>\n\n{answer}"}


def _in_a_field(answer: str) -> dict[str, Any]:
    return {"content": answer, "reasoning_content": THOUGHT}


def _in_parts(answer: str) -> dict[str, Any]:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}
    return {"content": [thought, {"type": "text", "text": answer}]}
