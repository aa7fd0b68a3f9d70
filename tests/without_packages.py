"""A process to which some packages are not installed, whatever is."""

import subprocess
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_REFUSING = """
import sys
refused = {modules!r}
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refusing())
"""


def run_without(modules: Iterable[str], code: str) -> "subprocess.CompletedProcess[str]":
    """The ended process that ran `code`, in which importing one of `modules` fails."""
    source = _REFUSING.format(modules=frozenset(modules)) + code
    return subprocess.run([sys.executable, "-c", source], check=False, capture_output=True, text=True, timeout=300)


def command_without(modules: Iterable[str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The ended process of `hydra-ray` with these arguments."""
    return run_without(modules, f"from hydra_ray.cli import main\nsys.exit(main({list(arguments)!r}))")


@cache
def modules_of(*extras: str) -> frozenset[str]:
    """Top-level modules of everything that extras bring and the base install does not."""
    base = {distribution_of(each) for each in PROJECT["dependencies"]}
    asked = {distribution_of(each) for extra in extras for each in PROJECT["optional-dependencies"][extra]}
    wanted = asked - base - {"hydra-ray", "filelock"}  # Ray brings the latter
    return frozenset(
        module
        for module, distributions in packages_distributions().items()
        if wanted & {name.lower().replace("_", "-") for name in distributions} and not module.startswith("_")
    )


def distribution_of(requirement: str) -> str:
    """The normalized name in a requirement."""
    return requirement.partition("==")[0].partition("[")[0].lower().replace("_", "-")
