"""Digests of content, and JSON files that hold the digest of what is before it.

A sealed JSON file is an object whose last entry is `"checksum": "blake2b:<digest>"`. Its key and the beginning of its
value each mark the file as sealed, so that no single flipped bit can make it look like a file without a seal.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_KEY = "checksum"
_PREFIX = "blake2b:"


def digest_of(content: bytes | memoryview) -> str:
    """Return the digest of some content: BLAKE2b, 128 bits in hex."""
    return new_digest(content).hexdigest()


def new_digest(content: bytes | memoryview = b"") -> "hashlib.blake2b":
    """Return the running digest of content that comes in pieces."""
    return hashlib.blake2b(content, digest_size=16)


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """Return a JSON object with its seal.

    Raises:
        ValueError: it has an entry of the seal's name.
    """
    if _KEY in value:
        raise ValueError(f"a JSON file has no room for an entry {_KEY!r} of its own")
    body = (json.dumps(value, indent=2, ensure_ascii=False)[:-2] + "," if value else "{").encode()
    return body + _seal(body)


def unsealed(content: bytes) -> Any:
    """Return the JSON value that a file holds, without its seal; a file without a seal is taken as it is.

    Raises:
        ValueError: it is not JSON, or not what was sealed.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict) or not value:
        return value
    name, seal = list(value.items())[-1]
    if name != _KEY and not (isinstance(seal, str) and seal.startswith(_PREFIX)):
        return value
    body = content[: -len(_seal(b""))]
    if content != body + _seal(body):
        raise ValueError(f"its content is not what its {_KEY!r} says")
    del value[name]
    return value


def _seal(body: bytes) -> bytes:
    return f'\n  "{_KEY}": "{_PREFIX}{digest_of(body)}"\n}}'.encode()
