from dataclasses import replace
from typing import Any

import pytest

from hydra_ray.config import ApiConfig
from hydra_ray.errors import EndpointError
from hydra_ray.generate.call_faults import Fault, remedy_for_parameter
from hydra_ray.generate.failures import FailureKind
from hydra_ray.generate.refusals import Refusals

API = ApiConfig(base_url="http://localhost/v1", model="m", extra_body={"top_k": 1})
GREEDY: dict[str, Any] = {"model": "m", "messages": [], "temperature": 0.0, "max_tokens": 4}
SAMPLED: dict[str, Any] = {**GREEDY, "temperature": 0.5, "seed": 7, "n": 3}
REFUSED = Fault(kind=FailureKind.REFUSED, message="refused: status 400", is_final=True, is_answered=True)


def test_a_field_that_only_later_requests_have_stops_the_run_though_others_were_answered():
    refusals = Refusals(API)
    refusals.answered(GREEDY)
    for field in ("seed", "temperature", "n"):
        with pytest.raises(EndpointError, match=f"the field {field} "):
            refusals.refused(replace(REFUSED, parameter=field), SAMPLED)


def test_a_field_that_was_taken_before_fails_its_row_alone():
    refusals = Refusals(API)
    refusals.answered(SAMPLED)
    for field in ("seed", "temperature", "n"):
        refusals.refused(replace(REFUSED, parameter=field), {**SAMPLED, "seed": 8})
    with pytest.raises(EndpointError, match="the field temperature "):
        refusals.refused(replace(REFUSED, parameter="temperature"), {**SAMPLED, "temperature": 0.9})


@pytest.mark.parametrize(
    ("field", "setting"),
    [
        ("temperature", "omit_fields"),
        ("seed", "has_seed"),
        ("random_seed", "seed_field"),
        ("n", "max_samples_per_call"),
        ("logprobs", "has_log_probabilities"),
        ("top_logprobs", "has_log_probabilities"),
        ("max_tokens", "length_field to max_completion_tokens"),
        ("max_completion_tokens", "length_field to max_tokens"),
        ("structured_outputs", "has_structured_outputs"),
        ("top_k", "extra_body"),
        ("chat_template_kwargs", "chat_template_kwargs"),
    ],
)
def test_each_field_has_a_setting_that_helps(field: str, setting: str):
    assert setting in remedy_for_parameter(field, API)


def test_a_switch_of_thinking_that_is_refused_names_its_setting():
    api = ApiConfig(provider="deepseek", model="m")
    assert "is_thinking" in remedy_for_parameter("thinking", api)
