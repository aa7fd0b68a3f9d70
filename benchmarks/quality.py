"""Quality benchmark: every available LaMP set, cross-fitted over all of its users: HYDRA, its controls, its rivals.

    HYDRA_LAMP_DIR=FOLDER python benchmarks/quality.py [SET ...] [--root FOLDER] [--until STAGE]
        [--paper [SET ...]] [--planted [SAMPLE ...]] [--curves [SET ...]]

Each user is new in exactly one of five folds. HYDRA's own configuration of each set runs first, then the planted sample
that a bar depends on, then the published method on the same users and the same generator, and last the other planted
samples. The generator's answers are stored below the root, so a stopped run resumes, and one with other heads asks
nothing again.
Writes QUALITY.md, again after each run that adds to it; exit status 1 if a bar is failed.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bars import Bar, SetRuns, judge_bars
from quality_page import Curves, bar_lines, quality_page

from hydra_ray.config import RunConfig, check_config, load_config
from hydra_ray.errors import HydraError
from hydra_ray.evaluate.metrics_file import read_report
from hydra_ray.evaluate.phrases import Report
from hydra_ray.stages import STAGE_NAMES
from hydra_ray.stages.run import personalize

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "jobs" / "configs"
SETS = {
    "LaMP_2N": ("lamp2n", ()),
    "LaMP_4": ("lamp4", ()),
    "movielens_rating": (
        "lamp3",
        (
            "run=movielens",
            "probes={num_records: 5, num_pseudo_queries: 5}",
            "drafts.num_probes=5",
            "drafts.num_pseudo_queries=3",
        ),
    ),
    "LaMP_5": ("lamp5", ()),
    "LaMP_3": ("lamp3", ()),
}
"""Sets by the name of their folder: configuration, and overrides."""
NUM_FOLDS = 5
PLACEMENT = {
    "generator_actors": 2,
    "generator_cpus": 0.5,
    "generator_threads": 1,
    "generator_kv_cache_gigabytes": 2,
    "max_concurrent_sequences": 64,
    "encoder_actors": 2,
    "encoder_threads": 1,
}
"""Placement for two cores: a copy with one thread for each is faster than one with two (benchmarks/generate.py --copies
2).
"""
CURVES: Mapping[str, Sequence[int]] = {
    "users.num_folds": (2, 3, 5),
    "drafts.num_records": (1, 2, 4),
    "probes.num_records": (4, 5, 10),
    "drafts.num_samples": (2, 4, 8),
}
"""Settings of the learning curves, and their values. The number of folds sets how many users a head is trained on, all
but one fold's, while the evaluated users stay the same.
"""
PLANTED: Mapping[str, Sequence[str]] = {
    "unseen": ("lamp.planted.seed=1", "lamp.planted.num_new_users=240"),
    "80-10": (),
    "40-10": ("lamp.planted.num_train_users=40",),
    "20-10": ("lamp.planted.num_train_users=20",),
    "40-5": (
        "lamp.planted.num_train_users=40",
        "lamp.planted.num_records=5",
        "probes.num_pseudo_queries=3",
        "drafts.num_pseudo_queries=3",
    ),
    "40-15": (
        "lamp.planted.num_train_users=40",
        "lamp.planted.num_records=15",
        "probes.num_pseudo_queries=11",
        "drafts.num_pseudo_queries=11",
    ),
}
"""Planted samples, each by its overrides of planted.yaml. All but the first have the same new users."""
DECIDING = "unseen"
"""The only sample that a bar depends on: its users were never seen when the settings were chosen."""


def main() -> int:
    """Run everything, write the page, print the bars."""
    arguments = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    start = time.monotonic()
    try:
        is_good = measure(arguments)
    except HydraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{time.monotonic() - start:.0f} s in all")
    return 0 if is_good else 1


def parse() -> argparse.Namespace:
    """Parse the command line; a folder of sets is required."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="outputs", help="storage.root of the runs")
    parser.add_argument("--until", default="report", choices=STAGE_NAMES, help="last stage; before report, no page")
    parser.add_argument("--page", default=str(HERE / "QUALITY.md"), help="where the page is written")
    parser.add_argument(
        "--paper", nargs="*", choices=SETS, default=list(SETS), metavar="SET", help="sets with the published method too"
    )
    parser.add_argument(
        "--planted",
        nargs="*",
        choices=PLANTED,
        default=list(PLANTED),
        metavar="SAMPLE",
        help="planted samples",
    )
    parser.add_argument(
        "--curves", nargs="*", choices=SETS, metavar="SET", help="sets to run with other settings too; takes hours"
    )
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}; all by default")
    arguments = parser.parse_args()
    arguments.sets = arguments.sets or list(SETS)
    # None without the option, and empty if it names no set.
    arguments.curves = [] if arguments.curves is None else arguments.curves or arguments.sets
    unknown = set(arguments.sets) - set(SETS)
    if unknown:
        parser.error(f"got the sets {sorted(unknown)}; expected some of {', '.join(SETS)}")
    if "HYDRA_LAMP_DIR" not in os.environ:
        parser.error(
            f"set HYDRA_LAMP_DIR to the folder that holds the sets {', '.join(SETS)}, each with train_questions.json, "
            "train_outputs.json, dev_questions.json and dev_outputs.json"
        )
    return arguments


