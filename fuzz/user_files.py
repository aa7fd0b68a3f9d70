"""Mutated files of users in every format: nothing but a HydraError comes of them, and no text of a user is told.

    python fuzz/user_files.py [--mutations 20000] [--seed 0]

Exit status 1 where another exception came, or a message held a text.
"""

import argparse
import random
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / name) for name in ("lamp", "")]

from file_mutations import MARK, SEEDS, mutated, told_of  # noqa: E402
from fuzz_targets import TAGS  # noqa: E402


def main() -> int:
    """Mutate each format's file in turn and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=20_000, help="of all formats together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="user-files-fuzz-") as folder:
        for name, content in SEEDS.items():
            counts = _fuzz(Path(folder), name, content, arguments.mutations // len(SEEDS), arguments.seed)
            print(f"{name}: {_text(counts)}", flush=True)
            total += counts
    print(f"all: {total.total()} mutations: {_text(total)}")
    return int(bool(total["crash"] or total["told a text"]))


def _fuzz(folder: Path, name: str, content: bytes, num_mutations: int, seed: int) -> Counter[str]:
    chance = random.Random(f"{seed}:{name}")
    counts: Counter[str] = Counter()
    for _ in range(num_mutations):
        changed = mutated(content, chance)
        try:
            outcome, messages = told_of(TAGS, folder, name, changed)
        except Exception:
            outcome, messages = "crash", []
            traceback.print_exc()
        counts[outcome] += 1
        counts["told a text"] += any(MARK in message for message in messages)
    return counts


def _text(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[name]} {name}" for name in ("accepted", "rejected", "error", "crash", "told a text"))


if __name__ == "__main__":
    sys.exit(main())
