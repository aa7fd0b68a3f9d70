"""Simulated servers of providers: the fields, the key, the query and the errors that their documentation has."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from fault_server import FaultServer, Reply, completion_of

KEY = "sk-of-the-test"
_OPENAI = frozenset(
    {"model", "messages", "temperature", "top_p", "n", "seed", "logprobs", "top_logprobs", "max_tokens", "stop"}
    | {"max_completion_tokens", "stream", "response_format", "reasoning_effort", "user"}
)

Refusal = tuple[int, dict[str, Any]]
"""Status and body of an error."""


def openai_error(status: int, name: str, code: str = "unknown_parameter") -> Refusal:
    """As https://platform.openai.com/docs/guides/error-codes has it."""
    said = f"Unknown parameter: '{name}'." if code == "unknown_parameter" else f"Unsupported parameter: '{name}'."
    return status, {"error": {"message": said, "type": "invalid_request_error", "param": name, "code": code}}


def fastapi_error(status: int, name: str, code: str = "extra_forbidden") -> Refusal:
    """As Mistral's API reference has a validation error: https://docs.mistral.ai/api/endpoint/chat."""
    detail = [{"type": code, "loc": ["body", name], "msg": "Extra inputs are not permitted", "input": 1}]
    return status, {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error", "code": None}


def plain_error(status: int, name: str, code: str = "invalid_request_error") -> Refusal:
    """As DeepSeek has it, with the parameter in the message alone: https://api-docs.deepseek.com/quick_start/error_codes."""
    return status, {"error": {"message": f"Invalid request: {name} is not supported", "type": code, "param": None}}


def openrouter_error(status: int, name: str, code: str = "") -> Refusal:
    """As https://openrouter.ai/docs/api/reference/errors-and-debugging has it: the code is the status."""
    return status, {"error": {"code": status, "message": f"Unrecognized field '{name}' {code}".strip()}}


def llama_cpp_error(status: int, name: str, code: str = "invalid_request_error") -> Refusal:
    """As https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md has it: the code is the status."""
    return status, {"error": {"code": status, "message": f"Unsupported param: {name}", "type": code}}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What one provider takes and how it refuses the rest."""

    path: str = "/v1"
    fields: frozenset[str]
    """Fields that it knows."""
    is_strict: bool = True
    """Whether it refuses fields that it does not know, instead of ignoring them."""
    knows_n: bool = True
    """Whether it returns as many choices as `n` says."""
    key_header: str | None = "authorization"
    error: Callable[[int, str], Refusal] = openai_error
    refused_status: int = 400
    query: Mapping[str, str] = field(default_factory=dict)
    """Parameters of the URL that it wants."""
    has_log_probabilities: bool = True
    thinks_unless: tuple[str, Any] | None = None
    """Field and value without which answers are thoughts that are cut."""


_LOCAL = _OPENAI | {"chat_template_kwargs"}

PROVIDERS: Mapping[str, Rules] = {
    # https://platform.openai.com/docs/api-reference/chat/create: reasoning models take no max_tokens.
    "openai": Rules(fields=_OPENAI - {"max_tokens"}),
    # https://learn.microsoft.com/en-us/azure/ai-foundry/openai/reference: the key is in the header api-key.
    "azure": Rules(
        path="/openai/deployments/small",
        fields=_OPENAI - {"max_tokens"},
        key_header="api-key",
        query={"api-version": "2024-10-21"},
    ),
    # https://openrouter.ai/docs/api-reference/parameters: no `n`; parameters of other models are ignored.
    "openrouter": Rules(
        path="/api/v1", fields=_OPENAI - {"n"} | {"reasoning"}, is_strict=False, knows_n=False, error=openrouter_error
    ),
    # https://docs.mistral.ai/api/endpoint/chat: `random_seed`, and extra fields are refused by 422.
    "mistral": Rules(
        fields=_OPENAI - {"seed", "logprobs", "top_logprobs", "max_completion_tokens"} | {"random_seed"},
        error=fastapi_error,
        refused_status=422,
        has_log_probabilities=False,
    ),
    # https://api-docs.deepseek.com/api/create-chat-completion and /guides/thinking_mode: it thinks by default.
    "deepseek": Rules(
        path="",
        fields=_OPENAI - {"seed", "n", "max_completion_tokens"} | {"thinking"},
        knows_n=False,
        error=plain_error,
        refused_status=422,
        thinks_unless=("thinking", {"type": "disabled"}),
    ),
    # https://docs.together.ai/reference/chat-completions-1: `logprobs` is an integer.
    "together": Rules(fields=_OPENAI - {"logprobs", "top_logprobs"} | {"reasoning"}, has_log_probabilities=False),
    # https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html: unknown fields are ignored.
    "vllm": Rules(fields=_LOCAL | {"structured_outputs"}, is_strict=False, key_header=None),
    # https://docs.sglang.io/docs/basic_usage/openai_api_completions.md
    "sglang": Rules(fields=_LOCAL | {"regex"}, is_strict=False, key_header=None),
    # https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
    "llama_cpp": Rules(
        fields=_LOCAL - {"n"} | {"grammar"}, is_strict=False, knows_n=False, key_header=None, error=llama_cpp_error
    ),
    # https://docs.ollama.com/api/openai-compatibility: the list of its fields has no `n`.
    "ollama": Rules(fields=_OPENAI - {"n"}, is_strict=False, knows_n=False, key_header=None),
}


class ProviderServer(FaultServer):
    """An endpoint that follows the rules of a provider; what is put into `replies` is sent in the place of them."""

    def __init__(self, rules: Rules, *replies: Reply):
        super().__init__(*replies)
        self.rules = rules
        self.refused = 0

    @property
    def url(self) -> str:
        """The base URL, on the provider's path."""
        return f"http://127.0.0.1:{self._port}{self.rules.path}"

    def add_routes(self, app: web.Application) -> None:
        """Take calls on the provider's path."""
        app.router.add_post(f"{self.rules.path}/chat/completions", self._call)

    async def _reply(self, call: web.Request, body: dict[str, Any], reply: Reply) -> web.StreamResponse:
        refusal = self._refusal(call, body)
        if refusal is not None and reply.status == 200:
            self.refused += 1
            return web.json_response(refusal[1], status=refusal[0])
        if reply.status != 200:
            return await super()._reply(call, body, reply)
        return web.json_response(self._answer(body))

    def _refusal(self, call: web.Request, body: dict[str, Any]) -> Refusal | None:
        rules = self.rules
        if rules.key_header is not None:
            sent = call.headers.get(rules.key_header, "")
            others = {"authorization", "api-key"} - {rules.key_header}
            if sent.removeprefix("Bearer ") != KEY or any(call.headers.get(each) for each in others):
                return rules.error(401, "api_key")
        if dict(call.query) != dict(rules.query):
            return 404, {"error": {"code": "404", "message": "Resource not found"}}
        if rules.is_strict:
            for name in body:
                if name not in rules.fields:
                    return rules.error(rules.refused_status, name)
        return None

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        rules = self.rules
        known = {name: value for name, value in body.items() if name in rules.fields}
        if not rules.knows_n:
            known.pop("n", None)
        answer = completion_of(known)
        for choice in answer["choices"]:
            if rules.has_log_probabilities and known.get("logprobs"):
                top = [{"token": "a", "logprob": -0.5, "bytes": None}][: known.get("top_logprobs", 0)]
                choice["logprobs"] = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": top}]}
            if rules.thinks_unless is not None and body.get(rules.thinks_unless[0]) != rules.thinks_unless[1]:
                choice["message"] = {"role": "assistant", "content": "", "reasoning_content": "Let me think"}
                choice["finish_reason"] = "length"
        return json.loads(json.dumps(answer))
