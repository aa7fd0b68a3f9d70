"""The images: made of the locks and of what the builder is sent, on one system, with one Python."""

import re
from pathlib import Path

import pytest
import yaml

from hydra_ray.commands.doctor.memory import LEAST_DRIVERS

ROOT = Path(__file__).parents[2]
IMAGES = ("Dockerfile.cpu", "Dockerfile.cuda")
LOCKS = {"Dockerfile.cpu": ["torch-cpu.txt", "build.txt", "cpu.txt"], "Dockerfile.cuda": ["build.txt", "gpu.txt"]}


def dockerfile(name: str) -> str:
    """An image's instructions, one a line, without comments."""
    text = (ROOT / "cluster" / name).read_text()
    return re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")


def instructions(name: str, kind: str) -> list[str]:
    return [line.removeprefix(f"{kind} ") for line in dockerfile(name).splitlines() if line.startswith(f"{kind} ")]


def locked_version(package: str) -> str:
    found = re.search(rf"^{package}==([^ \\]+)", (ROOT / "requirements" / "cpu.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


def test_clusters_name_the_locks_ray():
    manifests = [
        yaml.safe_load((ROOT / "cluster" / "kuberay" / f"{name}.yaml").read_text()) for name in ("raycluster", "rayjob")
    ]
    specs = [each["spec"].get("rayClusterSpec", each["spec"]) for each in manifests]
    assert {spec["rayVersion"] for spec in specs} == {locked_version("ray")}
    assert f"v('ray') == '{locked_version('ray')}'" in (ROOT / "ray_cluster.yaml").read_text()


@pytest.mark.parametrize("name", IMAGES)
def test_image_copies_only_what_is_here_and_sent(name: str):
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [line.split()[:-1] for line in instructions(name, "COPY") if not line.startswith("--from=")]
    for source in (source for sources in copied for source in sources):
        assert (ROOT / source).exists()
        assert source.split("/")[0] in sent


@pytest.mark.parametrize("name", IMAGES)
def test_image_installs_the_locks_by_hash_and_nothing_else(name: str):
    installed = re.findall(r"pip install (.*?)(?= &&|$)", "\n".join(instructions(name, "RUN")), re.MULTILINE)
    *locks, package = [each.split() for each in installed]
    assert [each[-1] for each in locks] == [f"requirements/{lock}" for lock in LOCKS[name]]
    assert all({"--no-deps", "--require-hashes", "-r"} <= set(each) for each in locks)
    assert package == ["--no-cache-dir", "--no-deps", "--no-build-isolation", "-e", "."]


def test_cpu_image_takes_torch_from_an_index_that_can_be_named():
    assert "TORCH_INDEX=https://download.pytorch.org/whl/cpu" in instructions("Dockerfile.cpu", "ARG")
    assert "--index-url $TORCH_INDEX -r requirements/torch-cpu.txt" in dockerfile("Dockerfile.cpu")


def test_images_have_one_system_and_one_python():
    cpu, cuda = (instructions(name, "FROM")[-1] for name in IMAGES)
    assert re.fullmatch(r"ubuntu:jammy-\d{8}(\.\d+)?", cpu)
    assert re.fullmatch(r"nvidia/cuda:13\.\d+\.\d+-devel-ubuntu22\.04", cuda)
    pythons = [re.findall(r"uv python .*|PYTHON_VERSION=.*|.*uv:.*", dockerfile(name)) for name in IMAGES]
    assert pythons[0] == pythons[1]
    assert "PYTHON_VERSION=3.11." in dockerfile(IMAGES[0])
    assert not re.search(r"apt-get install[^&]*python|ppa:", "".join(map(dockerfile, IMAGES)))


def test_images_have_the_uv_of_make_lock():
    uv = re.search(r"^UV_VERSION := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert uv
    assert {instructions(name, "FROM")[0] for name in IMAGES} == {f"ghcr.io/astral-sh/uv:{uv[1]} AS uv"}


@pytest.mark.parametrize("name", IMAGES)
def test_image_tells_how_its_base_is_held_to_the_byte(name: str):
    assert f"docker buildx imagetools inspect {instructions(name, 'FROM')[-1]}" in (ROOT / "cluster" / name).read_text()


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("package", ["ca-certificates", "g++", "git", "libnuma1", "rsync", "wget"])
def test_image_has_the_systems_packages(name: str, package: str):
    (installed,) = re.findall(r"apt-get install [^&]*", dockerfile(name))
    assert package in installed.split()


@pytest.mark.parametrize("name", IMAGES)
def test_login_shells_find_the_environment(name: str):
    assert "ENV PATH=/opt/venv/bin:$PATH" in dockerfile(name)
    assert "echo 'export PATH=/opt/venv/bin:$PATH' > /etc/profile.d/hydra_ray.sh" in dockerfile(name)


@pytest.mark.parametrize("name", IMAGES)
def test_image_runs_as_a_user_who_is_surely_not_root(name: str):
    assert instructions(name, "USER") == ["1000:100"]
    assert "useradd --create-home --uid 1000 --gid users ray" in dockerfile(name)


@pytest.mark.parametrize("name", IMAGES)
def test_nodes_may_fetch_models(name: str):
    assert "OFFLINE" not in dockerfile(name)


def test_cuda_image_names_the_least_driver_of_its_cuda():
    cuda = int(re.findall(r"nvidia/cuda:(\d+)", dockerfile("Dockerfile.cuda"))[0])
    text = (ROOT / "cluster" / "Dockerfile.cuda").read_text()
    assert f"NVIDIA driver of version {LEAST_DRIVERS[cuda]} or newer" in text


def test_cpu_image_has_what_the_head_starts_workers_with():
    (installed,) = re.findall(r"apt-get install [^&]*", dockerfile("Dockerfile.cpu"))
    assert {"openssh-client", "rsync"} <= set(installed.split())
    assert locked_version("boto3")
