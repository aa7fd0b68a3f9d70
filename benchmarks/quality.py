"""Quality benchmark: every available LaMP set, cross-fitted over all of its users: HYDRA, its controls, its rivals.

    HYDRA_LAMP_DIR=FOLDER [HYDRA_JESTER_DIR=FOLDER] python benchmarks/quality.py [SET ...] [--root FOLDER]
        [--own-heads [DATA ...]] [--published [SET ...]] [--planted [SAMPLE ...]] [--curves [SET ...]] [--until STAGE]
    python benchmarks/quality.py --page
    python benchmarks/quality.py --freeze

Each user is new in exactly one of five folds. Measures what is named: sets by HYDRA's own configurations, own heads
without a generator, the published method as it is re-implemented here on the same users with the same generator,
samples with planted preferences, sets with other settings. Without any name: the sets, and own heads where their users
are given.

What the page needs of a run is kept in benchmarks/results/quality as soon as the run is finished, and QUALITY.md is
written from what is kept (`--page` does only that), so that runs can be measured one at a time. The generator's answers
are stored below the root: a stopped run resumes, and one with other heads asks nothing again. `--freeze` writes down
the settings of all runs, with the time, before they are measured. Exit status 1 if a bar is failed.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import own_heads
from bars import Bar, SetRuns, judge_bars
from own_heads import Source
from quality_page import Measured, bar_lines, quality_page
from quality_pieces import (
    Piece,
    digest_of,
    finished_at,
    freeze,
    frozen_settings,
    keep,
    kept,
    now,
    run_piece,
    settings_of_run,
    stamp,
)

from hydra_ray.adapt.own_model import read_own_model
from hydra_ray.config import RunConfig, check_config, load_config
from hydra_ray.errors import HydraError
from hydra_ray.evaluate.metrics_file import read_report
from hydra_ray.lamp.tasks import task_of
from hydra_ray.stages import STAGE_NAMES
from hydra_ray.stages.run import personalize

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "jobs" / "configs"
RESULTS, PAGE = HERE / "results" / "quality", HERE / "QUALITY.md"
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
PUBLISHED = "paper"
"""End of the names of runs of the published method."""
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
"""Planted samples, each by its overrides of planted.yaml. All but the first have the same new users; the first one's
were never seen when the settings were chosen."""
OWN_HEADS = ("jester-wide", "jester-pairs-wide", "lamp3")
"""Users of whom own heads are measured without a generator."""
LAMP_DIR, JESTER_DIR = "HYDRA_LAMP_DIR", "HYDRA_JESTER_DIR"


def main() -> int:
    """Measure what is named, write the page, print the bars."""
    arguments = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if arguments.freeze:
        freeze(RESULTS, all_digests(), now())
        return 0
    start = time.monotonic()
    try:
        if not arguments.page:
            measure(arguments)
        bars = write_page() if arguments.until == STAGE_NAMES[-1] else []
    except HydraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join([*bar_lines(bars), f"{time.monotonic() - start:.0f} s in all"]))
    return int(any(bar.is_passed is False for bar in bars))


def parse() -> argparse.Namespace:
    """Parse the command line; a folder of sets is required where a set is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="outputs", help="storage.root of the runs")
    parser.add_argument("--until", default="report", choices=STAGE_NAMES, help="last stage; before report, no page")
    parser.add_argument("--page", action="store_true", help="write the page from what is kept, and measure nothing")
    parser.add_argument(
        "--freeze", action="store_true", help="write down the settings of all runs, and measure nothing"
    )
    for option, known, metavar, text in (
        ("--own-heads", OWN_HEADS, "DATA", "users of whom own heads are measured without a generator"),
        ("--published", SETS, "SET", "sets with the published method, re-implemented; takes hours"),
        ("--planted", PLANTED, "SAMPLE", "planted samples"),
        ("--curves", SETS, "SET", "sets to run with other settings too; takes hours"),
    ):
        parser.add_argument(option, nargs="*", choices=known, metavar=metavar, help=f"{text}: {', '.join(known)}")
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.sets) - set(SETS):
        parser.error(f"got the sets {sorted(unknown)}; expected some of {', '.join(SETS)}")
    is_given = arguments.sets or any(getattr(arguments, name) is not None for name, _ in _OPTIONS)
    if not is_given:
        arguments.sets = list(SETS)
        arguments.own_heads = [] if JESTER_DIR in os.environ else None
    # None without an option; all where it names none.
    for name, known in _OPTIONS:
        given = getattr(arguments, name)
        setattr(arguments, name, () if given is None else given or list(known))
    if not (arguments.page or arguments.freeze):
        _require_folders(parser, arguments)
    return arguments


