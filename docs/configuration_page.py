"""The page with every setting, made of the JSON Schemas."""

import json
from collections.abc import Iterator

from configuration_schema import Schema, run_schema, section_of, sweep_schema

_BEGINNING = """\
# Configuration

<!-- Made by `make docs` of the descriptions in hydra_ray/config/ and hydra_ray/sweep/config.py: change those. -->

A run is configured by one YAML file, checked as a whole before anything starts; a sweep by another
([the last section](#a-sweep)). This page has every setting, in the order of the file. Any setting can be changed by a
dotted override, such as `drafts.num_samples=4`, on the command line, in a submitted job and in a sweep. A section may
be left out where none of its settings is required. Every section but `storage`, `budget` and `placement` decides what
is computed, and so is part of the stages' fingerprints, unless a setting says that it changes no answer.

Editors that know `yaml-language-server` complete and check settings by a JSON Schema, which a file names on its first
line:

```yaml
# yaml-language-server: $schema=configuration.schema.json
```

Give the path from that file to `jobs/configs/configuration.schema.json` (for a sweep, `sweep.schema.json`), or where
the package is installed, to the file of that name in the folder that
`python -c "import hydra_ray.shipped; print(hydra_ray.shipped.FOLDER)"` prints. The schemas also have the patterns of
keys in mappings. What several settings must fulfil together is told in their meanings, and checked when the file is
loaded.
"""
_SWEEP = """\
## A sweep

A sweep's file has settings of its own, and those of a run by their dotted names; see [Sweeps](sweeps.md).
"""


def page() -> str:
    """Return the page in Markdown."""
    run, sweep = run_schema(), sweep_schema()
    parts = [_BEGINNING, "## The run\n", *_table(run, {})]
    shown: dict[str, str] = {}
    parts += [part for name in run["properties"] for part in _section(run["properties"][name], name, run, shown)]
    parts += [_SWEEP, *_table(sweep, {"Range": "range"})]
    parts += ["### `range`\n", *_described(sweep["definitions"]["Range"], {})]
    return "\n".join(parts)


def _section(setting: Schema, path: str, run: Schema, shown: dict[str, str]) -> Iterator[str]:
    """Yield a section and those in it; one that was shown before, under another path, is only named by its parent.

    Args:
        shown: path by name of the section, added to.
    """
    name = section_of(setting)
    if name is None or name in shown:
        return
    shown[name] = path
    section = run["definitions"][name]
    inner = {key: each for key, each in section["properties"].items() if section_of(each)}
    paths = {each: shown.get(each, f"{path}.{key}") for key, value in inner.items() if (each := section_of(value))}
    yield f"{'###' if '.' in path else '##'} `{path}`\n"
    yield from _described(section, paths)
    for key, value in inner.items():
        yield from _section(value, f"{path}.{key}", run, shown)


def _described(section: Schema, paths: dict[str, str]) -> list[str]:
    return [f"{section['description']}\n", *_table(section, paths)]


def _table(section: Schema, paths: dict[str, str]) -> list[str]:
    """Return a row for each setting of a section.

    Args:
        paths: where the sections in it are told of, by name; others have a heading of their own and no row.
    """
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for key, setting in section["properties"].items():
        if section_of(setting) and section_of(setting) not in paths:
            continue
        default = "required" if key in section.get("required", ()) else _default(setting)
        cells = (f"`{key}`", _type(setting, paths), default, " ".join(setting["description"].split()))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*rows, ""]


def _default(setting: Schema) -> str:
    return f"`{json.dumps(setting['default'])}`" if "default" in setting else "its settings' own"


def _type(schema: Schema, paths: dict[str, str]) -> str:
    """Return what a value may be, with its bounds, in words."""
    for key in ("allOf", "anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(each, paths) for each in schema[key]))
    if name := section_of(schema):
        path = paths[name]
        return f"[section `{path}`](#{path.replace('.', '')})"
    if choices := schema.get("enum", [schema[key] for key in ("const",) if key in schema]):
        return ", ".join(f"`{each}`" for each in choices)
    if schema.get("type") == "array":
        return f"list{_bounds(schema)} of {_type(schema['items'], paths)}"
    if schema.get("type") == "object":
        return _mapping(schema, paths)
    names: dict[str, str] = {"string": "text", "boolean": "true or false"}
    return f"{names.get(schema['type'], schema['type'])}{_bounds(schema)}"


def _mapping(schema: Schema, paths: dict[str, str]) -> str:
    if "patternProperties" in schema and "properties" not in schema:
        (values,) = schema["patternProperties"].values()
        return f"mapping of text to {_value({**values, 'pattern': ''}, paths)}"
    if isinstance(values := schema.get("additionalProperties"), dict):
        return f"mapping of text to {_value(values, paths)}"
    if all("anyOf" in each for each in schema["properties"].values()):
        return "mapping of dotted settings to lists of values, or to a [section `range`](#range) each"
    return "mapping of dotted settings to values"


def _value(schema: Schema, paths: dict[str, str]) -> str:
    """Return what a value of a mapping may be, in words."""
    return "any value of JSON" if "$ref" in schema else _type(schema, paths)


def _bounds(schema: Schema) -> str:
    """Return what bounds a value, to be put after its type."""
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    numbers = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    texts = {
        "minItems": "at least {}",
        "minLength": "at least {} long",
        "maxLength": "at most {} long",
        "pattern": "`{}`",
    }
    others = [text.format(schema[key]) for key, text in texts.items() if schema.get(key)]
    return f" {' and '.join(numbers)}" * bool(numbers) + f" ({', '.join(others)})" * bool(others)
