"""Ranking of a user's records by BM25 against rank_bm25 with one index a user: the same words, the same scores.

    python benchmarks/retrieval.py [--root FOLDER --task LaMP_5] [--records 190] [--queries 11]

Without --root the texts are those of planted users. Both sides get words that are found already, build an index of the
records and score every query; they alternate in one process. The bar is 6 times.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rank_bm25 import BM25Okapi

from hydra_ray.config import PlantedConfig, RetrieveConfig
from hydra_ray.lamp.lamp_files import Sample, read_samples
from hydra_ray.lamp.planted import write_planted
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.lamp.word_overlap import words
from hydra_ray.retrieve.bm25 import BM25
from hydra_ray.retrieve.dense import indexed_text

MIN_RATIO = 6.0


def main() -> int:
    """Alternate the sides and print the ratio of their medians; exit status 1 if it is below the bar."""
    parser = argparse.ArgumentParser(description="BM25 over a user's records")
    parser.add_argument("--root", help="folder of LaMP files; planted users without it")
    parser.add_argument("--task", default="LaMP_5", choices=TASKS)
    parser.add_argument("--records", type=int, default=190)
    parser.add_argument("--queries", type=int, default=11)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    texts = texts_of(arguments.root, arguments.task, arguments.records + arguments.queries)
    records, queries = texts[: arguments.records], texts[arguments.records :]
    for text in texts:
        words(text)  # cached

    def ours() -> np.ndarray:
        return BM25(records, RetrieveConfig()).scores(queries)

    def theirs() -> np.ndarray:
        index = BM25Okapi([words(text) for text in records])
        return np.array([index.get_scores(words(query)) for query in queries])

    assert np.allclose(ours(), theirs())
    pairs = [(seconds_of(theirs), seconds_of(ours)) for _ in range(arguments.rounds)]
    rival, own = (statistics.median(side) for side in zip(*pairs, strict=True))
    num_words = statistics.mean(len(words(text)) for text in records)
    print(
        f"{len(records)} records of {num_words:.0f} words x {len(queries)} queries: rank_bm25 {rival * 1e3:.1f} ms, "
        f"ours {own * 1e3:.1f} ms, ratio {rival / own:.1f} (at least {MIN_RATIO:g})"
    )
    return int(rival / own < MIN_RATIO)


def texts_of(root: str | None, task: str, number: int) -> Sequence[str]:
    """Return the indexed texts of the first records of a split's users."""
    with tempfile.TemporaryDirectory(prefix="hydra_ray-retrieval-") as folder:
        if root is None:
            write_planted(PlantedConfig(num_train_users=1, num_new_users=60), Path(folder))
        samples = read_samples(TASKS[task if root else "planted"], root or folder, "dev", is_new=True)
        users = [sample.user for sample in samples if isinstance(sample, Sample)]
    texts = [indexed_text(record) for user in users for record in user.history]
    if len(texts) < number:
        raise SystemExit(f"there are {len(texts)} records; {number} are needed")
    return texts[:number]


def seconds_of(side: Callable[[], object]) -> float:
    """Return the seconds that one call takes."""
    start = time.perf_counter()
    side()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
