"""Everything that can be read below a folder: raw bytes, and what compressed tables hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def files_below(root: str) -> dict[str, Path]:
    """All files by their paths below the root."""
    return {str(path.relative_to(root)): path for path in sorted(Path(root).rglob("*")) if path.is_file()}


def mentions(root: str, *words: str) -> dict[str, str]:
    """Files below a root in which one of the words is found, each with one of them."""
    found: dict[str, str] = {}
    for name, path in files_below(root).items():
        texts = [name.encode(), path.read_bytes()]
        if path.suffix == ".parquet":
            texts += [text.encode() for row in pq.read_table(path).to_pylist() for text in strings_of(row)]
        spoken = [word for word in words for text in texts if word.encode() in text]
        if spoken:
            found[name] = spoken[0]
    return found


def strings_of(value: Any) -> Iterator[str]:
    """All strings in a nested value, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from strings_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_of(inner)
