"""Resolve pyproject.toml's extras into cpu.txt and gpu.txt, and tell where the two differ. `make lock` runs it."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\\n]+)", re.MULTILINE)
# What `environments` of [tool.uv] in pyproject.toml says, and uv therefore writes behind every pin.
EVERYWHERE = "platform_machine == 'x86_64' and platform_python_implementation == 'CPython' and sys_platform == 'linux'"
EVERY_PYTHON = "python_full_version < '3.14'"
CPU = ["--extra=cpu", "--extra=serve", "--extra=demo", "--extra=dev", f"--overrides={HERE / 'overrides-cpu.txt'}"]
CPU += [f"--excludes={HERE / 'left-out-cpu.txt'}", "--no-emit-package=torch"]
GPU = ["--extra=gpu", "--extra=serve", "--extra=demo", f"--constraints={HERE / 'constraints-gpu.txt'}"]


def main() -> None:
    """Write the locks, in each the versions that it had wherever they still fit, and the same ones in both."""
    last_cpu, last_gpu = (pins((HERE / name).read_text()) for name in ("cpu.txt", "gpu.txt"))
    cpu = resolved([HERE.parent / "pyproject.toml", *CPU], prefer=last_cpu)
    gpu = resolved([HERE.parent / "pyproject.toml", *GPU], prefer=last_gpu | pins(cpu))
    # Of what only the GPU's packages are particular about, the CPU lock takes their version.
    cpu = resolved([HERE.parent / "pyproject.toml", *CPU], prefer=last_cpu | pins(cpu) | pins(gpu))
    build = resolved([HERE / "build.in"], prefer=pins(cpu))
    for name, text in {"cpu.txt": "-r torch-cpu.txt\n" + cpu, "gpu.txt": gpu, "build.txt": build}.items():
        (HERE / name).write_text(f"# Made by `make lock`.\n{text}")
    tell_differences(pins((HERE / "torch-cpu.txt").read_text()) | pins(cpu), pins(gpu))


def resolved(arguments: list[str | Path], prefer: dict[str, str]) -> str:
    """Return the pins with hashes that uv resolves for Python 3.11 to 3.13, at versions of `prefer` where these fit."""
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "lock.txt"
        lock.write_text("".join(f"{name}=={version}\n" for name, version in prefer.items()))
        command = [Path(sys.executable).with_name("uv"), "pip", "compile", *arguments, f"--output-file={lock}"]
        command += [f"--excludes={HERE / 'left-out.txt'}", "--universal", "--python-version=3.11", "--generate-hashes"]
        command += ["--no-header", "--annotation-style=line", "--quiet"]
        subprocess.run(command, check=True, cwd=HERE.parent)
        text = lock.read_text()
    for common in (f" ; {EVERY_PYTHON} and {EVERYWHERE}", f" and {EVERYWHERE}"):
        text = text.replace(common, "")
    return text


def pins(text: str) -> dict[str, str]:
    """Return the version of each package that a lock names."""
    return dict(PIN.findall(text))


def tell_differences(cpu: dict[str, str], gpu: dict[str, str]) -> None:
    """Print what is in one lock only, and what is in both at two versions."""
    print(
        f"cpu.txt has {len(cpu)} packages, gpu.txt has {len(gpu)}, of which {len(cpu.keys() & gpu.keys())} are in both"
    )
    for name in sorted(cpu.keys() | gpu.keys()):
        if cpu.get(name) != gpu.get(name):
            print(f"{name:40} cpu {cpu.get(name, '-'):20} gpu {gpu.get(name, '-')}")


if __name__ == "__main__":
    main()
