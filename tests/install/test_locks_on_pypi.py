"""What PyPI has for the locks: for each Python, a file whose hash the lock knows; and uv finds nothing to object."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import urllib3
from lock_files import PYTHONS, REQUIREMENTS, ROOT, Pin, read_lock
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename

pytestmark = pytest.mark.slow
LEAST_GLIBC = 28
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(LEAST_GLIBC, 4, -1)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]


@cache
def accepted_tags(python: str) -> frozenset[Tag]:
    """Everything that a wheel may be for on the oldest system that we take."""
    major, minor = map(int, python.split("."))
    tags = [*cpython_tags((major, minor), platforms=PLATFORMS)]
    return frozenset([*tags, *compatible_tags((major, minor), f"cp{major}{minor}", PLATFORMS)])


@cache
def published(project: str) -> list[dict[str, Any]]:
    """The files of a project as PyPI's index tells of them (PEP 691)."""
    url, accept = f"https://pypi.org/simple/{project}/", "application/vnd.pypi.simple.v1+json"
    answer = urllib3.request("GET", url, headers={"Accept": accept}, retries=urllib3.Retry(5, backoff_factor=1))
    return answer.json()["files"]


def fits(file: str, version: str, tags: frozenset[Tag]) -> bool:
    """Whether a file is of this version, and the sources or a wheel for these tags."""
    try:
        if file.endswith(".whl"):
            _, found, _, own = parse_wheel_filename(file)
            return str(found) == version and not own.isdisjoint(tags)
        return str(parse_sdist_filename(file)[1]) == version
    except (InvalidSdistFilename, InvalidWheelFilename):
        return False


def has_accepted_file(pin: Pin, python: str) -> bool:
    tags = accepted_tags(python)
    return any(
        each["hashes"]["sha256"] in pin.hashes
        and f"{python}.0" in SpecifierSet(each["requires-python"] or "")
        and fits(each["filename"], pin.version, tags)
        for each in published(pin.name)
    )


def missing(pins: list[Pin], python: str) -> list[str]:
    """The pins for which there is nothing to install."""
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda pin: has_accepted_file(pin, python), pins)
        return [pin.name for pin, is_there in zip(pins, found, strict=True) if not is_there]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", ["build.txt", "cpu.txt", "gpu.txt"])
def test_every_pin_has_a_file_of_a_known_hash_for_each_python(lock: str, python: str):
    pins = [pin for pin in read_lock(lock).values() if not pin.version.endswith("+cpu")]  # which PyTorch's index has
    assert missing(pins, python) == []
    print(f"{lock}: {len(pins)} pins, a file of a known hash for Python {python} for each")  # noqa: T201


def test_pin_of_other_hashes_is_found_missing():
    pin = Pin(name="numpy", version="2.3.5", hashes=frozenset(["0" * 64]), wanted_by=frozenset())
    assert missing([pin], "3.12") == ["numpy"]


@pytest.fixture(scope="module")
def uv() -> Path:
    subprocess.run(["make", "uv"], cwd=ROOT, check=True)
    (found,) = ROOT.glob("build/uv-*/bin/uv")
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", ["cpu.txt", "gpu.txt"])
def test_uv_would_install_the_lock_for_each_python(uv: Path, tmp_path: Path, lock: str, python: str):
    without_torch = tmp_path / lock
    without_torch.write_text((REQUIREMENTS / lock).read_text().replace("-r torch-cpu.txt\n", ""))
    command = [uv, "pip", "install", "--dry-run", "--no-deps", "--require-hashes", "--target", tmp_path / "target"]
    command += [f"--python-version={python}", f"--python-platform=x86_64-manylinux_2_{LEAST_GLIBC}"]
    done = subprocess.run([*command, "-r", without_torch], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(f"{lock}, Python {python}: {done.stderr.count(' + ')} packages would be installed")  # noqa: T201
