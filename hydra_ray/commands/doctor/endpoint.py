"""Checks of an endpoint as the generator: its key is set, its address accepts connections, and a request is
answered."""

import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from hydra_ray.config import ApiConfig, GeneratorConfig
from hydra_ray.config.providers import PRESETS, ProviderName
from hydra_ray.engine.listener import connection_error
from hydra_ray.errors import EndpointError
from hydra_ray.findings import Finding, problem
from hydra_ray.generate.calls import UNCONSTRAINED
from hydra_ray.generate.credentials import wrong_value
from hydra_ray.rows import Message, Request

if TYPE_CHECKING:
    from hydra_ray.generate.call_faults import Fault

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
    headers = [_variable_finding("endpoint's variables", name) for name in api.named_variables]
    yield from headers
    if api.provider is not None:
        yield _settings_finding(api, api.provider)
    if generator.is_constrained and not generator.can_constrain:
        yield Finding(name="endpoint's choices", value=f"answers are not constrained: {UNCONSTRAINED}")
    address = _address_finding(api)
    yield address
    if is_called and not any(each.is_problem for each in (key, *headers, address)):
        yield _call_finding(generator, api)


def _key_finding(api: ApiConfig) -> Finding:
    """Return a finding on whether the key's variable holds a valid HTTP header value; the key is never shown."""
    if api.api_key_env is None:
        return Finding(name="endpoint's key", value="none is wanted")
    return _variable_finding("endpoint's key", api.api_key_env)


def _variable_finding(name: str, variable: str) -> Finding:
    """Return a finding on whether an environment variable holds what a header can; its value is never shown."""
    wrong = wrong_value(os.environ.get(variable))
    if wrong is None:
        return Finding(name=name, value=f"{variable} is set")
    remedies = {
        "is not set": f"export {variable} here, and on every node before Ray starts",
        "has characters that no key has": f"copy the value into {variable} again",
    }
    remedy = remedies.get(wrong, f"export {variable} without white space around it: requests with it cannot be sent")
    return problem(name, f"{variable} {wrong}", remedy)


def _settings_finding(api: ApiConfig, provider: ProviderName) -> Finding:
    """Return what the provider's documentation made of the settings, or the configuration instead."""
    told = (f"{name}={getattr(api, name)}" for name in PRESETS[provider].settings if name != "base_url")
    return Finding(name="endpoint's provider", value=": ".join(filter(None, [provider, ", ".join(told)])))


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

    from hydra_ray.generate.calls import call_arguments, call_body
    from hydra_ray.generate.credentials import call_headers, client_settings
    from hydra_ray.generate.replies import parse_reply, read_answers

    arguments = call_arguments(
        _SMALLEST,
        api,
        range(1),
        is_constrained=generator.can_constrain,
        chat_template_kwargs=generator.chat_template_kwargs,
    )
    settings = client_settings(api)
    settings["timeout"] = min(_CALL_SECONDS, api.attempt_timeout_seconds)
    client = openai.OpenAI(**settings, http_client=openai.DefaultHttpxClient(follow_redirects=False))
    start = time.monotonic()
    try:
        with client:
            response = client.chat.completions.with_raw_response.create(**arguments, extra_headers=call_headers(api))
        answered = read_answers(parse_reply(response.content), 1, 0)
    except (openai.OpenAIError, TimeoutError, ValueError) as error:
        return problem("endpoint: one call", api.model, _why_failed(error, api, call_body(arguments)))
    details = f"{answered.prompt_tokens} prompt tokens, ended by {answered.generations[0].finish_reason}"
    took = time.monotonic() - start
    return Finding(name="endpoint: one call", value=f"{api.model} answered in {took:.1f} s ({details})")


def _why_failed(error: Exception, api: ApiConfig, sent: Mapping[str, Any]) -> str:
    """Return what a failed request means, without any text of the endpoint's own."""
    from hydra_ray.generate.call_faults import fault_of

    if any(isinstance(each, ssl.SSLError) for each in _causes(error)):
        return (
            f"no secure connection to {api.base_url}: its certificate is not trusted here (SSL_CERT_FILE names the "
            "certificates), or it speaks plain http"
        )
    try:
        fault = fault_of(error, api, _SMALLEST, sent)
    except EndpointError as refused:
        return str(refused)
    return fault.message if fault.is_paid else f"{fault.message}: {_remedy(fault, api)}"


def _remedy(fault: "Fault", api: ApiConfig) -> str:
    from hydra_ray.generate.call_faults import remedy_for_parameter, remedy_for_wanted

    if fault.parameter is not None:
        return f"the field {fault.parameter} is not taken: {remedy_for_parameter(fault.parameter, api)}"
    if fault.wanted is not None:
        return f"it wants {fault.wanted}: {remedy_for_wanted(fault.wanted)}"
    if fault.remedy:
        return fault.remedy
    if fault.is_final:
        return (
            "check what generator.api says that it takes (has_log_probabilities, has_structured_outputs, has_seed, "
            "length_field, max_samples_per_call, omit_fields), or name its provider"
        )
    if fault.is_answered:
        return "the endpoint lives and asks to wait; try again, or ask for a higher limit"
    return f"look whether {api.base_url} serves a model, and try again"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
