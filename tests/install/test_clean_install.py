"""`make demo` in a clone, on a machine whose pip knows nothing but two package indices: one as PyPI, one as PyTorch's.

Their files are those of the lock, fetched once through this machine's own pip. The first index has a torch for CUDA, as
PyPI has; the CPU build is in the second alone. HYDRA_CLEAN_TEST=1 adds `make test` in the clone.
"""

import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from lock_files import REQUIREMENTS, ROOT
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename
from test_install_script import offer

pytestmark = pytest.mark.slow


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002, the base class has it
        pass


def project_of(file: str) -> str:
    """The canonical name of the project whose file it is."""
    return canonicalize_name((parse_wheel_filename if file.endswith(".whl") else parse_sdist_filename)(file)[0])


def add_to_index(index: Path, file: Path) -> None:
    """Add a file to a package index in a folder (PEP 503)."""
    folder = index / project_of(file.name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file.name).hardlink_to(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with (folder / "index.html").open("a") as page:
        page.write(f'<a href="{file.name.replace("+", "%2B")}#sha256={digest}">{file.name}</a>\n')


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the indices `pypi` and `torch`."""
    root = tmp_path_factory.mktemp("indices")
    files = root / "files"
    locks = [word for lock in ("build.txt", "cpu.txt") for word in ("-r", str(REQUIREMENTS / lock))]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-build-isolation"]
    subprocess.run([*command, "--quiet", "--dest", files, *locks], env={**os.environ, "DS_BUILD_OPS": "0"}, check=True)
    offer(root / "pypi", "2.13.0")
    for file in files.iterdir():
        add_to_index(root / ("torch" if project_of(file.name) == "torch" else "pypi"), file)
    handler = functools.partial(_Silent, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_clone_installs_and_runs_the_demo_with_nothing_of_this_machines_pip(server: str, tmp_path: Path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": f"{server}/pypi",
        "TORCH_INDEX": f"{server}/torch",
    }
    targets = ["demo", *(["test"] if os.environ.get("HYDRA_CLEAN_TEST") == "1" else [])]
    for target in targets:
        subprocess.run(["make", target], cwd=clone, env=environment, check=True)
    assert (clone / "outputs" / "runs" / "demo" / "report.html").stat().st_size > 0
    versions = "import torch, vllm; print(torch.__version__, torch.version.cuda)"
    said = subprocess.run(
        [clone / ".venv/bin/python", "-c", versions], env=environment, check=True, capture_output=True
    )
    assert said.stdout.decode().split() == ["2.13.0+cpu", "None"]
    shutil.rmtree(clone)
