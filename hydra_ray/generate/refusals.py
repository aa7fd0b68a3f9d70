"""Judgement of refused calls: whether the request, or the settings, the key or the address are the cause.

A field that the endpoint refuses by name, and never took before, stops the run; so does a status that is usually the
fault of the address or the key, before anything was answered. Afterwards such a refusal is first taken for that of one
request, and stops the run where many follow each other.
"""

from collections.abc import Mapping
from typing import Any

from hydra_ray.config import ApiConfig
from hydra_ray.errors import EndpointError
from hydra_ray.generate.call_faults import Fault, remedy_for_parameter, remedy_for_wanted

MANY_REFUSALS = 10
"""Number of refusals, with no answer before or between them, that means that the endpoint refuses all."""
_MANY_BAD_REQUESTS = 50
"""The same for refused requests (400, 413, 422) once others were answered: a user's prompts may all be too much."""
_ANY_VALUE = ("seed", "random_seed")
"""Fields whose value differs from request to request and is never what is refused."""


class Refusals:
    """Refusals of one endpoint, in the order in which they came."""

    def __init__(self, api: ApiConfig):
        self._api = api
        self._taken: set[tuple[str, str]] = set()
        """Fields of answered calls, with their values."""
        self._in_a_row = 0
        self._has_answered = False

    def answered(self, sent: Mapping[str, Any]) -> None:
        """Record an answered call, by the fields of its body."""
        self._has_answered, self._in_a_row = True, 0
        self._taken.update(_key(name, sent) for name in sent if name != "messages")

    def refused(self, fault: Fault, sent: Mapping[str, Any]) -> None:
        """Record a call that was refused for good.

        Raises:
            EndpointError: it is not the request's fault alone.
        """
        self._in_a_row += 1
        url = self._api.base_url
        if fault.parameter is not None and _key(fault.parameter, sent) not in self._taken:
            raise EndpointError(
                f"the endpoint {url} does not take the field {fault.parameter} as it is sent: {fault.message}. To go "
                f"on, {remedy_for_parameter(fault.parameter, self._api)}. Earlier answers are kept."
            )
        if fault.wanted is not None and not self._has_answered:
            raise EndpointError(
                f"the endpoint {url} wants {fault.wanted}, which the request lacks: {fault.message}. To go on, "
                f"{remedy_for_wanted(fault.wanted)}."
            )
        if fault.is_doubtful and not self._has_answered:
            raise EndpointError(f"the endpoint {url} refuses every request: {fault.message}. {fault.remedy}")
        limit = MANY_REFUSALS if fault.is_doubtful or not self._has_answered else _MANY_BAD_REQUESTS
        if self._in_a_row < limit:
            return
        if self._has_answered:
            raise EndpointError(
                f"the endpoint {url} refused {self._in_a_row} requests in a row, though it answered before, the last "
                f"one: {fault.message}. {fault.remedy or 'Check that it still takes what generator.api says.'} "
                "Earlier answers are kept."
            )
        raise EndpointError(
            f"the endpoint {url} refused each of the first {self._in_a_row} requests, the last one: {fault.message}. "
            "Check the settings in generator.api that say what it supports: has_log_probabilities, "
            "has_structured_outputs, has_seed, length_field, max_samples_per_call, omit_fields, or name its provider."
        )


def _key(name: str, sent: Mapping[str, Any]) -> tuple[str, str]:
    return name, "" if name in _ANY_VALUE else repr(sent.get(name))
