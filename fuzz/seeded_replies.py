"""Seeded mutations of endpoints' replies through the whole border: read, stored, found again and parsed.

`python fuzz/seeded_replies.py --mutations 20000` prints how many became answers, failed rows or findings; status 1
where there is a finding. The same seeds make the same replies.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path


def main() -> int:
    """Run the mutations and print their counts."""
    here = Path(__file__).parent
    sys.path[:0] = [str(here), str(here.parent / "tests")]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=20_000)
    counts = outcomes(range(parser.parse_args().mutations))
    print(
        f"replies: {sum(counts.values())} mutations, {', '.join(f'{number} {name}' for name, number in counts.items())}"
    )
    return int(any(name.startswith("CRASHED") for name in counts))


def outcomes(seeds: Iterable[int]) -> Counter[str]:
    """Return how many mutations ended in which way."""
    from fuzz_targets import TARGETS
    from reply_bodies import mutated

    from hydra_ray.errors import HydraError

    counts = Counter[str]()
    for seed in seeds:
        try:
            TARGETS["replies"](mutated(seed))
            counts["answered"] += 1
        except HydraError as error:
            counts[f"failed with {type(error).__name__}"] += 1
        except Exception as error:  # a finding, with the seed that shows it
            counts[f"CRASHED with {type(error).__name__} at seed {seed}"] += 1
    return counts


if __name__ == "__main__":
    sys.exit(main())
