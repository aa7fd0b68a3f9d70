"""What all sections promise."""

from typing import Any, get_args

import pytest

import hydra_ray.config
from hydra_ray.config import RunConfig, Section
from hydra_ray.sweep.config import Range, SweepConfig

SECTIONS = [
    section
    for section in (*vars(hydra_ray.config).values(), Range, SweepConfig)
    if isinstance(section, type) and issubclass(section, Section) and section is not Section
]


def test_sections_are_frozen_and_refuse_unknown_keys():
    sections = Section.__subclasses__()
    assert RunConfig in sections
    for section in sections:
        assert section.model_config.get("frozen")
        assert section.model_config.get("extra") == "forbid"


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_setting_has_a_description_that_programs_see(section: type[Section]):
    assert section.__doc__
    for name, field in section.model_fields.items():
        assert field.description, name
        first, *_ = field.description.split()
        assert field.description.endswith("."), name
        assert (first.rstrip(",") == "Whether") == (field.annotation is bool), name
        assert first not in ("What", "Of", "How", "Where", "As"), name


def test_all_sections_of_a_run_are_public():
    sections, found = [RunConfig], set()
    while sections:
        section = sections.pop()
        found.add(section)
        inner = [part for field in section.model_fields.values() for part in parts(field.annotation)]
        sections += [part for part in inner if issubclass(part, Section)]
    assert found <= set(SECTIONS)


def parts(annotation: Any) -> list[type]:
    """The classes in an annotation, such as both of a union."""
    if isinstance(annotation, type):
        return [annotation]
    return [part for each in get_args(annotation) for part in parts(each)]
