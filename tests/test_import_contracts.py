"""The import contracts of pyproject.toml catch new modules that nobody has named in them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hydra_ray

ROOT = Path(__file__).parents[1]
ENGINES = ("ray", "vllm", "deepspeed", "torch")
BY_FORM = {
    "import": "import {library}\n",
    "import_below": "import {library}.util\n",
    "from_import": "from {library} import data\n",
    "inside_function": "def work():\n    import {library}\n",
    "from_inside_function": "def work():\n    from {library} import data\n",
}
"""Ways to import a library."""
ONLY_NAMED_FILES = "Ray, vLLM, DeepSpeed and torch are imported by these files alone"
DOWNWARDS = "Dependencies point down"
ACYCLIC = "No package and no module needs itself"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of this package's source, beside a copy of pyproject.toml."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    source = Path(next(iter(hydra_ray.__path__)))
    return Path(shutil.copytree(source, tmp_path / "hydra_ray", ignore=shutil.ignore_patterns("__pycache__")))


def lint(package: Path) -> tuple[set[str], str]:
    """Return the names of the broken contracts, and everything that import-linter prints."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=package.parent, capture_output=True, text=True, check=False)
    broken = set(re.findall(r"^(.+) BROKEN", done.stdout, flags=re.MULTILINE))
    assert (done.returncode == 0) == (not broken), done.stdout + done.stderr
    return broken, done.stdout


def test_the_package_as_it_is_keeps_every_contract(package: Path):
    broken, printed = lint(package)
    assert not broken, printed
    assert " 0 broken" in printed


def test_a_new_module_may_import_no_engine_in_any_way(package: Path):
    for library in ENGINES:
        for form, text in BY_FORM.items():
            (package / "scorer" / "linear" / f"new_{form}_{library}.py").write_text(text.format(library=library))
    broken, printed = lint(package)
    assert broken == {ONLY_NAMED_FILES}
    for library in ENGINES:
        for form in BY_FORM:
            assert f"hydra_ray.scorer.linear.new_{form}_{library} -> {library} " in printed


@pytest.mark.parametrize("folder", ["adapt", "forecast", "runs", "stages", "."])
def test_a_new_module_anywhere_may_not_import_ray(package: Path, folder: str):
    (package / folder / "new.py").write_text("import ray\n")
    assert ONLY_NAMED_FILES in lint(package)[0]


def test_an_import_for_types_alone_is_allowed(package: Path):
    text = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import ray\n"
    (package / "scorer" / "linear" / "new.py").write_text(text)
    assert not lint(package)[0]


def test_an_import_of_a_higher_layer_is_caught(package: Path):
    (package / "storage" / "new.py").write_text("import hydra_ray.stages.plan\n")
    assert DOWNWARDS in lint(package)[0]


def test_a_cycle_between_two_modules_of_a_package_is_caught(package: Path):
    (package / "lamp" / "first.py").write_text("import hydra_ray.lamp.second\n")
    (package / "lamp" / "second.py").write_text("def work():\n    import hydra_ray.lamp.first\n")
    broken, printed = lint(package)
    assert broken == {ACYCLIC}, printed
