"""Jobs to submit: the command that the cluster runs, and the files sent with it."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hydra_ray import storage
from hydra_ray.cluster.versions import source_digest
from hydra_ray.commands.submit.inputs import Placed, place_files, place_folder
from hydra_ray.config import StorageConfig, check_config, check_settings, load_config
from hydra_ray.config.check import kind_of
from hydra_ray.engine.ray_connection import SUBMITTED_AS
from hydra_ray.errors import ConfigError
from hydra_ray.models import open_model
from hydra_ray.runs.logs import FORMAT_VARIABLE
from hydra_ray.shipped import find_configuration
from hydra_ray.storage.locations import reach, require_supported
from hydra_ray.sweep.config import load_sweep, require_root

CLIENT_SOURCE = "HYDRA_CLIENT_SOURCE"
"""Environment variable of a job: digest of this package's source on the submitting machine."""
ON_CONFIG = ("run", "sweep", "plan", "check")
"""Commands that take a configuration; plan also takes a run's folder, like all others."""
_FILES_OF = {"update": "--users", "feedback": "--file"}
"""Option that names the files, by command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A command to run on the cluster."""

    words: tuple[str, ...]
    """Arguments of `hydra-ray`, relative to the files sent along."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Files sent along, by name."""
    copies: Mapping[Path, str] = field(default_factory=dict)
    """Local files of users, with the destinations to copy them to before the start."""
    notes: tuple[str, ...] = ()
    """Notes for the user before the start."""
    result: str = ""
    """Location of the page that the job writes; empty where it writes none."""

    @property
    def entrypoint(self) -> str:
        """Shell command of the job."""
        return shlex.join(["python", "-m", "hydra_ray.cli", *self.words])


def config_job(
    command: str, path: str, overrides: Sequence[str], words: Sequence[str], upload: str | None, *, has_page: bool
) -> Job:
    """Return the job of a command that takes a configuration of this machine.

    Args:
        command: one of ON_CONFIG.
        path: a YAML file, or the name of a shipped configuration.
        overrides: each `section.key=value` among the words.
        words: all arguments after the file.
        upload: as for `place_files`.
        has_page: whether the job writes the page of a run or of a sweep.

    Raises:
        HydraError: the configuration is invalid, or names what the cluster cannot read.
    """
    files, settings, result = (_sweep if command == "sweep" else _run)(path, overrides)
    root = storage.require_absolute(str(settings["storage"]["root"]), "storage.root")
    if command != "sweep":  # a sweep's trials may still set them
        for model in check_config(settings, source=path).named_models:
            open_model(model)  # rejects names that no cluster could resolve
    if upload is not None:
        reach(check_settings(StorageConfig, settings["storage"], source=path))
    placed, setting = _placed(settings.get("lamp", {}), upload)
    return Job(
        words=(command, next(iter(files)), *words, *([setting] if setting else ())),
        files=files,
        copies=placed.copies,
        notes=placed.notes,
        result=storage.join(root, *result) if has_page else "",
    )


def run_job(command: str, run: str, words: Sequence[str]) -> Job:
    """Return the job of a command that takes a run's folder.

    Args:
        words: all arguments after the folder.

    Raises:
        ConfigError: the folder is relative, and so local to this machine.
    """
    return Job(words=(command, _folder(run), *words))


def update_job(
    command: str,
    run: str,
    users: Sequence[str],
    name: str | None,
    overrides: Sequence[str],
    upload: str | None,
) -> Job:
    """Return the job that updates a finished run.

    Args:
        command: `update`, or `feedback`, of which the files are feedback.
        users: files, or a folder that the cluster can read.
        name: name of the update.
        upload: as for `place_files`.

    Raises:
        HydraError: the cluster cannot read the run's folder or a file.
    """
    option = _FILES_OF[command]
    placed = place_files(users, option, upload)
    arguments = [word for each in placed.locations for word in (option, each)]
    named = ["--name", name] if name is not None else []
    words = (command, _folder(run), *overrides, *arguments, *named)
    return Job(words=words, copies=placed.copies, notes=placed.notes)


