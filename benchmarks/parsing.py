"""Growth of the time to parse an answer with its length and with the number of labels that it names.

    python benchmarks/parsing.py [--characters N] [--labels N]

Each line has the seconds at a size and at four times the size; where time is linear, their ratio is about 4.
"""

import argparse
import time
from collections.abc import Callable

from hydra_ray.config import Task
from hydra_ray.generate.label_search import search_of
from hydra_ray.generate.parsing import parse_answer
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Generation

PIECES = (
    "comedy ",
    "(",
    "1 ",
    "4-",
    '"',
    "```\n",
    "Title: ",
    "Answer: ```\n",
    "a:\n",
    "- a\n",
    "{",
    "e\u0301\u0323",
    "\u0301\u0323",
)
"""What answers are made of, over and over."""
GROWTH = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--characters", type=int, default=250_000)
    parser.add_argument("--labels", type=int, default=2_000)
    arguments = parser.parse_args()
    _print("labels named", arguments.labels, _labels_named)
    for name in ("LaMP_2M", "LaMP_3", "LaMP_4"):
        for piece in PIECES:
            _print(f"{name}, characters of {piece!r}", arguments.characters, _repeated(TASKS[name], piece))


def _print(what: str, size: int, make: Callable[[int], Callable[[], object]]) -> None:
    few, many = (_seconds(make(each)) for each in (size, GROWTH * size))
    print(f"{what}: {size} in {few:.4f} s, {GROWTH * size} in {many:.4f} s, ratio {many / few:.1f}", flush=True)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _labels_named(number: int) -> Callable[[], object]:
    labels = tuple(f"label {place} of many" for place in range(number))
    task = Task(name="many", kind="classification", instruction="?", labels=labels)
    search_of(labels)  # which is built once
    return lambda: _parse(task, ", ".join(labels))


def _repeated(task: Task, piece: str) -> Callable[[int], Callable[[], object]]:
    return lambda size: lambda: _parse(task, piece * (size // len(piece)))


def _parse(task: Task, text: str) -> object:
    return parse_answer(task, Generation(text=text, num_tokens=1, finish_reason="stop"))


if __name__ == "__main__":
    main()
