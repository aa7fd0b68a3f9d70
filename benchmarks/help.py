"""Seconds of `hydra-ray --help`, as somebody at a terminal waits for it.

python benchmarks/help.py
"""

import subprocess
import sys

from harness import Figure, alternate, parser_of, tell, timed


def main() -> int:
    """Measure in turn with the bare interpreter; exit status 1 above the bar."""
    arguments = parser_of(__doc__).parse_args()
    own, bare = ([sys.executable, *rest] for rest in (["-m", "hydra_ray.cli", "--help"], ["-c", ""]))

    def run(command: list[str]) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    run(own)  # bytecode
    measured = alternate(timed(lambda: run(own)), timed(lambda: run(bare)), arguments.rounds)
    seconds, start = measured.seconds
    figure = Figure(
        part="`hydra-ray --help`",
        against="-",
        value=seconds,
        unit="s",
        bound="at most",
        bar=0.3,
        rounds=measured.first,
        detail=f"of which Python starts for {start:.2f} s",
    )
    return tell([figure])


if __name__ == "__main__":
    sys.exit(main())
