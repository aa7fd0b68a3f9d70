"""JSON Schemas of the YAML files, of the same classes that check them.

They are of draft 7, the newest that YAML editors check files by. It ignores what stands beside a `$ref`, so a setting
that is a section is an `allOf`. What a section's validator checks across settings is in no schema: the descriptions
tell it.
"""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from hydra_ray.config import RunConfig
from hydra_ray.sweep.config import UNVARIED_SECTIONS, SweepConfig

Schema = dict[str, Any]
DIALECT = "http://json-schema.org/draft-07/schema#"
_DEFINITIONS = "#/definitions/"
_MAPS_OF_SCHEMAS = ("definitions", "properties", "patternProperties")
_LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf")


def run_schema() -> Schema:
    """Return the schema of a run's configuration."""
    return {"$schema": DIALECT, **_schema_of(RunConfig)}


def sweep_schema() -> Schema:
    """Return the schema of a sweep's configuration, in which the settings of a run are known by their dotted names."""
    schema, run = _schema_of(SweepConfig), _schema_of(RunConfig)
    definitions = run.pop("definitions") | {"RunConfig": run}
    settings = dict(_dotted(definitions, "RunConfig"))
    varied = {key: each for key, each in settings.items() if key.split(".")[0] not in UNVARIED_SECTIONS}
    overrides, space = schema["properties"]["overrides"], schema["properties"]["space"]
    (choices,) = space.pop("patternProperties").values()
    values, others = choices["anyOf"]
    space["properties"] = {key: {"anyOf": [{**values, "items": each}, others]} for key, each in varied.items()}
    overrides["properties"] = settings
    overrides["patternProperties"] = {
        rf"^{re.escape(key)}\.[a-z_0-9]+$": values
        for key, reference in settings.items()
        for values in _values_of(_resolved(definitions, reference))
    }
    schema["definitions"] |= definitions
    return {"$schema": DIALECT, **schema}


def section_of(schema: Schema) -> str | None:
    """Return the name of the section that a setting is, or may be; None where its value is none."""
    for each in (schema, *(inner for key in _LISTS_OF_SCHEMAS for inner in schema.get(key, ()))):
        if "$ref" in each:
            return each["$ref"].removeprefix(_DEFINITIONS)
    return None


def _dotted(definitions: Schema, section: str, above: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield every setting below a run's sections, by its dotted name, as a reference to its schema."""
    for key, setting in definitions[section]["properties"].items():
        if above:
            yield f"{above}{key}", {"$ref": f"{_DEFINITIONS}{section}/properties/{key}"}
        if inner := section_of(setting):
            yield from _dotted(definitions, inner, f"{above}{key}.")


def _values_of(mapping: Schema) -> list[Schema]:
    """Return the schemas of a mapping's values; none for what is no mapping."""
    others = mapping.get("additionalProperties")
    return [*mapping.get("patternProperties", {}).values(), *([others] if isinstance(others, dict) else [])]


def _resolved(definitions: Schema, reference: Schema) -> Schema:
    section, _, key = reference["$ref"].removeprefix(_DEFINITIONS).split("/")
    return definitions[section]["properties"][key]


def _schema_of(section: type[BaseModel]) -> Schema:
    schema = section.model_json_schema(ref_template=f"{_DEFINITIONS}{{model}}")
    schema["definitions"] = schema.pop("$defs")
    return _for_editors(schema)


def _for_editors(schema: Schema) -> Schema:
    """Return a schema that accepts the same and refuses unknown keys everywhere, without titles and line breaks."""
    schema = {key: value for key, value in schema.items() if key != "title"}
    if "description" in schema:
        schema["description"] = "\n\n".join(" ".join(each.split()) for each in schema["description"].split("\n\n"))
    if "$ref" in schema and len(schema) > 1:
        schema["allOf"] = [{"$ref": schema.pop("$ref")}]
        schema.pop("default", None)  # of a section: what the defaults of its settings say
    if "patternProperties" in schema:
        schema["additionalProperties"] = False
    for key in _MAPS_OF_SCHEMAS:
        if key in schema:
            schema[key] = {name: _for_editors(each) for name, each in schema[key].items()}
    for key in _LISTS_OF_SCHEMAS:
        if key in schema:
            schema[key] = [_for_editors(each) for each in schema[key]]
    if "items" in schema:
        schema["items"] = _for_editors(schema["items"])
    return schema
