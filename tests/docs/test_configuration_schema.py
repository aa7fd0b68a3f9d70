"""A file is accepted by the schema exactly where its settings are all known and of the right types."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from configuration_schema import run_schema, sweep_schema
from jsonschema import Draft7Validator
from pydantic import BaseModel, ValidationError

from hydra_ray.config import RunConfig, read_settings
from hydra_ray.shipped import FOLDER, shipped_names
from hydra_ray.sweep.config import SweepConfig

VALUES = (None, True, -1, 0, 1, 2.5, "", "text", [], ["text"], [1], {}, {"text": 1}, {"text": "text"})
RUN, SWEEP = Draft7Validator(run_schema()), Draft7Validator(sweep_schema())


def places(settings: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys that lead to each setting and each section."""
    for key, value in settings.items():
        yield (*above, key)
        if isinstance(value, Mapping):
            yield from places(value, (*above, key))


def changed(settings: Mapping[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    head, *rest = place
    return {**settings, head: changed(settings[head], tuple(rest), value) if rest else value}


def without(settings: Mapping[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
    head, *rest = place
    others = {key: value for key, value in settings.items() if key != head}
    return {**others, head: without(settings[head], tuple(rest))} if rest else others


def has_right_types(section: type[BaseModel], settings: Mapping[str, Any]) -> bool:
    """Whether `section` has nothing against `settings` but what its validators say of right values."""
    try:
        section.model_validate_json(json.dumps(settings), strict=True)
    except ValidationError as error:
        return all(each["type"] == "value_error" for each in error.errors())
    return True


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_configuration_fulfils_the_schema_on_its_first_line(name: str):
    first, *_ = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert named is not None
    schema = json.loads((FOLDER / named[1]).read_text(encoding="utf-8"))
    Draft7Validator.check_schema(schema)
    Draft7Validator(schema).validate(read_settings(name))


def test_a_value_in_place_of_any_other_is_judged_by_schema_and_code_alike(
    few_settings: dict[str, Any], full_settings: dict[str, Any]
):
    RUN.validate(full_settings)
    num_refused = 0
    for place in places(full_settings):
        around = {**few_settings, place[0]: full_settings[place[0]]}
        for value in VALUES:
            settings = changed(around, place, value)
            assert RUN.is_valid(settings) == has_right_types(RunConfig, settings), (place, value)
            num_refused += not RUN.is_valid(settings)
    assert num_refused > 1000


def test_a_value_in_place_of_any_other_of_a_sweep_is_judged_alike(full_sweep: dict[str, Any]):
    SWEEP.validate(full_sweep)
    for key in SweepConfig.model_fields:
        for value in VALUES:
            sweep = {**full_sweep, key: value}
            assert SWEEP.is_valid(sweep) == has_right_types(SweepConfig, sweep), (key, value)


def test_a_misspelled_key_is_refused_in_every_section(full_settings: dict[str, Any]):
    for *above, key in places(full_settings):
        assert not RUN.is_valid(changed(full_settings, (*above, f"{key}_"), 1)), (*above, key)


def test_a_missing_key_is_refused_where_it_is_required(full_settings: dict[str, Any]):
    verdicts = []
    for place in places(full_settings):
        settings = without(full_settings, place)
        verdicts.append(RUN.is_valid(settings))
        assert verdicts[-1] == has_right_types(RunConfig, settings), place
    assert {*verdicts} == {True, False}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("drafts.num_smaples", [1]),
        ("draft.num_samples", [1]),
        ("run", ["a"]),
        ("drafts.num_samples", ["many"]),
        ("drafts.num_samples", [0]),
        ("drafts.num_samples", []),
        ("drafts.num_samples", 1),
        ("drafts.num_samples", {"low": 1}),
        ("storage.root", ["/a", "/b"]),
    ],
)
def test_a_sweep_over_what_is_no_setting_of_a_run_is_refused(full_sweep: dict[str, Any], key: str, value: Any):
    assert not SWEEP.is_valid({**full_sweep, "space": {key: value}})


@pytest.mark.parametrize(
    ("key", "value", "is_right"),
    [
        ("drafts.num_samples", 1, True),
        ("lamp.task", "LaMP_3", True),
        ("lamp.planted", {"seed": 1}, True),
        ("generator.api.base_url", "http://localhost", True),
        ("storage.root", "/a", True),
        ("placement.step_resources.disk", 1, True),
        ("drafts.num_samples", "many", False),
        ("drafts.num_smaples", 1, False),
        ("placement.step_resources.disk", "much", False),
        ("placement.zero_stage.disk", 1, False),
    ],
)
def test_an_override_in_a_sweep_is_a_setting_of_a_run(full_sweep: dict[str, Any], key: str, value: Any, is_right: bool):
    assert SWEEP.is_valid({**full_sweep, "overrides": {key: value}}) == is_right
