"""Lineage of trained parameters: the stages that were trained on a user, from which the user cannot be removed.

A manifest names the inputs of its stage, so trained parameters can be traced back to the users that they were trained
on.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra_ray.forget.file_kinds import Artefact, Kind, stage_of
from hydra_ray.runs.stage import read_manifest

_USERS = "stages/users/"
_FOLD = re.compile(r"/[a-z]+-(\d+)$")

Manifests = Mapping[str, Mapping[str, Any]]
"""Content of the manifests, by the path of the stage's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Trained parameters of a stage. Key: (path, cohort)."""

    path: str
    """Path of their folder, below the root."""
    cohort: str | None
    """Path of the users stage that defines the training cohort; None where no manifest leads there, so that any user
    may have been in it."""
    num_users: int | None
    """Number of users in the cohort; None where it is not known."""


def read_manifests(found: Sequence[Artefact]) -> Manifests:
    """Return the content of all manifests among the artefacts."""
    return {each.folder: read_manifest(each.location) for each in found if each.is_manifest}


def learned_from(
    found: Sequence[Artefact], manifests: Manifests, rows: Mapping[str, Mapping[str, Any]]
) -> list[Learned]:
    """Return the trained parameters that a user contributed to, as far as manifests tell.

    Args:
        rows: the user's rows of the users tables, by the path of the stage's folder.
    """
    parts = {each.folder: each.stage_folder for each in found if each.kind == Kind.LEARNED}
    return [
        Learned(path=path, cohort=cohort, num_users=_size(path, cohort, manifests))
        for path, stage_folder in sorted(parts.items())
        for cohort in _cohorts(stage_folder, manifests)
        if cohort is None or (cohort in rows and _was_trained_on(path, rows[cohort]))
    ]


def _cohorts(stage_folder: str, manifests: Manifests) -> Iterator[str | None]:
    """Yield the users stages that a stage's result derives from, and None where the lineage is incomplete."""
    folders = {manifest["fingerprint"]: folder for folder, manifest in manifests.items()}
    waiting, seen = [stage_folder], set[str]()
    is_lost = False
    while waiting:
        current = waiting.pop()
        seen.add(current)
        if current.startswith(_USERS):
            yield current
        inputs = [folders.get(each, "") for each in manifests.get(current, {}).get("inputs", [""])]
        is_lost |= "" in inputs
        waiting += [folder for folder in inputs if folder and folder not in seen]
    if is_lost:
        yield None


def _was_trained_on(path: str, user: Mapping[str, Any]) -> bool:
    """Return whether a user of the cohort contributed: label models are trained on all records; bases and priors only
    on users of folds in which they are not new."""
    if _learns_from_all(path):
        return bool(user["history"])
    fold = _FOLD.search(path)
    return not user["is_new"] and (user["fold"] is None or fold is None or int(fold[1]) != user["fold"])


def _size(path: str, cohort: str | None, manifests: Manifests) -> int | None:
    if cohort is None:
        return None
    return int(manifests[cohort]["counters"]["users" if _learns_from_all(path) else "train_users"])


def _learns_from_all(path: str) -> bool:
    """Return whether the records of all users have a part in a stage, and not those of training users alone."""
    stage = stage_of(path)
    return stage is not None and stage.learns_from == "all users"
