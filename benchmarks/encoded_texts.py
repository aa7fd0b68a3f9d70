"""How often the same text is encoded again, and what share of all encoding a store of vectors would save.

    PYTHONPATH=tests python benchmarks/encoded_texts.py FOLDER_OF_LAMP_SETS FOLDER_OF_JESTER [--users 60]

Each set takes the whole path in this process, with the fake generator (jokes without any) and with an encoder that
counts and draws its vectors by hash: so what is counted is what a run asks its encoder for, after repeats within one
call, which are encoded once already. Then an update comes in which every third user has one more record (not of
preferences), and a run that differs in the number of samples, as a trial of a sweep does. A text is a repeat if the
same encoder had it before with the same limit of tokens, alone or in the same pair. Shares are of tokens, pairs
included: these are what most encoding is spent on, and no text of theirs has a vector of its own.
"""

import argparse
import gzip
import json
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pytest
import torch

import hydra_ray.stages.run
from hydra_ray.commands.update import update_run
from hydra_ray.config import RunConfig, load_config
from hydra_ray.engine import parts
from hydra_ray.rows import User, arrow_schema, from_table
from hydra_ray.storage import read_part

CONFIGS = Path(__file__).parent.parent / "jobs" / "configs"
WIDTH = 384
ALONE = "alone"
TOKENS_A_WORD = 1.3
WHENCE = ("new", "bucket", "run", "root", "pairs")
"""Where a text was encoded before: nowhere; for the same bucket; else in the same run; else below the root. Pairs are
told apart, new or not."""


@dataclass(slots=True)
class Counting:
    """Tokens that were encoded, by run, stage and whence."""

    run: str = ""
    stage: str = ""
    bucket: int | None = None
    tokens: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    texts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    before: dict[Any, set[tuple[str, int | None]]] = field(default_factory=dict)
    """Runs and buckets that each text was encoded for."""
    repeated_pairs: Counter[str] = field(default_factory=Counter)

    def pool(
        self, encoder: Any, tokenizer: Any, texts: Sequence[str], second: Any, limit: int, lower: Any = None
    ) -> torch.Tensor:
        """Count, and return a unit vector for each text or pair."""
        del encoder, tokenizer, lower
        whole = list(zip(texts, second or [None] * len(texts), strict=True))
        for each in whole:
            key = (*each, limit)
            before = self.before.setdefault(key, set())
            num = min(sum(TOKENS_A_WORD * len(text.split()) for text in each if text is not None) + 2, limit)
            if each[1] is not None:
                whence = "pairs"
                self.repeated_pairs[self.run] += round(num) if before else 0
            elif not before:
                whence = "new"
            elif (self.run, self.bucket) in before:
                whence = "bucket"
            else:
                whence = "run" if any(run == self.run for run, _ in before) else "root"
            before.add((self.run, self.bucket))
            self.tokens[self.run, self.stage, whence] += round(num)
            self.texts[self.run, self.stage, whence] += 1
        if not whole:
            return torch.zeros(0, WIDTH)
        drawn = np.stack([np.random.default_rng(abs(hash(each))).standard_normal(WIDTH) for each in whole])
        return torch.nn.functional.normalize(torch.tensor(drawn, dtype=torch.float32), dim=-1)


@contextmanager
def counted(counting: Counting) -> Iterator[None]:
    """Let this process take the place of Ray and of the encoder."""
    complete, commit = hydra_ray.stages.run.complete_together, parts.commit_row

    def completing(stages: Any, work: Any) -> None:
        counting.stage = ", ".join(stage.name for stage in stages)
        complete(stages, work)

    def committing(row: Any, folder: str, work: Any) -> Any:
        counting.bucket = int(row["bucket"])
        try:
            return commit(row, folder, work)
        finally:
            counting.bucket = None

    with pytest.MonkeyPatch.context() as patch:
        in_process.install(patch)
        patch.setattr(hydra_ray.stages.run, "complete_together", completing)
        for module in ("engine.parts", "engine.generation"):
            patch.setattr(f"hydra_ray.{module}.commit_row", committing)
        for module in ("encoder", "model"):
            patch.setattr(f"hydra_ray.scorer.base.{module}.pool", counting.pool)
        yield


