"""Writes what is made of the code: the page of settings, and the JSON Schemas that editors check YAML files by.

The schemas lie beside the shipped configurations, so that these name them by a path that holds in a checkout and in an
installed package alike.
"""

import json
from pathlib import Path

from configuration_page import page
from configuration_schema import run_schema, sweep_schema

_ROOT = Path(__file__).resolve().parents[1]


def generated() -> dict[Path, str]:
    """Return the text of every generated file."""
    schemas = {"configuration.schema.json": run_schema(), "sweep.schema.json": sweep_schema()}
    files = {_ROOT / "docs" / "configuration.md": page()}
    for name, schema in schemas.items():
        files[_ROOT / "jobs" / "configs" / name] = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    return files


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
