"""Facts of this machine, gathered once: checks are pure functions of them and can be tested on machines that do not
exist."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra_ray.findings import Finding, problem

GIGABYTE = 1 << 30
_MEGABYTE = 1 << 20
_ENOUGH_MEMORY_GIGABYTES = 8
_SMI_SECONDS = 20
"""Time limit of nvidia-smi, which initializes each GPU on machines without a persistence daemon."""
_SMI_FIELDS = ("index", "uuid", "name", "memory.total", "memory.free", "compute_cap", "driver_version")
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_MEMORY_USES = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU that this process may use."""

    name: str
    memory_bytes: int
    free_bytes: int
    capability: tuple[int, int]
    """CUDA compute capability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Torch:
    """Installed PyTorch."""

    version: str = ""
    """Version; empty where PyTorch is not installed or cannot be imported."""
    cuda: str | None = None
    """CUDA version of the build; None for CPU builds."""
    error: str = ""
    """Reason why it cannot be imported although it is installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Resources and software of a machine."""

    num_cpus: int
    memory_bytes: int
    """Memory of the machine, or of the container that this process runs in."""
    available_bytes: int
    """Memory that programs can still allocate."""
    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    """Version of NVIDIA's driver; empty where there is none."""
    torch: Torch = Torch()


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """File system that contains a folder, or will. Key: device."""

    device: int
    free_bytes: int
    total_bytes: int


def this_machine() -> Machine:
    """Return the facts of the machine that this process runs on."""
    gpus, driver = _gpus()
    total, available = _memory()
    return Machine(
        num_cpus=os.cpu_count() or 1,
        memory_bytes=total,
        available_bytes=available,
        gpus=gpus,
        driver=driver,
        torch=_torch(),
    )


def disk_of(folder: str) -> Disk:
    """Return the file system of a folder, or of its nearest existing parent."""
    place = Path(folder)
    while not os.path.isdir(place):
        place = place.parent
    usage = shutil.disk_usage(place)
    return Disk(device=place.stat().st_dev, free_bytes=usage.free, total_bytes=usage.total)


def gigabytes(num_bytes: float) -> str:
    """Return a size as text, in units of 2^30 bytes."""
    return f"{num_bytes / GIGABYTE:.1f} GB"


def machine_findings(machine: Machine) -> Iterator[Finding]:
    """Yield findings about a machine, whatever it is to run."""
    yield Finding(name="python", value=".".join(map(str, sys.version_info[:3])))
    if machine.torch.error:
        yield broken_torch(machine.torch)
    yield Finding(name="cpu cores", value=str(machine.num_cpus))
    names = ", ".join(f"{gpu.name} ({gigabytes(gpu.memory_bytes)})" for gpu in machine.gpus)
    driver = f"; driver {machine.driver}" if machine.driver else ""
    yield Finding(name="gpus", value=(names or "none: everything runs on the CPU") + driver)
    memory = f"{gigabytes(machine.available_bytes)} of {gigabytes(machine.memory_bytes)} free"
    if machine.memory_bytes < _ENOUGH_MEMORY_GIGABYTES * GIGABYTE:
        yield problem("memory", memory, f"the demo needs {_ENOUGH_MEMORY_GIGABYTES} GB")
    else:
        yield Finding(name="memory", value=memory)
    disk = disk_of(str(Path.home()))
    yield Finding(name="disk (home)", value=f"{gigabytes(disk.free_bytes)} of {gigabytes(disk.total_bytes)} free")


def broken_torch(torch: Torch) -> Finding:
    """Return the problem of a PyTorch that cannot be imported, with its remedy."""
    remedy = "it is a build that lacks its libraries: make a new environment (docs/start.md, Install)"
    return problem("torch", f"cannot be imported ({torch.error})", remedy)


def _memory() -> tuple[int, int]:
    """Return the total and the available bytes of memory."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    available = _linux_available() or total
    limit, used = _first_number(_MEMORY_LIMITS), _first_number(_MEMORY_USES)
    if limit is not None and limit < total:
        return limit, min(available, limit - min(used or 0, limit))
    return total, available


def _linux_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _first_number(paths: tuple[str, ...]) -> int | None:
    """Return the number in the first file that contains one (`max` means no limit); None without any."""
    for path in paths:
        try:
            return int(Path(path).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return None


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    """Return the GPUs that this process may use and the driver's version, as reported by nvidia-smi."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return (), ""
    return parse_gpus(done.stdout, os.environ.get(_VISIBLE))


def parse_gpus(output: str, visible: str | None) -> tuple[tuple[Gpu, ...], str]:
    """Return the GPUs and the driver's version in the output of nvidia-smi for `_SMI_FIELDS`.

    Args:
        visible: value of CUDA_VISIBLE_DEVICES, indices or prefixes of UUIDs; None where it is not set.
    """
    wanted = None if visible is None else [each.strip() for each in visible.split(",") if each.strip()]
    found: list[Gpu] = []
    driver = ""
    for row in csv.reader(output.splitlines(), skipinitialspace=True):
        if len(row) != len(_SMI_FIELDS):
            continue
        index, uuid, name, total, free, capability, driver = row
        if wanted is not None and not any(each == index or uuid.startswith(each) for each in wanted):
            continue
        if not (total.isdigit() and free.isdigit()):  # such as "[N/A]" for a GPU without memory of its own
            continue
        major, _, minor = capability.partition(".")
        found.append(
            Gpu(
                name=name,
                memory_bytes=int(total) * _MEGABYTE,
                free_bytes=int(free) * _MEGABYTE,
                capability=(int(major), int(minor)),
            )
        )
    return tuple(found), driver


def _torch() -> Torch:
    try:
        import torch
    except (ImportError, OSError, ValueError) as error:  # a shared library that it needs is missing
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == "torch"
        return Torch() if is_missing else Torch(error=f"{type(error).__name__}: {error}")
    return Torch(version=torch.__version__, cuda=torch.version.cuda)
