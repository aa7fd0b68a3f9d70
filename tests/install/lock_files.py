"""The locks as tests read them."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
PYTHONS = ("3.11", "3.12", "3.13")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One package of a lock. Key: name."""

    name: str
    version: str
    hashes: frozenset[str]
    """Of every file that is accepted."""
    wanted_by: frozenset[str]
    """The packages that need it, by uv's comment."""


def read_lock(name: str) -> dict[str, Pin]:
    """Return the pins of a lock and of the locks that it includes, by the packages' canonical names."""
    pins: dict[str, Pin] = {}
    for entry in re.split(r"\n(?=[^\s#])", (REQUIREMENTS / name).read_text()):
        requirement = re.sub(r"^#.*\n", "", entry, flags=re.MULTILINE).split("--hash")[0].strip(" \\\n")
        if requirement.startswith("-r "):
            pins |= read_lock(requirement.removeprefix("-r "))
        elif "==" in requirement:
            found = Requirement(requirement)
            (version,) = found.specifier
            wanted_by = re.search(r"# via (.*)", entry)
            pins[canonicalize_name(found.name)] = Pin(
                name=canonicalize_name(found.name),
                version=version.version,
                hashes=frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)),
                wanted_by=frozenset(wanted_by[1].split(", ") if wanted_by else ()),
            )
    return pins


def left_out(name: str) -> set[str]:
    """Return the packages that a lock is told to leave out."""
    lines = (REQUIREMENTS / name).read_text().splitlines()
    return {canonicalize_name(line) for line in lines if line and not line.startswith("#")}
