"""The version has one source, `hydra_ray.__version__`, and whatever else states it agrees."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import hydra_ray
from hydra_ray.cli import main

ROOT = Path(__file__).parents[1]
HEADING = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - (Unreleased|\d{4}-\d{2}-\d{2})$", re.MULTILINE)


def test_the_distribution_takes_its_version_from_the_package():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert pyproject["project"]["dynamic"] == ["version"]
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "hydra_ray.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", hydra_ray.__version__)


def test_the_citation_and_the_newest_changelog_entry_name_the_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == hydra_ray.__version__
    entries = HEADING.findall((ROOT / "CHANGELOG.md").read_text())
    assert entries[0][0] == hydra_ray.__version__
    assert all(released != "Unreleased" for _, released in entries[1:])


def test_a_checkout_that_is_not_installed_knows_its_version():
    # Without site-packages there is neither metadata nor any dependency.
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import hydra_ray; print(hydra_ray.__version__)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hydra_ray.__version__


def test_the_version_option_prints_one_line_and_stops(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"hydra-ray {hydra_ray.__version__}\n"
