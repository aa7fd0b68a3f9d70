"""Folder of a run, and the finished parent run from which a child run takes bases, shared heads, label model and gate.

A finished run records its stages in its folder. A child run finds them there by fingerprint, even when the parent's
input files are no longer available.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from hydra_ray import storage
from hydra_ray.config import RunConfig, check_config
from hydra_ray.errors import ConfigError, DamagedError, InputError
from hydra_ray.runs.stage import Stage
from hydra_ray.storage.listing_updates import rewriting
from hydra_ray.storage.listings import RUN_FILES

_CONFIG = "config.json"
_STAGES = "stages.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A finished run of which another one uses stages: trained ones of a parent run, users and answers of an update or
    of a run that is refreshed."""

    config: RunConfig
    stages: Mapping[str, Stage]
    """Stages that the run computed, by name."""

    def differing(self, stage: Stage, versions: Collection[int] = ()) -> list[str]:
        """Return the names of the settings in which a stage differs from this run's stage of that name; none where this
        run has no such stage.

        Args:
            versions: earlier versions of the stage that this run's may have.
        """
        if stage.name not in self.stages:
            return []
        own, given = self.stages[stage.name].settings, _plain(stage)
        if own.get("version") in versions:
            given["version"] = own["version"]
        return sorted(name for name in {*own, *given} if own.get(name) != given.get(name))

    def require_like(self, stage: Stage, versions: Collection[int] = ()) -> None:
        """Check that a stage of a child run has the settings of the parent's stage of that name.

        Args:
            versions: earlier versions of the stage that the parent's may have.

        Raises:
            ConfigError: its settings differ.
        """
        if differing := self.differing(stage, versions):
            raise ConfigError(
                f"stage {stage.name} differs from that of the run {self.config.run} in {', '.join(differing)}. Users"
                " are added with the settings, models and code that a run was made with: keep them, or run it anew."
            )


def run_folder_of(root: str, run: str) -> str:
    """Return the folder of a run's report, answers and state."""
    return storage.join(root, "runs", run)


def root_of_run(run_folder: str) -> str:
    """Return the storage root above a run's folder."""
    return run_folder.rstrip("/").rsplit("/", 2)[0]


def read_config(run_folder: str) -> RunConfig:
    """Return the configuration of the run in `run_folder`, with the root that this folder is in.

    A root may have been copied or moved since the run was started: nothing of that is done to the original.

    Raises:
        InputError: no run was started there.
    """
    location = storage.join(run_folder, _CONFIG)
    if not has_config(run_folder):
        raise InputError(f"no run at {run_folder}: there is no config.json. Give <storage.root>/runs/<run>.")
    found = storage.read_json(location)
    # A run from before own heads were fitted to all records has none.
    found = {**found, "adapter": {"has_own_heads": False, **found.get("adapter", {})}}
    config = check_config(found, source=location)
    root, runs, _ = ["", "", *run_folder.rstrip("/").rsplit("/", 2)][-3:]
    if runs != "runs" or not (storage.is_uri(root) or root.startswith("/")):
        return config
    return config.model_copy(update={"storage": config.storage.model_copy(update={"root": root})})


def has_config(run_folder: str) -> bool:
    """Return whether a run was started in `run_folder`."""
    return storage.exists(storage.join(run_folder, _CONFIG))


def write_config(run_folder: str, config: RunConfig) -> None:
    """Write the configuration of a run to its folder, as a file that `read_config` and people read."""
    with publishing(run_folder, [_CONFIG]):
        storage.publish_json(storage.join(run_folder, _CONFIG), config.model_dump(mode="json"))


def publishing(run_folder: str, names: Sequence[str]) -> AbstractContextManager[None]:
    """Return a block in which files of a run's folder are written; after it, the folder's listing has their digests."""
    return rewriting(run_folder, names, new_listing=RUN_FILES)


def record_stages(run_folder: str, stages: Iterable[Stage]) -> None:
    """Write the fingerprints and settings of a finished run's stages to its folder."""
    recorded = {stage.name: {"fingerprint": stage.fingerprint, "settings": _plain(stage)} for stage in stages}
    storage.write_json(storage.join(run_folder, _STAGES), recorded)


def recorded_fingerprints(run_folder: str) -> frozenset[str]:
    """Return the fingerprints of the stages of the run in `run_folder`; none for a run that is not finished."""
    location = storage.join(run_folder, _STAGES)
    recorded = _read_stages(location) if storage.exists(location) else {}
    return frozenset(each["fingerprint"] for each in recorded.values())


def recorded_stages(run_folder: str, config: RunConfig) -> dict[str, Stage]:
    """Return the stages, by name, of the finished run in `run_folder`.

    Args:
        config: the run's configuration, for its number of buckets.

    Raises:
        InputError: the run is not finished.
    """
    location = storage.join(run_folder, _STAGES)
    if not storage.exists(location):
        raise InputError(f"the run at {run_folder} is not finished: run its configuration to the end first")
    return {
        name: Stage(
            name=name,
            fingerprint=recorded["fingerprint"],
            root=root_of_run(run_folder),
            num_buckets=config.num_buckets,
            settings=recorded["settings"],
        )
        for name, recorded in _read_stages(location).items()
    }


def _read_stages(location: str) -> dict[str, Any]:
    found = storage.read_json(location)
    are_whole = [
        isinstance(each, dict) and isinstance(each.get("fingerprint"), str) and isinstance(each.get("settings"), dict)
        for each in found.values()
    ]
    if not found or not all(are_whole):
        raise DamagedError(
            f"{location} is damaged: it does not name the stages of a run. Run the configuration again: it is written "
            "anew, and nothing is computed."
        )
    return found


def read_parent(config: RunConfig) -> FinishedRun | None:
    """Return the parent run that `config` names in `taught_by`; None where the run trains on its own users.

    Raises:
        InputError: there is no such run, or it is not finished.
        ConfigError: its users are in other buckets, or it is itself a child run.
    """
    if config.taught_by is None:
        return None
    folder = run_folder_of(config.storage.root, config.taught_by)
    parent = read_config(folder)
    if parent.taught_by is not None:
        raise ConfigError(
            f"taught_by={parent.run} is itself a child run of {parent.taught_by}: update {parent.taught_by} instead"
        )
    buckets = [(each.users.num_buckets, each.users.bucket_key) for each in (parent, config)]
    if buckets[0] != buckets[1]:
        raise ConfigError(f"users.num_buckets and users.bucket_key must be those of the run {parent.run}")
    return FinishedRun(config=parent, stages=recorded_stages(folder, config))


def open_finished(root: str, run: str) -> FinishedRun:
    """Return a finished run under a root, with the stages that it recorded.

    Raises:
        InputError: there is no such run, or it is not finished.
    """
    folder = run_folder_of(root, run)
    config = read_config(folder)
    return FinishedRun(config=config, stages=recorded_stages(folder, config))


def _plain(stage: Stage) -> dict[str, Any]:
    """Return the stage's settings as they are read back from JSON."""
    return json.loads(json.dumps(stage.plain_settings()))
