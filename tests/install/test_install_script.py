"""requirements/install.sh on machines of all kinds: which Python it takes, and what it says where it cannot go on."""

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from lock_files import REQUIREMENTS, ROOT

pytestmark = pytest.mark.integration

# What the script itself calls.
TOOLS = ("sh", "dirname", "g++", "grep", "tail", "touch", "uname")
# Answers what the script asks a Python, and notes that it was chosen.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
*sys.implementation*) [ -n "{version}" ] && echo "{version}" ;;
*ensurepip*) {has_venv} ;;
*CDLL*) {has_libraries} ;;
*Python.h*) {has_headers} ;;
*venv*) echo {name} > "{chosen}"; exit 3 ;;
esac
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine that has nothing but what a test gives it."""

    folder: Path

    @property
    def chosen(self) -> str:
        """The Python that was told to make the environment."""
        return (self.folder / "chosen").read_text().strip()

    def add(self, name: str, version: str = "", **has: bool) -> None:
        """Put a Python on the path; without a version it is a command that does not run, as pyenv leaves them."""
        answers = {each: str(has.get(each, True)).lower() for each in ("has_venv", "has_libraries", "has_headers")}
        path = self.folder / "bin" / name
        path.write_text(FAKE_PYTHON.format(name=name, version=version, chosen=self.folder / "chosen", **answers))
        path.chmod(0o755)

    def install(self, lock: str = "cpu", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the script, with no configuration of pip."""
        return subprocess.run(
            [REQUIREMENTS / "install.sh", self.folder / "venv", lock],
            env={
                "PATH": str(self.folder / "bin"),
                "HOME": str(self.folder),
                "PIP_CONFIG_FILE": "/dev/null",
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def refusal(self, lock: str = "cpu", **environment: str) -> str:
        """Run the script, which must refuse in one line, and make nothing that passes for installed."""
        done = self.install(lock, **environment)
        assert done.returncode == 1
        assert not (self.folder / "venv" / f".installed-{lock}").exists()
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("install: ")
        return line


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    return Machine(folder=tmp_path)


def version(minor: int) -> str:
    return f"cpython 3.{minor}"


@pytest.mark.parametrize(
    ("minors", "chosen"),
    [((11, 12, 13), "python3.11"), ((12, 13), "python3.13"), ((12,), "python3.12"), ((10, 14, 12), "python3.12")],
)
def test_python_3_11_is_taken_else_the_newest_that_fits(machine: Machine, minors: tuple[int, ...], chosen: str):
    for minor in minors:
        machine.add(f"python3.{minor}", version(minor))
    machine.install()
    assert machine.chosen == chosen


def test_command_that_does_not_run_is_passed_over(machine: Machine):
    machine.add("python3.11")
    machine.add("python3", version(12))
    machine.install()
    assert machine.chosen == "python3"


def test_python_without_venv_is_passed_over(machine: Machine):
    machine.add("python3.11", version(11), has_venv=False)
    machine.add("python3.12", version(12))
    machine.install()
    assert machine.chosen == "python3.12"


def test_python_that_is_named_is_taken(machine: Machine):
    machine.add("python3.11", version(11))
    machine.add("mine", version(13))
    machine.install(PYTHON="mine")
    assert machine.chosen == "mine"


def test_no_fitting_python_is_told_with_what_to_install(machine: Machine):
    machine.add("python3.11")
    machine.add("python3", version(9))
    said = machine.refusal()
    assert "python3.11 does not run; python3 is cpython 3.9" in said
    assert "apt install python3.11-venv" in said


def test_missing_venv_is_told_with_its_package(machine: Machine):
    machine.add("python3.12", version(12), has_venv=False)
    assert "python3.12 lacks venv (on Debian and Ubuntu: apt install python3.12-venv)" in machine.refusal()


@pytest.mark.parametrize(
    ("found", "reason"), [(version(10), "is cpython 3.10"), ("pypy 3.11", "is pypy 3.11"), ("", "does not run")]
)
def test_named_python_that_does_not_fit_is_refused_by_name(machine: Machine, found: str, reason: str):
    machine.add("python3.11", version(11))
    machine.add("mine", found)
    assert f"PYTHON=mine cannot be used: mine {reason}. It must be CPython 3.11, 3.12 or 3.13" in machine.refusal(
        PYTHON="mine"
    )


def test_everything_missing_is_told_at_once_with_its_packages(machine: Machine):
    (machine.folder / "bin" / "g++").unlink()
    machine.add("python3.12", version(12), has_libraries=False, has_headers=False)
    said = machine.refusal()
    assert "a C++ compiler, Python's headers, libnuma.so.1 must be there first" in said
    assert "apt install g++ python3.12-dev libnuma1;" in said


def test_gpu_lock_does_without_the_cpu_builds_library(machine: Machine):
    machine.add("python3.12", version(12), has_libraries=False)
    machine.install("gpu")
    assert machine.chosen == "python3.12"


def test_unknown_lock_is_refused(machine: Machine):
    assert "must be cpu or gpu" in machine.refusal("tpu")


def test_environment_of_another_lock_is_refused(machine: Machine):
    machine.add("python3.11", version(11))
    (machine.folder / "venv").mkdir()
    (machine.folder / "venv" / ".installed-gpu").touch()
    assert "has the lock gpu" in machine.refusal("cpu")


def test_other_machines_are_told_of_the_light_client(machine: Machine):
    (machine.folder / "bin" / "uname").unlink()
    (machine.folder / "bin" / "uname").write_text("#!/bin/sh\necho Darwin arm64\n")
    (machine.folder / "bin" / "uname").chmod(0o755)
    assert "this is Darwin arm64" in (said := machine.refusal())
    assert "pip install ." in said


def offer(index: Path, torch_version: str) -> None:
    """Make a package index that has one wheel, of torch at this version."""
    (index / "torch").mkdir(parents=True)
    with zipfile.ZipFile(index / "torch" / f"torch-{torch_version}-py3-none-any.whl", "w") as wheel:
        information = f"torch-{torch_version}.dist-info"
        wheel.writestr("torch.py", "raise ImportError('libcudnn.so.9')")
        wheel.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {torch_version}\n")
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")
    name = f"torch-{torch_version}-py3-none-any.whl"
    (index / "torch" / "index.html").write_text(f'<a href="{name.replace("+", "%2B")}">{name}</a>')


@pytest.fixture
def base_python() -> str:
    """This environment's own interpreter, outside of the environment."""
    return os.path.realpath(sys.executable)


@pytest.mark.parametrize(
    ("offered", "reason"),
    [("2.13.0", "No matching distribution found for torch==2.13.0+cpu"), ("2.13.0+cpu", "HASHES")],
    ids=["build for CUDA", "unknown file of the CPU build"],
)
def test_torch_other_than_the_locks_is_refused(machine: Machine, base_python: str, offered: str, reason: str):
    offer(machine.folder / "index", offered)
    index = (machine.folder / "index").as_uri()
    said = machine.refusal(PYTHON=base_python, PIP_INDEX_URL=index, TORCH_INDEX=index)
    assert reason in said
    assert f"is neither where this machine's pip looks nor in {index}" in said
    assert "TORCH_INDEX=URL" in said
    assert not list((machine.folder / "venv").rglob("torch*"))


def dry_run(*words: str) -> str:
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_make_hands_on_what_it_is_told(tmp_path: Path):
    said = dry_run("install", "LOCK=gpu", f"VENV={tmp_path}", "PYTHON=mine", "TORCH_INDEX=https://torch.example")
    assert f'PYTHON="mine" TORCH_INDEX="https://torch.example" requirements/install.sh {tmp_path} gpu' in said


@pytest.mark.parametrize("lock", ["cpu", "gpu"])
def test_make_stays_with_the_lock_that_was_installed(tmp_path: Path, lock: str):
    (tmp_path / f".installed-{lock}").touch()
    assert f"requirements/install.sh {tmp_path} {lock}" in dry_run("demo", f"VENV={tmp_path}")


def test_environment_that_was_cut_off_gets_its_pip(machine: Machine, base_python: str):
    subprocess.run([base_python, "-m", "venv", "--without-pip", machine.folder / "venv"], check=True)
    assert "No matching distribution" in machine.refusal(PIP_NO_INDEX="1")
