"""Key, headers and query of an endpoint: values from environment variables are never stored, logged or shown.

They are resolved where the generator runs. Where Ray is started by this process, its workers have this process's
variables, so that what is missing is found before Ray starts.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

from hydra_ray.config import ApiConfig
from hydra_ray.config.generator import REFERENCE
from hydra_ray.errors import ConfigError

_WHERE = "set it on every node before Ray is started there"


def wrong_value(value: str | None) -> str | None:
    """Return why the value of a variable cannot be sent in a header, without the value; None where it can."""
    if not value:
        return "is not set"
    if value != value.strip():
        return "begins or ends with white space, such as a line feed"
    if not (value.isascii() and value.isprintable()):
        return "has characters that no key has"
    return None


def variables_of(api: ApiConfig) -> dict[str, str]:
    """Return the environment variables that calls need: the setting that names each, by variable."""
    headers = {name for value in api.extra_headers.values() for name in REFERENCE.findall(value)}
    named = {name: "extra_headers" if name in headers else "extra_query" for name in api.named_variables}
    return named if api.api_key_env is None else {api.api_key_env: "api_key_env", **named}


def require_credentials(api: ApiConfig) -> None:
    """Check the environment variables that calls need, in this process.

    Raises:
        ConfigError: one is not set, or holds what no header can.
    """
    for name, setting in variables_of(api).items():
        wrong = wrong_value(os.environ.get(name))
        if wrong is not None:
            raise ConfigError(
                f"generator.api.{setting} names the environment variable {name}, which {wrong} where the generator "
                f"runs: {_WHERE}{'' if wrong == 'is not set' else ', with nothing around it'}."
            )


def client_settings(api: ApiConfig) -> dict[str, Any]:
    """Return the arguments of OpenAI's clients for an endpoint, of the asynchronous one and of the other.

    Raises:
        ConfigError: an environment variable is not set, or holds what no header can.
    """
    require_credentials(api)
    # The client requires a key; an endpoint that wants none ignores it.
    key = "none" if api.api_key_env is None else os.environ[api.api_key_env]
    headers = _resolved(api.extra_headers)
    if api.api_key_header is not None:
        headers[api.api_key_header] = key
    # The client's own header of this name is replaced, whatever its case.
    headers = {("Authorization" if name.lower() == "authorization" else name): headers[name] for name in headers}
    return {
        "base_url": api.base_url,
        "api_key": key,
        "default_headers": headers,
        "default_query": _resolved(api.extra_query),
        "max_retries": 0,
        "timeout": api.attempt_timeout_seconds,
    }


def _resolved(values: Mapping[str, str]) -> dict[str, str]:
    """Return values with the environment variables that they refer to."""
    return {name: REFERENCE.sub(lambda found: os.environ[found[1]], value) for name, value in values.items()}


def quiet_client_logs() -> None:
    """Let OpenAI's clients and their libraries log warnings only: below that they log addresses and whole requests."""
    for library in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(library).setLevel(logging.WARNING)


def call_headers(api: ApiConfig) -> dict[str, Any]:
    """Return the `extra_headers` of each call: where the key has a header of its own, the usual one is left out, which
    OpenAI's clients take only there."""
    import openai

    return {} if api.api_key_header is None else {"Authorization": openai.Omit()}
