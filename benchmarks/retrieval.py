"""Ranking of a user's records by BM25 against bm25s and rank_bm25 with one index a user: the same words.

    python benchmarks/retrieval.py [--root FOLDER --task LaMP_5] [--records 190] [--queries 11]

Without --root the texts are those of planted users. All sides get words that are found already, build an index of the
records and score every query; each rival and ours take turns in one process, and CPU seconds count. rank_bm25 gives the
same scores; bm25s has another variant of BM25, by NumPy. It is left out where it is not installed: pip install
'hydra_ray[bench]'.
"""

import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from harness import Figure, alternate, cpu_timed, parser_of, tell
from rank_bm25 import BM25Okapi

from hydra_ray.config import PlantedConfig, RetrieveConfig
from hydra_ray.lamp.lamp_files import Sample, read_samples
from hydra_ray.lamp.planted import write_planted
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.lamp.word_overlap import words
from hydra_ray.retrieve.bm25 import BM25
from hydra_ray.retrieve.dense import indexed_text

REPETITIONS = 10
"""Indices that a side builds in a round."""


def main() -> int:
    """Compare and print; exit status 1 if a ratio is below its bar."""
    parser = parser_of(__doc__)
    parser.add_argument("--root", help="folder of LaMP files; planted users without it")
    parser.add_argument("--task", default="LaMP_5", choices=TASKS)
    parser.add_argument("--records", type=int, default=190)
    parser.add_argument("--queries", type=int, default=11)
    arguments = parser.parse_args()
    texts = texts_of(arguments.root, arguments.task, arguments.records + arguments.queries)
    for text in texts:
        words(text)  # cached
    records, queries = texts[: arguments.records], texts[arguments.records :]
    task = arguments.task if arguments.root else "planted users"
    return tell(figures(records, queries, task, arguments.rounds))


def figures(records: Sequence[str], queries: Sequence[str], task: str, num_rounds: int) -> Iterator[Figure]:
    """Yield the ratio to each rival."""

    def ours() -> np.ndarray:
        return BM25(records, RetrieveConfig()).scores(queries)

    rivals: dict[str, tuple[Callable[[], np.ndarray], float]] = {"rank_bm25": (_rank_bm25(records, queries), 6.0)}
    assert np.allclose(ours(), rivals["rank_bm25"][0]())
    try:
        rivals["bm25s"] = _bm25s(importlib.import_module("bm25s"), records, queries), 3.0
    except ModuleNotFoundError:
        print("bm25s is not installed; this row is left out", file=sys.stderr)
    for name, (theirs, bar) in rivals.items():
        measured = alternate(_repeated(theirs), _repeated(ours), num_rounds)
        rival, own = (seconds / REPETITIONS * 1e3 for seconds in measured.seconds)
        yield Figure(
            part=f"retrieval, {len(records)} records x {len(queries)} queries, {task}",
            against=f"{name}, one index a user",
            value=measured.ratio,
            bar=bar,
            rounds=measured.ratios,
            detail=f"{mean(len(words(text)) for text in records):.0f} words a record, {name} {rival:.2f} ms, "
            f"ours {own:.2f} ms",
        )


def _repeated(side: Callable[[], np.ndarray]) -> Callable[[], float]:
    return cpu_timed(lambda: [side() for _ in range(REPETITIONS)])


def _rank_bm25(records: Sequence[str], queries: Sequence[str]) -> Callable[[], np.ndarray]:
    def scores() -> np.ndarray:
        index = BM25Okapi([words(text) for text in records])
        return np.array([index.get_scores(words(query)) for query in queries])

    return scores


def _bm25s(bm25s: Any, records: Sequence[str], queries: Sequence[str]) -> Callable[[], np.ndarray]:
    def scores() -> np.ndarray:
        index = bm25s.BM25()
        index.index([list(words(text)) for text in records], show_progress=False)
        return np.array([index.get_scores(list(words(query))) for query in queries])

    return scores


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


if __name__ == "__main__":
    sys.exit(main())
