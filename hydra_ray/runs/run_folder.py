"""Which finished run serves users who come later: its bases, shared heads, labeller and gate stay as they are.

A finished run records its stages in its own folder. Whoever builds on it finds them there by fingerprint, also when
the files that its users came from are no longer at hand.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hydra_ray import storage
from hydra_ray.config import RunConfig, check_config
from hydra_ray.errors import ConfigError, InputError
from hydra_ray.runs.stage import Stage

_STAGES = "stages.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRun:
    """A finished run that taught what a later run uses."""

    config: RunConfig
    stages: Mapping[str, Stage]
    """By name; only those that the run made."""

    def require_like(self, stage: Stage) -> None:
        """Check that a stage of a later run computes what the same stage of this run does.

        Raises:
            ConfigError: its settings are others.
        """
        if stage.name not in self.stages:
            return
        own, asked = self.stages[stage.name].settings, _plain(stage)
        differing = sorted(name for name in {*own, *asked} if own.get(name) != asked.get(name))
        if differing:
            raise ConfigError(
                f"stage {stage.name} differs from that of the run {self.config.run} in {', '.join(differing)}. Users"
                " are added with the settings, models and code that a run was made with: keep them, or run it anew."
            )


def run_folder_of(root: str, run: str) -> str:
    """Where a run's report, answers and state are."""
    return storage.join(root, "runs", run)


def root_of_run(run_folder: str) -> str:
    """The storage root above a run's folder, from wherever one looks at it."""
    return run_folder.rstrip("/").rsplit("/", 2)[0]


def read_config(run_folder: str) -> RunConfig:
    """The configuration of the run in `run_folder`.

    Raises:
        InputError: no run was started there.
    """
    location = storage.join(run_folder, "config.json")
    if not storage.exists(location):
        raise InputError(f"no run at {run_folder}: there is no config.json. Give <storage.root>/runs/<run>.")
    return check_config(storage.read_json(location), source=location)


def record_stages(run_folder: str, stages: Iterable[Stage]) -> None:
    """Tell in a finished run's folder what it consists of."""
    recorded = {stage.name: {"fingerprint": stage.fingerprint, "settings": _plain(stage)} for stage in stages}
    storage.write_json(storage.join(run_folder, _STAGES), recorded)


def recorded_fingerprints(run_folder: str) -> frozenset[str]:
    """Of the stages that the run in `run_folder` consists of; of a run that is not finished none are known."""
    location = storage.join(run_folder, _STAGES)
    recorded = storage.read_json(location) if storage.exists(location) else {}
    return frozenset(each["fingerprint"] for each in recorded.values())


def recorded_stages(run_folder: str, config: RunConfig) -> dict[str, Stage]:
    """The stages, by name, that the finished run in `run_folder` consists of.

    Args:
        config: tells the number of buckets.

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
            num_buckets=config.users.num_buckets,
            settings=recorded["settings"],
        )
        for name, recorded in storage.read_json(location).items()
    }


def read_parent(config: RunConfig) -> ParentRun | None:
    """The finished run that taught what the run `config` uses; None where that run's own training users teach.

    Raises:
        InputError: there is no such run, or it is not finished.
        ConfigError: its users are in other buckets, or another run taught it.
    """
    if config.taught_by is None:
        return None
    folder = run_folder_of(config.storage.root, config.taught_by)
    taught = read_config(folder)
    if taught.taught_by is not None:
        raise ConfigError(f"the run {taught.run} was itself taught by {taught.taught_by}: add users to that one")
    buckets = [(each.users.num_buckets, each.users.bucket_key) for each in (taught, config)]
    if buckets[0] != buckets[1]:
        raise ConfigError(f"users.num_buckets and users.bucket_key must be those of the run {taught.run}")
    return ParentRun(config=taught, stages=recorded_stages(folder, config))


def _plain(stage: Stage) -> dict[str, Any]:
    """The stage's settings as they are read back from JSON."""
    return json.loads(json.dumps(stage.plain_settings()))
