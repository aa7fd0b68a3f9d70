"""Refresh of a finished run: a run of its own that learns anew what users share, from everybody's present history.

Users and histories are those of the finished run and of all its updates, whose files are not needed any more. Nothing
of these runs is changed. What the generator has answered in them is found in the store of its answers, and the samples
of pseudo-queries go on with their probes, as in an update; so it is asked only for what a new reranker chooses.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from hydra_ray.commands.ending import ending_lines
from hydra_ray.commands.update import directly_before
from hydra_ray.config import RefreshConfig, RunConfig, apply_override, check_config
from hydra_ray.errors import ConfigError, InputError
from hydra_ray.findings import counted
from hydra_ray.runs.lease import owner_at, run_lease
from hydra_ray.runs.run_folder import (
    FinishedRun,
    has_config,
    open_finished,
    read_config,
    recorded_fingerprints,
    run_folder_of,
)
from hydra_ray.runs.stage import fingerprint
from hydra_ray.runs.updates import Update, updates_of
from hydra_ray.stages.plan import Plan, plan_recorded
from hydra_ray.stages.probes import KEPT
from hydra_ray.stages.run import personalize

SUFFIX = ".refreshed"
"""Ending of the name of a refreshed run, where none is given."""
_TAKEN = ("users", "probes")
"""Stages from which a refreshed run takes rows."""
_FIXED = re.compile(
    r"(run|taught_by|update|refresh|storage|lamp|users)$|(update|refresh)\.|storage\.root\b|lamp\.(?!metric$)|"
    r"users\.(?!(leaves_out_forgotten|max_rejected_fraction)$)"
)
"""Settings, by their dotted key, that are the finished run's: they say who the users are, and where."""
_WHERE = {"storage", "placement", "budget"}
"""Sections that change no result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """A refreshed run that is whole."""

    plan: Plan
    is_made_now: bool
    """Whether this call made it; False where it had been made before."""


def refresh_run(run_folder: str, name: str | None = None, overrides: Sequence[str] = ()) -> Refreshed:
    """Learn anew what users of a finished run share, in a run of its own under the same root; one that was killed goes
    on.

    Args:
        run_folder: folder of the finished run.
        name: name of the new run; by default the run's own with SUFFIX, and a number where that is taken.
        overrides: each `section.key=value`; of all sections but those that say who the users are.

    Raises:
        HydraError: what went wrong, and what to do about it.
    """
    config = refresh_config(run_folder, name, overrides)
    folder = run_folder_of(config.storage.root, config.run)
    if recorded_fingerprints(folder) and _settings_of(read_config(folder)) == _settings_of(config):
        plan = plan_recorded(folder)
        if plan.is_complete():
            return Refreshed(plan=plan, is_made_now=False)
    return Refreshed(plan=personalize(config), is_made_now=True)


def refresh_config(run_folder: str, name: str | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration of a refresh as of now: of the one that is there, where it was begun before.

    Args:
        run_folder, name, overrides: see `refresh_run`.

    Raises:
        InputError: there is no such run, it is not finished, it is itself an update, an update of it is under way, or
            the given name is another run's.
        ConfigError: the name or an override is wrong.
    """
    run, before = _require_finished(run_folder)
    settings = run.model_dump(mode="json")
    settings["users"]["max_users"] = None  # everybody is taken who was read
    settings["refresh"] = _taken(run, before).model_dump(mode="json")
    for override in overrides:
        if _FIXED.match(override.partition("=")[0]):
            raise ConfigError(
                f"{override.partition('=')[0]} cannot be overridden: a refresh takes users, task and root from the run "
                f"{run.run}; run a configuration of its own to change them"
            )
        settings = apply_override(settings, override)
    for candidate in _names(run.run) if name is None else [name]:
        if candidate == run.run:
            continue
        config = check_config(settings | {"run": candidate}, source=f"the configuration of a refresh of {run_folder}")
        if _may_be(config):
            return config
    raise InputError(
        f"there is a run {name} already, which is no refresh of {run.run} with these settings as of its newest update: "
        "give another --name"
    )


