"""Writes what is made of the code and of measurements: the page of settings, the JSON Schemas that editors check YAML
files by, and the figures of the documents.

The schemas lie beside the shipped configurations, so that these name them by a path that holds in a checkout and in an
installed package alike.
"""

import json
from pathlib import Path

from configuration_page import page
from configuration_schema import run_schema, sweep_schema
from figures import gains_figure, gains_of, path_figure, stages_figure

_ROOT = Path(__file__).resolve().parents[1]


def generated() -> dict[Path, str]:
    """Return the text of every generated file."""
    schemas = {"configuration.schema.json": run_schema(), "sweep.schema.json": sweep_schema()}
    gains = gains_of((_ROOT / "benchmarks" / "QUALITY.md").read_text(encoding="utf-8"))
    pages = {
        "configuration.md": page(),
        # The figure of an earlier measurement stays until all sets are measured again.
        **({"gains.svg": gains_figure(gains)} if gains else {}),
        "method.svg": path_figure(),
        "stages.svg": stages_figure(),
    }
    files = {_ROOT / "docs" / name: text for name, text in pages.items()}
    for name, schema in schemas.items():
        files[_ROOT / "jobs" / "configs" / name] = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    return files


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
