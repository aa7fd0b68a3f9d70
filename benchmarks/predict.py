"""Answers to queries alone: the CPU time that `hydra-ray predict` takes a query, beside the generator and the encoder.

    python benchmarks/predict.py [--users 4000] [--generated 1000]

Users of a finished run ask one query each: first a tenth of them, then all. CPU seconds are those of all processes;
what the others add, by the number of others, is what a query takes. The fake generator answers at once and the encoder
has no layers, so that their passes are next to nothing; what they take is counted. A call before the first, on which
Ray's workers start, is not. Two runs are asked: one without a generator, and one that retrieves, drafts and chooses.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import Figure, TreeClock, tell
from scaling import config_of
from update import Days

from hydra_ray.commands.predict import predict_files
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.run import personalize
from hydra_ray.stages.tables import read_users

MAX_MILLISECONDS = 2.0


def main() -> int:
    """Print what a query takes; exit status 1 if it is more than it may be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=4000, help="of the run without a generator")
    parser.add_argument("--generated", type=int, default=1000, help="of the run with one")
    given = parser.parse_args()
    return tell(figures(given))


def figures(given: argparse.Namespace) -> Iterator[Figure]:
    """Finish both runs and ask them; yield what a query takes."""
    with tempfile.TemporaryDirectory(prefix="hydra_ray-predict-") as folder:
        days = Days(Path(folder), argparse.Namespace(users=given.users, records=10))
        yield _figure("predict, without a generator", personalize(days.config()), Path(folder))
    with tempfile.TemporaryDirectory(prefix="hydra_ray-predict-") as folder:
        plan = personalize(config_of(Path(folder), given.generated))
        yield _figure("predict, 3 samples and 4 records in a prompt, fake generator", plan, Path(folder))


def _figure(part: str, plan: Plan, folder: Path) -> Figure:
    users = [user for bucket in plan.users.buckets for user in read_users(plan, bucket)]
    texts = [record.input for user in users for record in user.history[:1]]
    asked = list(zip([user.user_id for user in users], texts, strict=True))
    few = asked[: len(asked) // 10]
    _seconds(plan, folder, "warm", few)
    seconds = [_seconds(plan, folder, name, rows) for name, rows in (("few", few), ("all", asked))]
    return Figure(
        part=part,
        against="CPU time of a query",
        value=(seconds[1] - seconds[0]) / (len(asked) - len(few)) * 1e3,
        unit="ms",
        bound="at most",
        bar=MAX_MILLISECONDS,
        detail=f"{len(few):,} queries in {seconds[0]:.1f} CPU s, {len(asked):,} in {seconds[1]:.1f}",
    )


def _seconds(plan: Plan, folder: Path, name: str, asked: Sequence[tuple[str, str]]) -> float:
    """Return the CPU seconds of answering one query of each user; texts differ from those of other calls."""
    file = folder / f"{name}.jsonl"
    file.write_text("\n".join(json.dumps({"user_id": each, "input": f"{text} ({name})"}) for each, text in asked))
    with TreeClock() as clock:
        predict_files(plan.run_folder, [str(file)], str(folder / f"{name}.parquet"))
    return clock.seconds


if __name__ == "__main__":
    sys.exit(main())