def refresh_summary(refreshed: Refreshed) -> dict[str, Any]:
    """Return whom a refreshed run learned from, and what it cost.

    Returns:
        run, of, is_made_now; num_users, of whom users_of_updates came with updates; num_records, num_queries, and
        left_out_queries, whose answers are records by now; requests: answers of the generator that the run is made of,
        asked_now: those of them that no run had asked for, and kept: the others; seconds.
    """
    plan, refresh = refreshed.plan, refreshed.plan.config.refresh
    assert refresh is not None
    manifests = [stage.manifest() for stage in plan.stages()]
    users = plan.users.manifest()["counters"]
    totals = {
        name: round(sum(each["counters"].get(name, 0) for each in manifests))
        for name in ("requests", "asked_now", KEPT)
    }
    requests = totals["requests"] + totals[KEPT]
    return {
        "run": plan.config.run,
        "of": refresh.of,
        "is_made_now": refreshed.is_made_now,
        "num_users": round(users["users"]),
        "users_of_updates": round(users["users_of_updates"]),
        "num_records": round(users["records"]),
        "num_queries": round(users["queries"]),
        "left_out_queries": round(users["left_out_queries"]),
        "requests": requests,
        "kept": requests - totals["asked_now"],
        "asked_now": totals["asked_now"],
        "seconds": round(sum(each["seconds"] for each in manifests), 1),
    }


def refreshed_lines(refreshed: Refreshed, summary: dict[str, Any]) -> Iterator[str]:
    """Yield what to print of a refreshed run.

    Args:
        summary: see `refresh_summary`.
    """
    if not refreshed.is_made_now:
        yield f"nothing to do: {summary['run']} is the refresh of {summary['of']} as of its newest update"
    left_out = summary["left_out_queries"]
    dropped = f", {left_out} more left out, which records answer by now" if left_out else ""
    yield (
        f"{summary['run']}: {counted(summary['num_users'], 'user')}, {summary['users_of_updates']} of whom came with "
        f"updates; {counted(summary['num_records'], 'record')}; {counted(summary['num_queries'], 'query', 'queries')}"
        f"{dropped}"
    )
    if refreshed.plan.config.has_generator:
        yield (
            f"{counted(summary['requests'], 'request')}: {summary['kept']} answers kept, {summary['asked_now']} asked"
        )
    yield from ending_lines(refreshed.plan)
    yield f"from now on: hydra-ray update {refreshed.plan.run_folder}"


def _require_finished(run_folder: str) -> tuple[RunConfig, list[Update]]:
    """Return the configuration of a finished run and its updates, oldest first, none of which is under way."""
    run = read_config(run_folder)
    root = run.storage.root
    if run.taught_by is not None:
        raise InputError(f"{run_folder} is an update of the run {run.taught_by}: give {run.taught_by} instead")
    if (owner := owner_at(run_lease(root, run.run))) is not None:
        raise InputError(f"{owner} is at work on the run {run.run}: refresh it when that has ended")
    if (owner := owner_at(run_lease(root, f"{run.run}+"))) is not None:
        raise InputError(f"an update of the run {run.run} is under way ({owner}): refresh it when that has ended")
    before = updates_of(root, run.run)
    for each in before:
        if each.config.update is not None and not each.is_finished:
            raise InputError(
                f"the update {each.run} was not finished: hand its files in to `hydra-ray update {run_folder}` again, "
                "then refresh"
            )
    return run, before


def _taken(run: RunConfig, before: Sequence[Update]) -> RefreshConfig:
    root = run.storage.root
    line = [open_finished(root, name) for name in (run.run, *(each.run for each in before if each.is_finished))]
    for each in line:
        _require_whole(each)
    taken = [each.stages[name].fingerprint for each in line for name in _TAKEN if name in each.stages]
    return RefreshConfig(
        of=run.run, follows=tuple(directly_before(run.run, before)), taken=fingerprint("refreshed", 1, {}, taken)
    )


def _require_whole(run: FinishedRun) -> None:
    for name in _TAKEN:
        if name in run.stages and not run.stages[name].is_complete():
            raise InputError(
                f"the stage {name} of the run {run.config.run} is not there any more, as after a retry that was "
                "stopped: finish that run first"
            )


def _names(run: str) -> Iterator[str]:
    """Yield possible names of a refreshed run; one that is refreshed again counts on."""
    stem = f"{re.sub(rf'{re.escape(SUFFIX)}(-[0-9]+)?$', '', run)}{SUFFIX}"
    yield stem
    yield from (f"{stem}-{number}" for number in count(2))


def _may_be(config: RunConfig) -> bool:
    """Return whether a refresh may have its run's name: nobody has it, or a refresh of the same run that is this one,
    or was not finished."""
    folder = run_folder_of(config.storage.root, config.run)
    if not has_config(folder):
        return True
    there = read_config(folder)
    assert config.refresh is not None
    if there.refresh is None or there.refresh.of != config.refresh.of:
        return False
    is_same = _settings_of(there, but={"report"}) == _settings_of(config, but={"report"})
    return is_same or not recorded_fingerprints(folder)


def _settings_of(config: RunConfig, but: frozenset[str] | set[str] = frozenset()) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=_WHERE | but)
