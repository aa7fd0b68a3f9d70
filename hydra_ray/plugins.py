"""Plug-ins: functions of other packages that a setting names as `module:name`.

Their module must be importable wherever work runs: installed there, or in a folder that PYTHONPATH names. What the
source of its package is enters the fingerprints of what it computes, so that a change computes anew. What a function
returns is checked where it is called, and every error names the setting and the function.
"""

import hashlib
import importlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydra_ray.errors import ConfigError, HydraError

_imported: dict[str, str] = {}
"""Hash of the source of each top-level module or package of plug-ins that this process has imported, as it was then."""


@lru_cache
def load_plugin(name: str, setting: str) -> Callable[..., Any]:
    """Import the function that a setting names.

    Args:
        name: `module:name`.
        setting: the setting, for errors.

    Raises:
        ConfigError: there is no such module or function, or the module cannot be imported.
    """
    module, _, attribute = name.partition(":")
    digest = _digest_of(name, setting)
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # whatever a module of somebody else raises
        raise ConfigError(f"{setting} is {name}, and {module} cannot be imported: {error!r}") from error
    if not callable(found):
        raise ConfigError(f"{setting} is {name}, and {module} has no function {attribute}")
    _imported.setdefault(_package_of(name), digest)
    return found


def call_plugin(name: str, setting: str, *arguments: Any) -> Any:
    """Return what the function that a setting names returns.

    Raises:
        ConfigError: it is not there, or it raised an error. Of that the kind and the place are told and not the
            message, which may have a user's text.
    """
    function = load_plugin(name, setting)
    try:
        return function(*arguments)
    except HydraError:
        raise
    except Exception as error:
        raise failure_of(name, setting, error) from None


def failure_of(name: str, setting: str, error: Exception) -> ConfigError:
    """Return an error that tells of another one its kind and place, and not its message."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"line {place.lineno} of {Path(place.filename).name}"
    return ConfigError(f"{setting} is {name}, which failed with {type(error).__name__} at {where}")


def checked_numbers(name: str, setting: str, found: object, num_expected: int, what: str) -> NDArray[np.float64]:
    """Return the numbers that a plug-in returned as an array.

    Args:
        what: what there is a number of, for errors.

    Raises:
        ConfigError: they are not as many finite numbers as expected.
    """
    expected = f"expected {num_expected} finite numbers, one for each {what}"
    try:
        values = np.asarray(found, np.float64)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{setting} has {name}, which returned {type(found).__name__}, no sequence of numbers; {expected}"
        ) from None
    if values.shape != (num_expected,):
        raise ConfigError(f"{setting} has {name}, which returned an array of the shape {values.shape}; {expected}")
    if not np.isfinite(values).all():
        raise ConfigError(f"{setting} has {name}, which returned numbers that are not finite; {expected}")
    return values


def source_digest(name: str, setting: str) -> str:
    """Return a hash of the source of a plug-in: all Python files of its package, or of its module alone.

    Raises:
        ConfigError: there is no such module, or this process has imported it before its source was changed.
    """
    digest = _digest_of(name, setting)
    if _imported.get(_package_of(name), digest) != digest:
        raise ConfigError(
            f"{setting} is {name}, whose source has changed since this process imported it: start a new process, since "
            "results of the old source would be taken for those of the new one"
        )
    return digest


def title_of(name: str) -> str:
    """Return the function's own name, without its module."""
    return name.partition(":")[2]


def _package_of(name: str) -> str:
    return name.partition(":")[0].partition(".")[0]


def _digest_of(name: str, setting: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path, content in _require_source(name, setting):
        digest.update(f"{path}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _require_source(name: str, setting: str) -> Sequence[tuple[str, bytes]]:
    package = _package_of(name)
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