def measure(arguments: argparse.Namespace) -> bool:
    """Return whether all bars are passed; true if the runs end before there is anything to evaluate."""
    root, until = arguments.root, arguments.until
    configs = {name: (set_config(name, root), paper_config(name, root)) for name in arguments.sets}
    planted = dict(zip(arguments.planted, planted_configs(root, arguments.planted), strict=True))
    owns = [own for own, _ in configs.values()]
    papers = [paper for name, (_, paper) in configs.items() if name in arguments.paper]
    # The sample that a bar depends on runs before those that only illustrate: a benchmark that is stopped early has the
    # most important results.
    deciding = [config for name, config in planted.items() if name == DECIDING]
    others = [config for name, config in planted.items() if name != DECIDING]
    later = [*deciding, *papers, *others]
    if until != "report":
        for config in [*owns, *later]:
            personalize(config, until)
        return True
    reports = {config.run: finish(config) for config in owns}

    def write_page(curves: Curves) -> list[Bar]:
        """Write the page of the runs so far."""
        sets = [
            SetRuns(name=name, default=reports[own.run], paper=reports.get(paper.run))
            for name, (own, paper) in configs.items()
        ]
        samples = {name: reports[config.run] for name, config in planted.items() if config.run in reports}
        bars = judge_bars(sets, samples.get(DECIDING))
        Path(arguments.page).write_text(quality_page(sets, bars, samples, curves), encoding="utf-8")
        return bars

    bars = write_page({})
    for config in later:
        reports[config.run] = finish(config)
        bars = write_page({})
    curves: dict[str, Mapping[str, Sequence[Report]]] = {}
    for name, by_setting in curve_runs(arguments.curves, root):
        curves[name] = by_setting
        write_page(curves)
    print("\n".join([*bar_lines(bars), f"page: {arguments.page}"]))
    return all(bar.is_passed for bar in bars)


def finish(config: RunConfig) -> Report:
    """Run to the end, print the seconds of each stage, and return the report."""
    start = time.monotonic()
    report = read_report(personalize(config).run_folder)
    stages = ", ".join(f"{stage['name']} {stage['seconds']:.1f}" for stage in report["stages"])
    print(f"{config.run}: {time.monotonic() - start:.1f} s now; seconds by stage: {stages}", flush=True)
    return report


def set_config(name: str, root: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the cross-fitted run of one set."""
    config, own = SETS[name]
    common = (
        f"storage.root={Path(root).resolve()}",
        f"lamp.root={Path(os.environ['HYDRA_LAMP_DIR']).resolve() / name}",
        f"users.num_folds={NUM_FOLDS}",
        *placement(),
    )
    return load_config(CONFIGS / f"{config}.yaml", [*common, *own, *overrides])


def paper_config(name: str, root: str) -> RunConfig:
    """Return the published method on the same users, folds, generator and probes, so that both learn from equal
    evidence and no request is repeated; paper.yaml itself has the published N = M = 10.
    """
    own = set_config(name, root)
    shared = own.model_dump(
        include={"storage", "lamp", "users", "generator", "retrieve", "probes", "report", "placement"}
    )
    published = load_config(CONFIGS / "paper.yaml").model_dump()
    published["drafts"]["num_pseudo_queries"] = own.drafts.num_pseudo_queries
    return check_config({**published, **shared, "run": f"{own.run}-paper"}, source="benchmarks/quality.py")


def planted_configs(root: str, names: Sequence[str]) -> list[RunConfig]:
    """Return planted.yaml with the overrides PLANTED of each sample."""
    common = (f"storage.root={Path(root).resolve()}", *placement())
    return [load_config(CONFIGS / "planted.yaml", [*common, f"run=planted-{name}", *PLANTED[name]]) for name in names]


def placement() -> list[str]:
    """Return PLACEMENT as overrides."""
    return [f"placement.{name}={value}" for name, value in PLACEMENT.items()]


def curve_runs(names: Sequence[str], root: str) -> Iterator[tuple[str, Mapping[str, Sequence[Report]]]]:
    """Yield by set and setting the reports of runs that differ in this setting only."""
    for name in names:
        configs = {setting: curve_configs(name, root, setting) for setting in CURVES}
        yield name, {setting: [finish(config) for config in configs[setting]] for setting in CURVES}


def curve_configs(name: str, root: str, setting: str) -> list[RunConfig]:
    """Return a set's own configuration with each value of a setting."""
    run = set_config(name, root).run
    return [set_config(name, root, (f"run={run}-{setting}-{value}", f"{setting}={value}")) for value in CURVES[setting]]


if __name__ == "__main__":
    sys.exit(main())
