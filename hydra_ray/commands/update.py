"""Updates of a finished run: users come back with new records and new queries, others are new.

An update is a run of its own beside the finished one, which it does not change. Updates of one run are made one after
the other; one that was killed is finished before the next begins.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import PurePosixPath
from typing import Any

from hydra_ray import storage
from hydra_ray.commands.given_users import source_of, unpacked_name
from hydra_ray.commands.line import users_text
from hydra_ray.config import RunConfig, Task, apply_override, check_config
from hydra_ray.errors import InputError
from hydra_ray.findings import counted
from hydra_ray.lamp.tasks import task_of
from hydra_ray.lamp.users import input_fingerprint
from hydra_ray.runs.lease import lease, run_lease
from hydra_ray.runs.run_folder import read_config
from hydra_ray.runs.stage import fingerprint
from hydra_ray.runs.updates import Update, updates_of
from hydra_ray.serving.compaction import compact_updates
from hydra_ray.stages.answers import PREDICTIONS_TABLE
from hydra_ray.stages.plan import Plan, plan_recorded
from hydra_ray.stages.run import personalize

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """An update that is whole."""

    plan: Plan
    is_made_now: bool
    """Whether this call made it; False where the same files had been handed in before."""


def update_run(
    run_folder: str,
    users: Sequence[str],
    name: str | None = None,
    overrides: Sequence[str] = (),
    *,
    is_feedback: bool = False,
) -> Updated:
    """Update a finished run by what is handed in, once every earlier update is whole; wait for another process that
    updates the run. Where there are `storage.compact_after` updates by then that are not compacted, compact them.

    Args:
        run_folder: folder of the finished run.
        users: files of users, or one folder of official LaMP files, of which the new split is read.
        name: name of the update; by default the first file's name without its suffix.
        overrides: each `section.key=value`; of placement, report and input settings.
        is_feedback: whether the files hold no users and are feedback on answers (`hydra_ray.lamp.feedback`).

    Raises:
        NothingNewError: what is handed in is there already, and nothing is changed.
        HydraError: what went wrong, and what to do about it.
    """
    run = read_config(run_folder)
    with lease(run_lease(run.storage.root, f"{run.run}+"), f"updates of the run {run.run}"):
        line = updates_of(run.storage.root, run.run)
        config = update_config(run_folder, users, name, overrides, is_feedback=is_feedback, known=line)
        for each in line:
            if each.run == config.run and each.is_finished:
                return Updated(plan=plan_recorded(storage.join(run.storage.root, "runs", each.run)), is_made_now=False)
            if _is_under_way(each) and each.run != config.run:
                _log.info("the update %s was not finished: it goes on first", each.run)
                personalize(each.config)
                config = update_config(run_folder, users, name, overrides, is_feedback=is_feedback, known=line)
        plan = personalize(config)
        if config.storage.compact_after:
            compact_updates(run_folder, config.storage.compact_after, line)
        return Updated(plan=plan, is_made_now=True)


def update_config(
    run_folder: str,
    users: Sequence[str],
    name: str | None = None,
    overrides: Sequence[str] = (),
    *,
    is_feedback: bool = False,
    known: Iterable[Update] = (),
) -> RunConfig:
    """Return the configuration of the update by which some files are handed in: of the one that is there, where they
    were handed in before.

    Args:
        run_folder, users, name, overrides, is_feedback: see `update_run`.
        known: updates of the run as they were before; see `updates_of`.

    Raises:
        InputError: there is no such run, it is itself an update, a file is missing, or its task cannot learn from
            feedback.
        ConfigError: the name or an override is wrong.
    """
    run = read_config(run_folder)
    before = updates_of(run.storage.root, run.run, known)
    named = f"{run.run}+{name or PurePosixPath(unpacked_name(users[0])).stem}"
    settings = update_settings(run_folder, users, named, before, overrides, is_feedback=is_feedback)
    handed_in = settings["update"]["handed_in"]
    same = next((each for each in before if each.config.update and each.config.update.handed_in == handed_in), None)
    if same is not None and same.is_finished:
        return same.config
    if same is not None:
        settings |= {"run": same.run, "update": same.config.model_dump(mode="json")["update"]}
    else:
        settings["run"] = _new_name(named, before)
    return check_config(settings, source=f"the configuration of an update of {run_folder}")


def update_settings(
    run_folder: str,
    users: Sequence[str],
    name: str,
    before: Sequence[Update],
    overrides: Sequence[str],
    *,
    is_feedback: bool = False,
) -> dict[str, Any]:
    """Return the settings of a run that takes what is handed in after some updates.

    Args:
        name: name of that run.
        before: updates of the run, oldest first.
        run_folder, users, overrides, is_feedback: see `update_run`.

    Raises:
        InputError: there is no such run, it is itself an update, a file is missing, or its task cannot learn from
            feedback.
        ConfigError: the name or an override is wrong.
    """
    run = read_config(run_folder)
    if run.taught_by is not None:
        raise InputError(f"{run_folder} is an update of the run {run.taught_by}: give {run.taught_by} instead")
    if is_feedback:
        _require_learnable(task_of(run.lamp))
    source = {"root": None, "users_files": list(users)} if is_feedback else source_of(users)
    settings = run.model_dump(mode="json")
    settings["run"] = name
    settings["taught_by"] = run.run
    settings["refresh"] = None
    settings["lamp"] |= {"planted": None, "train_split": None, **source}
    settings["users"] |= {"num_folds": 1, "max_users": None}
    for override in overrides:
        settings = apply_override(settings, override)
    lamp = check_config(settings, source=f"the configuration of an update of {run_folder}").lamp
    kind = {"is_feedback": True} if is_feedback else {}
    handed_in = fingerprint("handed in", 1, kind, input_fingerprint(lamp, is_by_content=True))
    return settings | {"update": {"follows": directly_before(run.run, before), "handed_in": handed_in, **kind}}


def updated_text(updated: Updated, summary: dict[str, Any]) -> str:
    """Return a summary as a few lines of text, of which the last are the locations of the answers, where there are any,
    and of the update.

    Args:
        summary: see `hydra_ray.stages.update_summary`.
    """
    folder = updated.plan.run_folder
    answers = storage.join(folder, PREDICTIONS_TABLE)
    found = [f"answers: {answers}", folder] if storage.exists(answers) else [folder]
    heads = [
        f"{scorer} heads: {', '.join(f'{number} {kind}' for kind, number in found.items())}"
        for scorer, found in summary["heads"].items()
    ]
    head = f"{summary['run']}: {users_text(summary)}"
    if not updated.is_made_now:
        return "\n".join(["nothing is changed: the same was handed in before", head, *found])
    asked = f"{counted(summary['requests'], 'request')}, {summary['asked_now']} of them asked now; "
    return "\n".join([head, *heads, f"{asked}{summary['seconds']} s", *found])


def _require_learnable(task: Task) -> None:
    if not task.has_pseudo_queries:
        raise InputError(
            f"records of the task {task.name} are documents of the user and no answers: what people say of answers "
            "cannot become records of theirs"
        )


def _is_under_way(update: Update) -> bool:
    return update.config.update is not None and not update.is_finished


def _new_name(run: str, before: Sequence[Update]) -> str:
    """Return the name of a new update: with a number, where others have its name."""
    taken = {each.run for each in before}
    return next(name for number in count(1) if (name := run if number == 1 else f"{run}-{number}") not in taken)


def directly_before(run: str, before: Sequence[Update]) -> list[str]:
    """Return the runs that the next update follows, or a refresh: the newest one, and before the first all that hold
    users.

    Args:
        before: updates of the run, oldest first.
    """
    if before and before[-1].config.update is not None:
        return [before[-1].run]
    return [run, *(each.run for each in before if each.is_finished)]
