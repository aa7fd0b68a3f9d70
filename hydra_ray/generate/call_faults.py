"""Classification of failed calls: the failure of the request, whether the endpoint lives, and whether to retry.

Messages hold the status, and the error code if it looks like one, but no text of the endpoint's own, which may repeat
the prompt.
"""

import re
import time
from dataclasses import dataclass

import openai

from hydra_ray.config import ApiConfig
from hydra_ray.errors import EndpointError, ReplyError
from hydra_ray.generate.failures import FailureKind
from hydra_ray.generate.retry_policy import retry_after_seconds

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_AGAIN = (408, 409, 425, 429)
"""Status codes below 500 after which a retry may succeed."""
_KINDS = {
    "context_length_exceeded": FailureKind.TOO_LONG,
    "content_filter": FailureKind.CONTENT_FILTER,
    "content_policy_violation": FailureKind.CONTENT_FILTER,
}
"""Failure kinds of refused requests, by error code."""


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
    retry_after: float | None = None
    """Seconds that the endpoint asks to wait; None where it does not."""


def fault_of(error: Exception, api: ApiConfig) -> Fault:
    """Return the fault that an exception of the client means for its request.

    Raises:
        EndpointError: every request would fail in the same way.
    """
    if isinstance(error, openai.APIStatusError):
        return _status_fault(error, api)
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        message = f"no answer within {api.attempt_timeout_seconds:g} s"
        return Fault(kind=FailureKind.TIMEOUT, message=message, is_final=False, is_answered=False)
    if isinstance(error, ReplyError):
        message = f"the answer cannot be read as a chat completion: {error}"
        return Fault(kind=FailureKind.UNAVAILABLE, message=message, is_final=False, is_answered=True, is_paid=True)
    if isinstance(error, UnicodeError):
        message = "the prompt cannot be encoded as UTF-8"
        return Fault(kind=FailureKind.REFUSED, message=message, is_final=True, is_answered=False)
    if isinstance(error, openai.APIConnectionError):
        message = f"the connection failed ({type(error.__cause__ or error).__name__})"
    else:
        message = "the answer cannot be read as a chat completion"
    return Fault(kind=FailureKind.UNAVAILABLE, message=message, is_final=False, is_answered=False)


def _status_fault(error: openai.APIStatusError, api: ApiConfig) -> Fault:
    status, code = error.status_code, _code(error)
    said = f"status {status}" + (f" ({code})" if code else "")
    if status in (401, 403, 404) or code == "insufficient_quota":
        raise EndpointError(f"the endpoint {api.base_url} refuses every request: {said}. {_advice(status, api)}")
    if status in _AGAIN or status >= 500:
        return Fault(
            kind=FailureKind.UNAVAILABLE,
            message=said,
            is_final=False,
            is_answered=status < 500,
            retry_after=retry_after_seconds(error.response.headers, time.time()),
        )
    return Fault(
        kind=_KINDS.get(code, FailureKind.REFUSED), message=f"refused: {said}", is_final=True, is_answered=True
    )


def _code(error: openai.APIStatusError) -> str:
    found = (each for each in (error.code, error.type) if isinstance(each, str) and _CODE.fullmatch(each))
    return next(found, "")


def _advice(status: int, api: ApiConfig) -> str:
    if status == 404:
        return f"Check generator.api.base_url, and that it serves the model {api.model!r}."
    if status in (401, 403):
        source = (
            f"the environment variable {api.api_key_env}" if api.api_key_env else "generator.api.api_key_env, unset"
        )
        return f"Check the key ({source}) and what it may use."
    return "The account's quota is used up."
