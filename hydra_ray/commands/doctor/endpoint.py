"""Checks of an endpoint as the generator: its key is set, its address accepts connections, and a request is
answered."""

import os
import socket
import ssl
import time
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from hydra_ray.config import ApiConfig, GeneratorConfig
from hydra_ray.engine.listener import connection_error
from hydra_ray.errors import EndpointError
from hydra_ray.findings import Finding, problem
from hydra_ray.rows import Message, Request

_CONNECT_SECONDS = 5.0
_CALL_SECONDS = 60.0
_PORTS = {"http": 80, "https": 443}
_SMALLEST = Request(
    request_id="doctor",
    user_id="doctor",
    messages=(Message(role="user", content="Answer with yes."),),
    num_samples=1,
    temperature=0.0,
    max_tokens=1,
    choices=("yes",),
    num_top_tokens=0,
    seed=0,
)


def endpoint_findings(generator: GeneratorConfig, *, is_called: bool) -> Iterator[Finding]:
    """Yield findings about the endpoint of a run, as seen from this machine.

    Args:
        is_called: whether to send one request for one token, which the endpoint may charge for.
    """
    api = generator.api
    if api is None:
        return
    key = _key_finding(api)
    yield key
    address = _address_finding(api)
    yield address
    if is_called and not (key.is_problem or address.is_problem):
        yield _call_finding(generator, api)


def _key_finding(api: ApiConfig) -> Finding:
    """Return a finding on whether the key's variable holds a valid HTTP header value; the key is never shown."""
    name = api.api_key_env
    if name is None:
        return Finding(name="endpoint's key", value="none is wanted")
    key = os.environ.get(name)
    if not key:
        return problem(
            "endpoint's key", f"{name} is not set", f"export {name} here, and on every node before Ray starts"
        )
    if key != key.strip():
        return problem(
            "endpoint's key",
            f"{name} begins or ends with white space",
            f"export {name} without white space around the key: requests with it cannot be sent",
        )
    if not (key.isascii() and key.isprintable()):
        return problem("endpoint's key", f"{name} has characters that no key has", f"copy the key into {name} again")
    return Finding(name="endpoint's key", value=f"{name} is set")


def _address_finding(api: ApiConfig) -> Finding:
    """Return a finding on whether the endpoint, or the proxy that the environment names, accepts connections."""
    url = urlsplit(api.base_url)
    host, port = url.hostname or "", url.port or _PORTS[url.scheme]
    proxy = None if proxy_bypass(host) else getproxies().get(url.scheme)
    by = ""
    if proxy:
        try:
            through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            host, port = through.hostname or "", through.port or _PORTS.get(through.scheme, 80)
            host.encode("idna")
        except ValueError:  # it may contain a password, so it is not shown
            remedy = f"{url.scheme}_proxy in the environment is no URL with a host and a port: correct or unset it"
            return problem("endpoint", api.base_url, remedy)
        by = f" by the proxy {host}:{port}"
    error = connection_error(host, port, _CONNECT_SECONDS)
    if error is not None:
        return problem("endpoint", f"{api.base_url}{by}", _why_unreachable(error, host, port))
    return Finding(name="endpoint", value=f"{api.base_url}: something listens{by}")


def _why_unreachable(error: OSError, host: str, port: int) -> str:
    if isinstance(error, socket.gaierror):
        return f"there is no host {host}: correct generator.api.base_url, or this machine's name service"
    if isinstance(error, ConnectionRefusedError):
        return f"{host} refuses connections to port {port}: start the endpoint, or correct generator.api.base_url"
    if isinstance(error, TimeoutError):
        return f"{host}:{port} does not answer within {_CONNECT_SECONDS:g} s: a firewall, or a wrong address"
    return f"{host}:{port} cannot be reached ({error.strerror or error}): check generator.api.base_url and the network"


def _call_finding(generator: GeneratorConfig, api: ApiConfig) -> Finding:
    """Return a finding on one request in the form of a run's, for one token."""
    import openai

    from hydra_ray.generate.calls import call_arguments
    from hydra_ray.generate.engines.openai import key_of
    from hydra_ray.generate.replies import parse_reply, read_answers

    is_constrained = generator.is_constrained and api.has_structured_outputs
    arguments = call_arguments(_SMALLEST, api, range(1), is_constrained=is_constrained)
    seconds = min(_CALL_SECONDS, api.attempt_timeout_seconds)
    start = time.monotonic()
    try:
        with openai.OpenAI(base_url=api.base_url, api_key=key_of(api), max_retries=0, timeout=seconds) as client:
            response = client.chat.completions.with_raw_response.create(**arguments)
        answered = read_answers(parse_reply(response.content), 1, 0)
    except (openai.OpenAIError, TimeoutError, ValueError) as error:
        return problem("endpoint: one call", api.model, _why_failed(error, api))
    details = f"{answered.prompt_tokens} prompt tokens, ended by {answered.generations[0].finish_reason}"
    took = time.monotonic() - start
    return Finding(name="endpoint: one call", value=f"{api.model} answered in {took:.1f} s ({details})")


def _why_failed(error: Exception, api: ApiConfig) -> str:
    """Return what a failed request means, without any text of the endpoint's own."""
    from hydra_ray.generate.call_faults import fault_of

    if any(isinstance(each, ssl.SSLError) for each in _causes(error)):
        return (
            f"no secure connection to {api.base_url}: its certificate is not trusted here (SSL_CERT_FILE names the "
            "certificates), or it speaks plain http"
        )
    try:
        fault = fault_of(error, api)
    except EndpointError as refused:
        return str(refused)
    if fault.is_final:
        return (
            f"{fault.message}: check what generator.api says that it takes (has_log_probabilities, "
            "has_structured_outputs, length_field, max_samples_per_call)"
        )
    if fault.is_paid:
        return fault.message
    if fault.is_answered:
        return f"{fault.message}: the endpoint lives and asks to wait; try again, or ask for a higher limit"
    return f"{fault.message}: look whether {api.base_url} serves a model, and try again"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
