import re
from collections.abc import Mapping
from typing import Any

from configuration_page import page

from hydra_ray.sweep.config import Range, SweepConfig

SHOWN_ONCE = ("adapter.base", "adapter.heads")
"""Sections that are those of the reranker."""


def shown() -> dict[str, list[str]]:
    """The settings under each heading."""
    settings: dict[str, list[str]] = {}
    for line in page().splitlines():
        if heading := re.match(r"##+ (.*)", line):
            settings[heading[1].strip("`")] = []
        if row := re.match(r"\| `(\w+)` \|", line):
            list(settings.values())[-1].append(row[1])
    return settings


def wanted(section: Mapping[str, Any], path: str) -> dict[str, list[str]]:
    """The settings of a section and those in it, by path, in order."""
    found = {path: list(section)}
    for key, value in section.items():
        inner = f"{path}.{key}"
        if isinstance(value, Mapping) and value and inner not in SHOWN_ONCE:
            found |= wanted(value, inner)
    return found


def test_the_page_has_every_setting_of_a_run_in_order(full_settings: dict[str, Any]):
    headings = {path: keys for path, keys in shown().items() if path not in ("The run", "A sweep", "range")}
    expected = {
        path: keys
        for name, section in full_settings.items()
        if isinstance(section, Mapping)
        for path, keys in wanted(section, name).items()
    }
    assert list(headings.items()) == list(expected.items())
    assert shown()["The run"] == ["run", "taught_by"]


def test_the_page_has_every_setting_of_a_sweep():
    assert shown()["A sweep"] == list(SweepConfig.model_fields)
    assert shown()["range"] == list(Range.model_fields)


def test_a_link_leads_to_a_heading_of_the_page():
    headings = re.findall(r"^##+ (.*)$", page(), flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([^)]*)\)", page())
    assert len(links) > 5
    assert set(links) <= anchors


def test_a_row_has_four_cells_whatever_its_texts_hold():
    rows = [line for line in page().splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)
