"""Classification of failed calls: the failure of the request, whether the endpoint lives, and whether to retry.

`docs/endpoint.md` has the table. Messages hold the status, the error code if it looks like one, and the name of a field
of the request, but no text of the endpoint's own, which may repeat the prompt.
"""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import httpx2
import openai

from hydra_ray.config import ApiConfig
from hydra_ray.errors import BrokenOffError, EndpointError, ReplyError
from hydra_ray.generate.error_replies import ErrorReply, read_error
from hydra_ray.generate.failures import FailureKind
from hydra_ray.generate.retry_policy import PASSING_STATUSES, retry_after_seconds
from hydra_ray.rows import Request

_SLOW_DOWN = (408, 409, 425, 429, 449, 529)
"""Status codes by which a living endpoint asks to come again."""
_NOT_AGAIN = (501, 505)
"""Status codes from 500 on that mean the same at every attempt."""
_DOUBTFUL = (403, 404, 405, 406, 410, 415, 421, 426, 451, *_NOT_AGAIN)
"""Status codes that are usually the fault of the address, the key or the network, but may be that of one request."""
_QUOTA = frozenset(
    {
        "insufficient_quota",
        "insufficient_balance",
        "insufficient_credits",
        "insufficient_funds",
        "billing_hard_limit_reached",
        "billing_not_active",
        "exceeded_current_quota_error",
        "arrearage",
        "payment_required",
    }
)
"""Error codes of an account that has to be paid for, whatever the status."""
_KEY = frozenset(
    {
        "invalid_api_key",
        "incorrect_api_key",
        "invalid_authentication",
        "authentication_error",
        "account_deactivated",
        "unsupported_country_region_territory",
        "permission_denied",
        "permission_error",
        "access_denied",
        "accessdenied",
        "insufficient_permissions",
        "ip_not_authorized",
    }
)
"""Error codes of a key, a region or a permission, whatever the status."""
_MODEL = frozenset(
    {"model_not_found", "deploymentnotfound", "model_not_available", "model_not_exist", "model_decommissioned"}
)
"""Error codes of a model that the endpoint does not serve, whatever the status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Reason why a call returned no answer."""

    kind: FailureKind
    message: str
    is_final: bool
    """Whether a retry would fail in the same way."""
    is_answered: bool
    """Whether the endpoint sent a well-formed response, which shows that it is alive."""
    is_paid: bool = False
    """Whether the endpoint answered, so that the call is paid, and the answer cannot be used."""
    is_unreadable: bool = False
    """Whether the answer is of a form that this client does not know."""
    retry_after: float | None = None
    """Seconds that the endpoint asks to wait; None where it does not."""
    is_doubtful: bool = False
    """Whether the address, the key or the network is a likelier cause than the request."""
    remedy: str = ""
    """What to check where all requests fail so."""
    parameter: str | None = None
    """Field of the request that the endpoint refuses."""
    wanted: str | None = None
    """Field, header or parameter of the URL that the endpoint misses."""


def fault_of(error: Exception, api: ApiConfig, request: Request, sent: Mapping[str, Any]) -> Fault:
    """Return the fault that an exception of the client means for its request.

    Args:
        sent: fields of the body that was sent.

    Raises:
        EndpointError: every request would fail in the same way.
    """
    if isinstance(error.__cause__, ReplyError):  # raised while the client read it
        error = error.__cause__
    if isinstance(error, openai.APIStatusError):
        return _status_fault(error, api, request, sent)
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        message = f"no answer within {api.attempt_timeout_seconds:g} s"
        return Fault(kind=FailureKind.TIMEOUT, message=message, is_final=False, is_answered=False)
    if isinstance(error, ReplyError):
        message = f"the answer cannot be read as a chat completion: {error}"
        return Fault(
            kind=FailureKind.UNAVAILABLE,
            message=message,
            is_final=False,
            is_answered=True,
            is_paid=True,
            is_unreadable=not isinstance(error, BrokenOffError),
        )
    if isinstance(error, UnicodeError):
        message = "the prompt cannot be encoded as UTF-8"
        return Fault(kind=FailureKind.REFUSED, message=message, is_final=True, is_answered=False)
    if isinstance(error, openai.APIConnectionError):
        message = f"the connection failed ({type(error.__cause__ or error).__name__})"
    else:
        message = "the answer cannot be read as a chat completion"
    return Fault(kind=FailureKind.UNAVAILABLE, message=message, is_final=False, is_answered=False)


def status_error(status: int, body: Any, api: ApiConfig) -> openai.APIStatusError:
    """Return the exception that the client raises for a reply of this status."""
    sent = httpx2.Request("POST", f"{api.base_url.rstrip('/')}/chat/completions")
    try:
        content = json.dumps(body).encode()
    except RecursionError:
        content = b""
    response = httpx2.Response(status, request=sent, content=content)
    inner = cast(dict[str, Any], body).get("error", body) if isinstance(body, dict) else body
    return openai.APIStatusError(f"status {status}", response=response, body=inner)


