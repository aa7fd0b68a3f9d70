"""The digest of this package's source: what is in it, and what makes no difference."""

import py_compile
import shutil
import tomllib
from pathlib import Path

import pytest

from hydra_ray.cluster.versions import SOURCE_SUFFIXES, comparable, source_digest, source_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """This package's folder, as a wheel would have it installed."""
    folder = tmp_path / "hydra_ray"
    shutil.copytree(source_folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_what_running_and_editing_leave_behind_changes_no_digest(copy: Path):
    assert source_digest(copy) == source_digest()
    py_compile.compile(str(copy / "cli.py"))
    (copy / ".ipynb_checkpoints").mkdir()
    (copy / ".ipynb_checkpoints" / "cli.py").write_text("")
    (copy / "cli.py~").write_text("")
    (copy / "notes.txt").write_text("")
    assert source_digest(copy) == source_digest()


def test_a_link_of_a_checkout_counts_like_the_folder_that_a_wheel_has(copy: Path, tmp_path: Path):
    linked_to = tmp_path / "linked"
    linked_to.mkdir()
    (linked_to / "demo.yaml").write_text("run: demo")
    (copy / "linked").symlink_to(linked_to)
    linked = source_digest(copy)
    (copy / "linked").unlink()
    assert source_digest(copy) != linked
    shutil.copytree(linked_to, copy / "linked")
    assert source_digest(copy) == linked


@pytest.mark.parametrize("name", ["cli.py", "evaluate/templates/base.html", "evaluate/templates/style.css", "new.py"])
def test_any_change_of_code_or_package_data_changes_the_digest(copy: Path, name: str):
    with (copy / name).open("a") as file:
        file.write("\n")
    assert source_digest(copy) != source_digest()


def test_every_kind_of_file_that_a_wheel_holds_is_in_the_digest():
    packaging = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["hydra_ray"]
    assert {f".{pattern.rpartition('.')[2]}" for pattern in packaging} <= set(SOURCE_SUFFIXES)
    files = (path for path in source_folder().rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert {path.suffix for path in files} <= set(SOURCE_SUFFIXES)


@pytest.mark.parametrize(
    ("name", "version", "compared"),
    [
        ("python", "3.11.7", "3.11"),
        ("torch", "2.13.0+cu130", "2.13.0"),
        ("vllm", "0.32.0+cpu", "0.32.0"),
        ("ray", "2.60.0+own", "2.60.0+own"),
    ],
)
def test_a_version_counts_up_to_what_results_depend_on(name: str, version: str, compared: str):
    assert comparable(name, version) == compared
