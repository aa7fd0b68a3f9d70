"""Plug-ins: functions of other packages that a setting names as `module:name`.

Their module must be importable wherever work runs: installed there, or in a folder that PYTHONPATH names. What the
source of its package is enters the fingerprints of what it computes, so that a change computes anew.
"""

import hashlib
import importlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra_ray.errors import ConfigError


def load_plugin(name: str, setting: str) -> Callable[..., Any]:
    """Import the function that a setting names.

    Args:
        name: `module:name`.
        setting: the setting, for errors.

    Raises:
        ConfigError: there is no such module or function, or the module cannot be imported.
    """
    module, _, attribute = name.partition(":")
    _require_source(name, setting)
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # whatever a module of somebody else raises
        raise ConfigError(f"{setting} is {name}, and {module} cannot be imported: {error!r}") from error
    if not callable(found):
        raise ConfigError(f"{setting} is {name}, and {module} has no function {attribute}")
    return found


def source_digest(name: str, setting: str) -> str:
    """Return a hash of the source of a plug-in: all Python files of its package, or of its module alone.

    Raises:
        ConfigError: there is no such module.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path, content in _require_source(name, setting):
        digest.update(f"{path}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _require_source(name: str, setting: str) -> list[tuple[str, bytes]]:
    package = name.partition(":")[0].partition(".")[0]
    found = list(_source_of(package))
    if not found:
        raise ConfigError(
            f"{setting} is {name}, and there is no module {package} here with Python source: install it, or name its "
            "folder in PYTHONPATH, on every node"
        )
    return found


def _source_of(package: str) -> Iterator[tuple[str, bytes]]:
    """Yield the Python files of a top-level module or package, in order, by their path in it; nothing is imported."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return
    if spec is None:
        return
    folders = [Path(each) for each in spec.submodule_search_locations or ()]
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            yield path.relative_to(folder).as_posix(), path.read_bytes()
    if not folders and spec.origin is not None and spec.origin.endswith(".py"):
        yield Path(spec.origin).name, Path(spec.origin).read_bytes()