def refusal_in(body: Any, api: ApiConfig) -> openai.APIStatusError | None:
    """Return the refusal that a reply of status 200 holds in the place of an answer, as gateways send it once they have
    begun to reply; None where there is none, or it may pass."""
    reply = cast(dict[str, Any], body) if isinstance(body, dict) else {}
    error = reply.get("error")
    if reply.get("choices") or not isinstance(error, dict):
        return None
    codes = (str(cast(dict[str, Any], error).get(name)) for name in ("code", "status", "status_code"))
    status = next((int(code) for code in codes if re.fullmatch("4[0-9]{2}", code)), None)
    return None if status is None or status in PASSING_STATUSES else status_error(status, reply, api)


def _status_fault(error: openai.APIStatusError, api: ApiConfig, request: Request, sent: Mapping[str, Any]) -> Fault:
    status, told = error.status_code, read_error(error.response.text, request, sent)
    said = f"status {status}" + (f" ({told.codes[0]})" if told.codes else "")
    remedy = _remedy_for_all(status, told, api)
    if remedy is not None:
        raise EndpointError(f"the endpoint {api.base_url} refuses every request: {said}. {remedy}")
    if status in PASSING_STATUSES or (status >= 500 and status not in _NOT_AGAIN):
        retry_after = retry_after_seconds(error.response.headers, time.time())
        return Fault(
            kind=FailureKind.UNAVAILABLE,
            message=said,
            is_final=False,
            is_answered=status in _SLOW_DOWN or retry_after is not None,
            retry_after=retry_after,
        )
    return Fault(
        kind=_kind(told),
        message=f"refused: {said}",
        is_final=True,
        is_answered=True,
        is_doubtful=status in _DOUBTFUL and not (told.is_flagged or told.is_too_long),
        remedy=_address_remedy(status, api) if status in _DOUBTFUL else "",
        parameter=told.parameter if status in (400, 422) else None,
        wanted=told.wanted if status in (400, 404, 422) else None,
    )


def _kind(told: ErrorReply) -> FailureKind:
    if told.is_flagged:
        return FailureKind.CONTENT_FILTER
    return FailureKind.TOO_LONG if told.is_too_long else FailureKind.REFUSED


def _remedy_for_all(status: int, told: ErrorReply, api: ApiConfig) -> str | None:
    """Return what to do where every request would be refused; None where that is not sure."""
    codes = frozenset(told.codes)
    if status == 402 or codes & _QUOTA or told.is_unpaid:
        return (
            "The account's quota is used up or it has no credit: pay or raise the limit, then run again. Earlier "
            "answers are kept and are not paid again."
        )
    if status in (401, 407) or 300 <= status < 400:
        return _address_remedy(status, api)
    if told.is_flagged or told.is_too_long:
        return None
    if codes & _MODEL or (status in (400, 404, 422) and (told.has_no_model or told.parameter == "model")):
        return f"Check generator.api.base_url, and that it serves the model {api.model!r}."
    return _key_remedy(api) if codes & _KEY else None


def _address_remedy(status: int, api: ApiConfig) -> str:
    """Return what to check for a status that tells of the address, the key or the network."""
    if status == 407:
        return "The proxy that the environment names wants credentials: correct http_proxy and https_proxy."
    if 300 <= status < 400:
        return "It redirects to another address: set generator.api.base_url to that one; the key is sent nowhere else."
    if status in (401, 403):
        return _key_remedy(api)
    if status in (404, 405, 410):
        return f"Check generator.api.base_url, and that it serves the model {api.model!r}."
    if status == 451:
        return "It may not serve this account or region."
    return "Check generator.api.base_url: it does not take calls of this form."


def _key_remedy(api: ApiConfig) -> str:
    source = f"the environment variable {api.api_key_env}" if api.api_key_env else "generator.api.api_key_env, unset"
    return f"Check the key ({source}) and what it may use."


def remedy_for_wanted(name: str) -> str:
    """Return the setting by which a request gets what an endpoint misses."""
    return (
        f"give {name} in generator.api.extra_body, or in extra_query or extra_headers where it belongs to the URL or "
        "the headers"
    )


def remedy_for_parameter(name: str, api: ApiConfig) -> str:
    """Return the setting that helps where an endpoint refuses a field of the request."""
    other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
    if name in api.extra_body:
        return f"change generator.api.extra_body, which sends {name}"
    if name == "chat_template_kwargs":
        return "change generator.chat_template_kwargs or generator.api.is_thinking"
    if name in api.added_fields:
        return f"set generator.api.is_thinking to true, so that {name} is not sent"
    settings = {
        "temperature": "set generator.api.omit_fields to [temperature]",
        "seed": "set generator.api.has_seed to false",
        "random_seed": "set generator.api.has_seed to false, or generator.api.seed_field to seed",
        "n": "set generator.api.max_samples_per_call to 1",
        "logprobs": "set generator.api.has_log_probabilities to false",
        "top_logprobs": "set generator.api.has_log_probabilities to false",
        api.choices_field: "set generator.api.has_structured_outputs to false",
    }
    if name in other:
        return (
            f"set generator.api.length_field to {other[name]}, or ask for fewer tokens (the task's max_tokens, "
            "generator.thinking_tokens)"
        )
    return settings.get(name, f"leave {name} out of generator.api.extra_body")