def forgetting_job(run: str, user_ids: Sequence[str], users_file: str | None) -> Job:
    """Return the job that removes users from a root.

    Raises:
        ConfigError: the ids would be stored by Ray with the job's command.
    """
    if users_file is not None and storage.is_uri(users_file):
        require_supported(users_file)  # rejects unsupported stores
    if user_ids or users_file is None or not (storage.is_uri(users_file) or Path(users_file).is_absolute()):
        raise ConfigError(
            "Ray keeps and shows what a job was submitted with, so ids of users who are to be forgotten cannot go with "
            "it. Put them, one a line, where the cluster can read them, and give that place: --users-file "
            "s3://BUCKET/FILE, or an absolute path on its machines."
        )
    return Job(words=("forget", "--run", _folder(run), "--users-file", users_file))


def _folder(run: str) -> str:
    return storage.require_absolute(run, "the run's folder")


def job_environment(typed: str) -> dict[str, str]:
    """Return the environment variables of a job.

    Args:
        typed: command that submits it.
    """
    variables = {SUBMITTED_AS: typed, CLIENT_SOURCE: source_digest()}
    return variables | {name: os.environ[name] for name in (FORMAT_VARIABLE,) if name in os.environ}


def other_source() -> str | None:
    """Return a warning, in a job, if this package differs from the submitting machine's; None where it does not."""
    theirs, ours = os.environ.get(CLIENT_SOURCE), source_digest()
    if theirs in (None, ours):
        return None
    return (
        f"the cluster's hydra_ray (source {ours}) is not the one that submitted this job (source {theirs}): what runs "
        "is the cluster's"
    )


def _run(path: str, overrides: Sequence[str]) -> tuple[dict[str, bytes], dict[str, Any], Sequence[str]]:
    config, file = load_config(path, overrides), find_configuration(path)
    files = {file.name: file.read_bytes()}
    return files, config.model_dump(mode="json"), ("runs", config.run, "report.html")


def _sweep(path: str, overrides: Sequence[str]) -> tuple[dict[str, bytes], dict[str, Any], Sequence[str]]:
    """Return the files, settings and page of a sweep; its base configuration is sent along beside it."""
    sweep, file = load_sweep(path, overrides), find_configuration(path)
    require_root(sweep)
    settings = sweep.config.model_dump(mode="json", exclude_unset=True)
    name = f"base-{Path(sweep.config.base).name}"
    base = (file.parent / sweep.config.base).read_bytes()
    written = yaml.safe_dump({**settings, "base": name}, sort_keys=False, allow_unicode=True).encode()
    files = {file.name: written, name: base}
    return files, dict(sweep.base), ("sweeps", sweep.config.sweep, "sweep.html")


def _placed(lamp: Mapping[str, Any], upload: str | None) -> tuple[Placed, str]:
    """Return where the cluster finds the users, and the override that sets it; empty where nothing changes."""
    if not isinstance(lamp, Mapping):
        raise ConfigError(f"the section lamp is {kind_of(lamp)}; expected a mapping")
    for name in ("root", "users_files"):
        given = lamp.get(name) or ""
        if not isinstance(given, str) and not (name == "users_files" and _are_texts(given)):
            raise ConfigError(f"lamp.{name} is {kind_of(given)}; expected text")
    if lamp.get("root") is not None:
        placed = place_folder(lamp, upload)
        found, override = [lamp["root"]], f"lamp.root={yaml.safe_dump(placed.locations[0]).splitlines()[0]}"
    else:
        given = lamp.get("users_files") or ()
        found = [given] if isinstance(given, str) else list(given)
        placed = place_files(found, "lamp.users_files", upload)
        override = "lamp.users_files=" + yaml.safe_dump(list(placed.locations), default_flow_style=True, width=1 << 16)
    return placed, "" if list(placed.locations) == list(found) else override.strip()


def _are_texts(given: object) -> bool:
    return isinstance(given, list | tuple) and all(isinstance(each, str) for each in given)
