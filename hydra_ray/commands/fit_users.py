"""Configuration and summary of a run that adds users to a finished run."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from hydra_ray import storage
from hydra_ray.config import RunConfig, apply_override, check_config
from hydra_ray.errors import ConfigError
from hydra_ray.findings import counted
from hydra_ray.lamp.input_files import is_pattern, parts_of
from hydra_ray.lamp.lamp_files import QUESTIONS
from hydra_ray.lamp.raw_streams import COMPRESSED_SUFFIXES
from hydra_ray.lamp.row_files import ROW_SUFFIXES
from hydra_ray.runs.run_folder import read_config


def added_config(
    run_folder: str, users: Sequence[str], name: str | None = None, overrides: Sequence[str] = ()
) -> RunConfig:
    """Return the configuration of the run that adds users to a finished run.

    Args:
        run_folder: folder of the finished run.
        users: files of users, or one folder of official LaMP files, of which the new split is read.
        name: name of this addition; by default the first file's name without its suffix.
        overrides: each `section.key=value`; of placement, report and input settings.

    Raises:
        InputError: there is no such run.
        ConfigError: the name or an override is wrong.
    """
    parent = read_config(run_folder)
    settings = parent.model_dump(mode="json")
    settings["run"] = f"{parent.run}+{name or PurePosixPath(unpacked_name(users[0])).stem}"
    settings["taught_by"] = parent.run
    settings["lamp"] |= {"planted": None, "train_split": None, **_source(users)}
    settings["users"] |= {"num_folds": 1, "max_users": None}
    for override in overrides:
        settings = apply_override(settings, override)
    return check_config(settings, source=f"the configuration for adding users to {run_folder}")


def summary_text(summary: dict[str, Any]) -> str:
    """Return a summary as a few lines of text."""
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
    are_lamp = [is_lamp_folder(location) for location in users]
    if not any(are_lamp):
        return {"root": None, "users_files": list(users)}
    if len(users) == 1:
        return {"root": users[0], "users_files": []}
    raise ConfigError(f"got the users {list(users)}; expected files and folders of users, or one folder of LaMP files")


def is_lamp_folder(location: str) -> bool:
    """Return whether a location is a folder of LaMP files, or of nothing at all, and not of parts of users' files."""
    if unpacked_name(location).lower().endswith(ROW_SUFFIXES) or is_pattern(location) or storage.exists(location):
        return False
    names = parts_of(location)
    return not names or any(QUESTIONS in name for name in names)


def unpacked_name(location: str) -> str:
    """Return the last part of a location, without the ending of a compression."""
    name = PurePosixPath(location).name
    for suffix in COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name
