"""What the API server says of an object with a custom resource definition: its schema, strictly."""

import gzip
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

EMBEDDED_METADATA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        "finalizers": {"type": "array", "items": {"type": "string"}},
    },
}
"""What a manifest may say of itself; definitions leave it to the server."""


@cache
def read_schema(folder: Path, plural: str, version: str = "v1") -> dict[str, Any]:
    """The structural schema of one kind, from `ray.io_<plural>.yaml` or that with `.gz`."""
    (path,) = folder.glob(f"ray.io_{plural}.yaml*")
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    (served,) = [each for each in yaml.load(text, yaml.CSafeLoader)["spec"]["versions"] if each["name"] == version]
    schema = served["schema"]["openAPIV3Schema"]
    return {**schema, "properties": {**schema["properties"], "metadata": EMBEDDED_METADATA}}


def at(schema: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """The part of a schema that is for a field: names of fields, and `*` for the items of a list."""
    found: Any = schema
    for key in path:
        found = found["items"] if key == "*" else found["properties"][key]
    return found


def schema_problems(found: Any, schema: Mapping[str, Any]) -> list[str]:
    """Return what the server would refuse, unknown fields included."""
    validator = jsonschema.Draft202012Validator(_strict(schema))
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(found)]
    return errors + list(_repeated(found, schema, "$"))


def _strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAPI's schema as JSON schema: no unknown fields, integers or strings, null only where it is said."""
    strict = {key: value for key, value in schema.items() if not key.startswith("x-") and key != "nullable"}
    if schema.get("x-kubernetes-int-or-string"):
        strict = {"anyOf": [{"type": "integer"}, {"type": "string"}]} | (
            {"pattern": schema["pattern"]} if "pattern" in schema else {}
        )
    elif schema.get("type") == "object" and "additionalProperties" not in schema:
        strict["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            strict[key] = _strict(schema[key])
    if "properties" in schema:
        strict["properties"] = {name: _strict(each) for name, each in schema["properties"].items()}
        # The server fills defaults in before it looks for what is required.
        strict["required"] = [
            name for name in schema.get("required", []) if "default" not in schema["properties"][name]
        ]
    return {"anyOf": [strict, {"type": "null"}]} if schema.get("nullable") else strict


def _repeated(found: Any, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    """Two items of a list that the server keeps by keys (names of containers, ports), and both have the same."""
    if isinstance(found, list) and "items" in schema:
        if schema.get("x-kubernetes-list-type") == "map":
            defaults = {name: each.get("default") for name, each in schema["items"]["properties"].items()}
            keys = schema["x-kubernetes-list-map-keys"]
            counts = Counter(tuple(item.get(key, defaults.get(key)) for key in keys) for item in found)
            yield from (f"{where}: {key} stands there {count} times" for key, count in counts.items() if count > 1)
        for index, item in enumerate(found):
            yield from _repeated(item, schema["items"], f"{where}[{index}]")
    elif isinstance(found, dict):
        for name, value in found.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if isinstance(inner, Mapping):
                yield from _repeated(value, inner, f"{where}.{name}")
