"""Is it worth it? Every LaMP set that is there, cross-fitted over all of its users: HYDRA, its controls, its rivals.

    HYDRA_LAMP_DIR=FOLDER python benchmarks/quality.py [--root FOLDER] [--until STAGE] [SET ...]

Each user is new in exactly one of five folds. What the generator answered is kept below the root, so a run that was
stopped goes on where it was, and one with other heads asks nothing again.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from hydra_ray.config import STAGE_NAMES, RunConfig, load_config
from hydra_ray.pipeline import personalize

CONFIGS = Path(__file__).parent.parent / "jobs" / "configs"
SETS = {
    "LaMP_2N": ("lamp2n", ()),
    "LaMP_4": ("lamp4", ()),
    "movielens_rating": ("lamp3", ("run=movielens", "probes.num_pseudo_queries=5")),
    "LaMP_5": ("lamp5", ()),
    "LaMP_3": ("lamp3", ()),
}
"""The sets by their folder's name: the configuration, and what is different from it."""
NUM_FOLDS = 5


def main() -> int:
    """Run the sets."""
    parser = argparse.ArgumentParser(description="The quality benchmark")
    parser.add_argument("--root", default="outputs", help="storage.root of the runs")
    parser.add_argument("--until", default="report", choices=STAGE_NAMES)
    parser.add_argument("sets", nargs="*", default=list(SETS), metavar="SET")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in arguments.sets:
        personalize(set_config(name, arguments.root), arguments.until)
    return 0


def set_config(name: str, root: str, overrides: tuple[str, ...] = ()) -> RunConfig:
    """The cross-fitted run of one set."""
    config, own = SETS[name]
    common = (
        f"storage.root={Path(root).resolve()}",
        f"lamp.root={Path(os.environ['HYDRA_LAMP_DIR']).resolve() / name}",
        f"users.num_folds={NUM_FOLDS}",
    )
    return load_config(CONFIGS / f"{config}.yaml", [*common, *own, *overrides])


if __name__ == "__main__":
    sys.exit(main())