_OPTIONS: Sequence[tuple[str, Sequence[str]]] = (
    ("own_heads", OWN_HEADS),
    ("published", tuple(SETS)),
    ("planted", tuple(PLANTED)),
    ("curves", tuple(SETS)),
)


def _require_folders(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if LAMP_DIR not in os.environ and (arguments.sets or arguments.published or arguments.curves):
        parser.error(
            f"set {LAMP_DIR} to the folder that holds the sets {', '.join(SETS)}, each with train_questions.json, "
            "train_outputs.json, dev_questions.json and dev_outputs.json"
        )
    for variable, names in ((JESTER_DIR, OWN_HEADS[:2]), (LAMP_DIR, OWN_HEADS[2:])):
        if variable not in os.environ and set(names) & set(arguments.own_heads):
            parser.error(f"set {variable} to the folder that holds the users of {', '.join(names)}")


def measure(arguments: argparse.Namespace) -> None:
    """Run what is named, and keep each as soon as it is finished."""
    root, until = arguments.root, arguments.until
    configs = [set_config(name, root) for name in arguments.sets]
    later = [config for name in arguments.published for config in published_configs(name, root)]
    later += planted_configs(root, arguments.planted)
    later += [
        config for name in arguments.curves for setting in CURVES for config in curve_configs(name, root, setting)
    ]
    if until != STAGE_NAMES[-1]:
        for config in [*configs, *later]:
            personalize(config, until)
        return
    for config in configs:
        keep(RESULTS, config.run, finish(config))
    for name in arguments.own_heads:
        keep(RESULTS, own_run(name), measure_own_heads(own_source(name)))
    for config in later:
        keep(RESULTS, config.run, finish(config))


def write_page() -> list[Bar]:
    """Write the page from what is kept, and return the bars."""
    pieces = kept(RESULTS)
    sets = [
        SetRuns(
            name=name,
            own=pieces.get(run_of(name)),
            published=pieces.get(f"{run_of(name)}-{PUBLISHED}"),
            published_greedy=pieces.get(f"{run_of(name)}-{PUBLISHED}-greedy"),
            published_on_drafts=pieces.get(f"{run_of(name)}-{PUBLISHED}-drafts"),
            is_closed=task_of(set_config(name, "/").lamp).is_closed,
        )
        for name in SETS
    ]
    measured = Measured(
        sets=sets,
        own_heads=_present(pieces, {own_run(name): own_run(name) for name in OWN_HEADS}),
        planted=_present(pieces, {name: planted_run(name) for name in PLANTED}),
        curves=dict(_kept_curves(pieces)),
        frozen=frozen_settings(RESULTS),
    )
    bars = judge_bars(sets, measured.own_heads)
    PAGE.write_text(quality_page(measured, bars), encoding="utf-8")
    return bars


def _present(pieces: Mapping[str, Piece], names: Mapping[str, str]) -> dict[str, Piece]:
    return {name: pieces[run] for name, run in names.items() if run in pieces}


def _kept_curves(pieces: Mapping[str, Piece]) -> Iterator[tuple[str, Mapping[str, Sequence[Piece]]]]:
    """Yield by set and setting the runs that differ in this setting only, of sets that have all."""
    for name in SETS:
        runs = {setting: [curve_run(name, setting, value) for value in CURVES[setting]] for setting in CURVES}
        if all(run in pieces for each in runs.values() for run in each):
            yield name, {setting: [pieces[run] for run in each] for setting, each in runs.items()}


def finish(config: RunConfig) -> Piece:
    """Run to the end, print the seconds of each stage, and return what is to be kept."""
    start = time.monotonic()
    plan = personalize(config)
    report = read_report(plan.run_folder)
    stages = ", ".join(f"{stage['name']} {stage['seconds']:.1f}" for stage in report["stages"])
    print(f"{config.run}: {time.monotonic() - start:.1f} s now; seconds by stage: {stages}", flush=True)
    has_own_heads = any(stage.name == plan.own_model.name for stage in plan.stages())
    gain = read_own_model(plan.own_model.folder).gain if has_own_heads else None
    return run_piece(report, config, finished_at(Path(plan.run_folder) / "metrics.json"), gain)


def measure_own_heads(source: Source) -> dict[str, Any]:
    """Measure own heads without a generator, and return what is to be kept."""
    started: datetime = now()
    found = own_heads.measure(source)
    seconds = (now() - started).total_seconds()
    print(f"{own_heads.gain_text(found)}\n{own_heads.table(found['figures'])}", flush=True)
    return {**stamp(source.settings(), now(), seconds), **found}


def all_digests() -> dict[str, str]:
    """Return the digests of the settings of all runs."""
    configs = [set_config(name, "/") for name in SETS]
    configs += [config for name in SETS for config in published_configs(name, "/")]
    configs += planted_configs("/", list(PLANTED))
    configs += [config for name in SETS for setting in CURVES for config in curve_configs(name, "/", setting)]
    settings = {config.run: settings_of_run(config) for config in configs}
    settings |= {own_run(name): own_source(name).settings() for name in OWN_HEADS}
    return {run: digest_of(each) for run, each in settings.items()}


def own_run(name: str) -> str:
    """Return the name by which own heads of some users are kept."""
    return f"own-{name}"


def own_source(name: str) -> Source:
    """Return the users of OWN_HEADS and what is asked of them."""
    jester, lamp = (Path(os.environ.get(each, "")) for each in (JESTER_DIR, LAMP_DIR))
    if name == "lamp3":
        return Source(task="LaMP_3", lamp=str(lamp / "LaMP_3"))
    files = tuple(str(jester / f"{name.replace('-', '_')}_{split}.jsonl.gz") for split in ("train", "dev"))
    if name == "jester-wide":
        return Source(task="LaMP_3", users=files, records=(5, 10, 20, 40, 60))
    return Source(task="preference", users=files)


def run_of(name: str) -> str:
    """Return the name of a set's own run."""
    config, overrides = SETS[name]
    return next((each.removeprefix("run=") for each in overrides if each.startswith("run=")), config)


def set_config(name: str, root: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the cross-fitted run of one set."""
    config, own = SETS[name]
    common = (
        f"storage.root={Path(root).resolve()}",
        f"lamp.root={Path(os.environ.get(LAMP_DIR, '')).resolve() / name}",
        f"users.num_folds={NUM_FOLDS}",
        *placement(),
    )
    return load_config(CONFIGS / f"{config}.yaml", [*common, *own, *overrides])


def published_configs(name: str, root: str) -> list[RunConfig]:
    """Return the published method, as it is re-implemented here, the same with greedy RAG among its drafts, and the
    same with HYDRA's drafts.

    Users, folds, generator and probes are those of the set's own run, so that both learn from equal evidence and no
    request is repeated; paper.yaml itself has the published N = M = 10.
    """
    own = set_config(name, root)
    shared = own.model_dump(
        include={"storage", "lamp", "users", "generator", "retrieve", "probes", "report", "placement"}
    )
    published = load_config(CONFIGS / "paper.yaml").model_dump()
    published["drafts"]["num_pseudo_queries"] = own.drafts.num_pseudo_queries
    runs = {
        f"{own.run}-{PUBLISHED}": published["drafts"],
        f"{own.run}-{PUBLISHED}-greedy": {**published["drafts"], "prompts": ("rag_k",)},
        f"{own.run}-{PUBLISHED}-drafts": own.drafts.model_dump(),
    }
    return [
        check_config({**published, **shared, "run": run, "drafts": drafts}, source="benchmarks/quality.py")
        for run, drafts in runs.items()
    ]


def planted_configs(root: str, names: Sequence[str]) -> list[RunConfig]:
    """Return planted.yaml with the overrides PLANTED of each sample."""
    common = (f"storage.root={Path(root).resolve()}", *placement())
    return [
        load_config(CONFIGS / "planted.yaml", [*common, f"run={planted_run(name)}", *PLANTED[name]]) for name in names
    ]


def planted_run(name: str) -> str:
    """Return the name of a planted sample's run."""
    return f"planted-{name}"


def placement() -> list[str]:
    """Return PLACEMENT as overrides."""
    return [f"placement.{name}={value}" for name, value in PLACEMENT.items()]


def curve_configs(name: str, root: str, setting: str) -> list[RunConfig]:
    """Return a set's own configuration with each value of a setting."""
    return [
        set_config(name, root, (f"run={curve_run(name, setting, value)}", f"{setting}={value}"))
        for value in CURVES[setting]
    ]


def curve_run(name: str, setting: str, value: int) -> str:
    """Return the name of a run with another value of a setting."""
    return f"{run_of(name)}-{setting}-{value}"


if __name__ == "__main__":
    sys.exit(main())
