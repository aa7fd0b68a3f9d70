"""Users who come after a run is finished: their run's configuration, and what adding them took."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from hydra_ray.config import RunConfig, apply_override, check_config
from hydra_ray.errors import ConfigError
from hydra_ray.findings import counted
from hydra_ray.runs.run_folder import read_config
from hydra_ray.scorer.heads.trials import COHORTS
from hydra_ray.stages.plan import Plan

_COHORT = f"{COHORTS[True]}."
"""How the counters of heads begin that tell new users' configurations."""


def added_config(
    run_folder: str, users: Sequence[str], name: str | None = None, overrides: Sequence[str] = ()
) -> RunConfig:
    """The configuration of the run that adds users to a finished run.

    Args:
        run_folder: the finished run's.
        users: files of own users, or one folder of official LaMP files, of which the new split is read.
        name: tells this addition from others; by default the first file's, without its ending.
        overrides: each `section.key=value`; of placement, report, and what is read.

    Raises:
        InputError: there is no such run.
        ConfigError: the name or an override is wrong.
    """
    taught = read_config(run_folder)
    settings = taught.model_dump(mode="json")
    settings["run"] = f"{taught.run}+{name or PurePosixPath(users[0]).stem}"
    settings["taught_by"] = taught.run
    settings["lamp"] |= {"planted": None, "train_split": None, **_source(users)}
    settings["users"] |= {"num_folds": 1, "max_users": None}
    for override in overrides:
        settings = apply_override(settings, override)
    return check_config(settings, source=f"the configuration for adding users to {run_folder}")


def addition_summary(plan: Plan) -> dict[str, Any]:
    """How many users a finished addition has, which heads they got, what was asked, and how long it took.

    Returns:
        run, taught_by, num_users, num_queries, num_rejected; heads: by scorer, how many users got which configuration;
        requests: of the generator, and asked_now: those that had never been answered before; seconds.
    """
    assert plan.parent is not None
    taught = {stage.folder for stage in plan.parent.stages.values()}
    manifests = {stage.name: stage.manifest() for stage in plan.stages() if stage.folder not in taught}
    counters = {name: manifest["counters"] for name, manifest in manifests.items()}
    users = counters["users"]
    return {
        "run": plan.config.run,
        "taught_by": plan.config.taught_by,
        "num_users": round(users["users"]),
        "num_queries": round(users["queries"]),
        "num_rejected": round(users["rejected"]),
        "heads": {
            name: {
                key.removeprefix(_COHORT): round(number)
                for key, number in sorted(counters[f"{name}.heads"].items())
                if key.startswith(_COHORT)
            }
            for name in ("reranker", "adapter")
        },
        **{name: round(sum(each.get(name, 0) for each in counters.values())) for name in ("requests", "asked_now")},
        "seconds": round(sum(manifest["seconds"] for manifest in manifests.values()), 1),
    }


def summary_text(summary: dict[str, Any]) -> str:
    """A summary in a few lines."""
    heads = [
        f"{scorer} heads: {', '.join(f'{number} {kind}' for kind, number in found.items())}"
        for scorer, found in summary["heads"].items()
    ]
    return "\n".join(
        [
            f"{counted(summary['num_users'], 'user')} added to {summary['taught_by']} as {summary['run']}, "
            f"{counted(summary['num_queries'], 'query', 'queries')} answered, "
            f"{counted(summary['num_rejected'], 'sample')} rejected",
            *heads,
            f"{counted(summary['requests'], 'request')}, {summary['asked_now']} of them asked now; "
            f"{summary['seconds']} s",
        ]
    )


def _source(users: Sequence[str]) -> dict[str, Any]:
    is_file = [location.endswith((".jsonl", ".parquet")) for location in users]
    if all(is_file):
        return {"root": None, "users_files": list(users)}
    if len(users) == 1:
        return {"root": users[0], "users_files": []}
    raise ConfigError(f"got the users {list(users)}; expected .jsonl or .parquet files, or one folder of LaMP files")