def config_of(name: str, folder: Path, sets: Path, jester: Path, num_users: int) -> RunConfig:
    """Return a set's shipped configuration on some of its users, with the fake generator."""
    fake = ["generator.engine=fake", "generator.max_failed_fraction=1.0", f"storage.root={folder / 'root'}"]
    users = ["users.num_buckets=4", "users.num_folds=5", "report.num_resamples=100"]
    own = folder / "users.jsonl"
    if name.startswith("jester"):
        rows = rows_of([jester / f"{name}_train.jsonl.gz", jester / f"{name}_dev.jsonl.gz"], num_users)
        own.write_text("\n".join(map(json.dumps, rows)))
        shipped = "preferences" if "pairs" in name else "records"
        return load_config(CONFIGS / f"{shipped}.yaml", [fake[-1], users[0], users[2], f"lamp.users_files=[{own}]"])
    shipped = {"LaMP_2N": "lamp2n", "LaMP_3": "lamp3", "LaMP_5": "lamp5"}[name]
    return load_config(CONFIGS / f"{shipped}.yaml", [f"lamp.root={sets / name}", *fake, *users])


def rows_of(paths: Sequence[Path], num_users: int) -> list[dict[str, Any]]:
    """Return as many users of each file."""
    found: list[dict[str, Any]] = []
    for path in paths:
        with gzip.open(path, "rt") as file:
            found += [json.loads(line) for _, line in zip(range(num_users), file, strict=False)]
    return found


def handed_in(plan: Any, folder: Path) -> str:
    """Write every third user with one more record; return the file."""
    rows: list[dict[str, Any]] = []
    for bucket in plan.users.buckets:
        for user in from_table(read_part(plan.users.part("users", bucket), arrow_schema(User)), User):
            if user.history:
                newest = user.history[-1]
                rows.append(
                    {
                        "user_id": user.user_id,
                        "is_new": True,
                        "history": [{"input": f"{newest.input} again", "output": newest.output}],
                        "queries": [{"input": query.input} for query in user.queries],
                    }
                )
    path = folder / "monday.jsonl"
    path.write_text("\n".join(map(json.dumps, rows[::3])))
    return str(path)


def tell(name: str, counting: Counting) -> None:
    """Print what was encoded in each run, by stage, and what of it had been encoded before."""
    print(f"\n{name}")
    for run in dict.fromkeys(run for run, _, _ in counting.tokens):
        total = sum(num for (own, _, _), num in counting.tokens.items() if own == run)
        shares = {
            whence: sum(num for (own, _, each), num in counting.tokens.items() if (own, each) == (run, whence))
            for whence in WHENCE
        }
        told = ", ".join(f"{whence} {num / total:.1%}" for whence, num in shares.items())
        print(f"  {run}: {total:,} tokens: {told}; pairs again {counting.repeated_pairs[run] / total:.1%}")
        for stage in dict.fromkeys(stage for own, stage, _ in counting.tokens if own == run):
            cells = [
                f"{whence} {counting.texts[run, stage, whence]:,} ({counting.tokens[run, stage, whence] / total:.1%})"
                for whence in WHENCE
                if counting.texts[run, stage, whence]
            ]
            print(f"    {stage:20} {', '.join(cells)}")


def main() -> int:
    """Count each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, help="folder of LaMP's sets")
    parser.add_argument("jester", type=Path, help="folder of ratings and pairs of jokes")
    parser.add_argument("--names", nargs="+", default=["LaMP_2N", "LaMP_3", "jester_pairs"])
    parser.add_argument("--users", type=int, default=60, help="users of each file of jokes")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    for name in arguments.names:
        counting = Counting()
        with tempfile.TemporaryDirectory(prefix="hydra_ray-encoded-") as place, counted(counting):
            folder = Path(place)
            config = config_of(name, folder, arguments.sets, arguments.jester, arguments.users)
            counting.run = "run"
            plan = hydra_ray.stages.run.personalize(config)
            if plan.task.kind != "preference":
                counting.run = "update"
                update_run(plan.run_folder, [handed_in(plan, folder)])
            if config.has_scorers:
                counting.run = "trial"
                changed: Mapping[str, Any] = {"num_samples": config.drafts.num_samples // 2}
                trial = config.model_copy(update={"run": "trial", "drafts": config.drafts.model_copy(update=changed)})
                hydra_ray.stages.run.personalize(trial)
        tell(name, counting)
    return 0


if __name__ == "__main__":
    sys.exit(main())
