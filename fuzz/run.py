"""Fuzzing driver for `make fuzz SECONDS=600`: runs each target under Atheris in turn; status 1 where one crashed.

New inputs are kept in fuzz/corpus/<target>, crashing ones in fuzz/crashes.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CRASHES = HERE / "crashes"
MEGABYTES = 4096
"""Memory limit of a target."""
SECONDS_AN_INPUT = 30
"""Time limit per input; a longer one counts as a crash."""


def main() -> int:
    """Run the given targets, or all."""
    sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_this_process:
        _fuzz(arguments.targets[0], arguments.seconds)
    from fuzz_targets import TARGETS

    crashed = [name for name in arguments.targets or TARGETS if not _run(name, arguments.seconds)]
    print(f"crashed: {', '.join(crashed) or 'none'}")
    return int(bool(crashed))


def _run(name: str, seconds: int) -> bool:
    """Fuzz a target in a separate process, print its summary, and return whether it succeeded."""
    command = [sys.executable, str(HERE / "run.py"), name, "--seconds", str(seconds), "--in-this-process"]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    runs = re.findall(r"^Done (\d+) runs|^#(\d+)\s", ended.stderr, flags=re.MULTILINE)
    num_runs = "".join(runs[-1]) if runs else "0"
    found = sorted(path.name for path in CRASHES.glob(f"{name}-*"))
    print(
        f"{name}: {num_runs} runs, {'no crash' if ended.returncode == 0 else 'CRASHED'}, kept inputs {found}",
        flush=True,
    )
    if ended.returncode:
        print(ended.stderr[-4000:], flush=True)
    return ended.returncode == 0


def _fuzz(name: str, seconds: int) -> None:
    """Fuzz a target until the time is over or it crashes; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["hydra_ray"]):
        from fuzz_targets import CORPUS, run_target

    CRASHES.mkdir(exist_ok=True)
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={MEGABYTES}",
        f"-timeout={SECONDS_AN_INPUT}",
        f"-artifact_prefix={CRASHES / name}-",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda content: run_target(name, content))
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
