"""Kinds of files below a storage root, and where each holds data of users.

A file of an unknown kind stops the removal of users before anything is changed. Stages declare the kinds of their own
files (`StageDefinition.file_kinds`); any other artefact must be declared here, with how users are removed from it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from hydra_ray import storage
from hydra_ray.errors import StorageError
from hydra_ray.generate.batches.records import BATCHES
from hydra_ray.models.model_records import MODELS
from hydra_ray.runs.root import FORGOTTEN, KEY, KEY_CHECK, STORES
from hydra_ray.runs.stage import LEASE, MANIFEST
from hydra_ray.stages.definition import StageDefinition, definitions
from hydra_ray.storage import DAMAGED_SUFFIX
from hydra_ray.storage.listings import RUN_FILES


class Kind(StrEnum):
    """Kind of an artefact."""

    TABLE = "table"
    """Parquet with the owner of a row in the column `user_id`."""
    ANSWERS = "answers"
    """Stored completions: Parquet with the owner's pseudonym in the column `user`."""
    REJECTED = "rejected"
    """Table of samples that could not be used."""
    PREDICTIONS = "predictions"
    """Predictions in LaMP's format; the table of predictions beside them tells the owners, and in its absence the
    queries' ids."""
    REPORT = "report"
    """metrics.json, from which report.html is rendered."""
    PAGE = "page"
    """report.html, rendered again whenever its metrics.json changes."""
    LEARNED = "learned"
    """Parameters trained on many users: a base, a prior, a label model. They hold no user's rows, and no user can be
    taken out of them."""
    UNFINISHED = "unfinished"
    """Leftovers of killed processes: temporary files, checkpoints, parameters of an incomplete stage; and damaged
    tables that were set aside."""
    LEASE = "lease"
    """Lease of a stage, a run or a root: names a process, no user."""
    RECORD = "record"
    """Settings, manifests, summaries, models, receipts: they name no user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """One file below a root. Key: path."""

    kind: Kind
    path: str
    """Path below the root."""
    location: str

    @property
    def folder(self) -> str:
        """Path of the folder that contains the file."""
        return self.path.rpartition("/")[0]

    @property
    def is_manifest(self) -> bool:
        """Whether the file is the manifest of a stage."""
        return self.path == f"{self.stage_folder}/{MANIFEST}"

    @property
    def is_listing(self) -> bool:
        """Whether the file lists the digests of the others in its folder."""
        return self.is_manifest or re.fullmatch(rf"runs/[^/]+/{re.escape(RUN_FILES)}", self.path) is not None

    @property
    def stage_folder(self) -> str:
        """Path of the folder of the stage that the file belongs to; empty where it belongs to none."""
        match = _STAGE.match(self.path)
        return match[0] if match else ""


_FINGERPRINT = "[0-9a-f]{16}"
_BUCKET = r"bucket-\d{5}"
_STAGE = re.compile(rf"stages/[a-z]+(/[a-z]+)?/{_FINGERPRINT}")
_ROOT_PATTERNS: dict[Kind, str] = {
    Kind.UNFINISHED: rf".+\.[0-9a-f]{{32}}\.tmp|.+{re.escape(DAMAGED_SUFFIX)}",
    Kind.TABLE: rf"{_STAGE.pattern}/.+/{_BUCKET}\.parquet|runs/[^/]+/predictions\.parquet|"
    rf"{STORES}/{_FINGERPRINT}/{BATCHES}/[^/]+/{_BUCKET}\.parquet",
    Kind.ANSWERS: rf"{STORES}/{_FINGERPRINT}/{_BUCKET}/[^/]+\.parquet",
    Kind.PREDICTIONS: r"runs/[^/]+/predictions\.json",
    Kind.REPORT: r"runs/[^/]+/metrics\.json",
    Kind.PAGE: r"runs/[^/]+/report\.html",
    Kind.LEASE: rf"(.+/)?{re.escape(LEASE)}",
    Kind.RECORD: rf"{_STAGE.pattern}/{re.escape(MANIFEST)}|"
    r"runs/[^/]+/((config|files|outline|stages|summary|trackers)\.json|tensorboard/[^/]+)|"
    r"sweeps/.+|"
    rf"{STORES}/{_FINGERPRINT}/{BATCHES}/[0-9a-f]{{32}}\.json|"
    rf"{KEY}|({FORGOTTEN}/)?{re.escape(KEY_CHECK)}|{FORGOTTEN}/[0-9a-f]{{32}}\.json|{MODELS}/{_FINGERPRINT}\.json",
}
"""Kinds of files by their path, besides the kinds that stages declare of their own files."""


@lru_cache
def _patterns(stages: tuple[StageDefinition, ...]) -> tuple[tuple[Kind, re.Pattern[str]], ...]:
    """Return the kinds with the patterns of their paths; the first that fits counts."""
    unfinished, *others = _ROOT_PATTERNS.items()
    declared = [
        (Kind(kind), f"{_folder_pattern(stage)}/(?:{pattern})")
        for stage in stages
        for pattern, kind in stage.file_kinds.items()
    ]
    return tuple((kind, re.compile(pattern)) for kind, pattern in (unfinished, *declared, *others))


def _folder_pattern(stage: StageDefinition) -> str:
    return f"stages/{'/'.join(map(re.escape, stage.name.split('.')))}/{_FINGERPRINT}"


def stage_of(path: str) -> StageDefinition | None:
    """Return the definition of the stage that a path is a part of; None where there is none."""
    return next((each for each in definitions() if re.match(f"{_folder_pattern(each)}/", f"{path}/")), None)


def artefacts(root: str) -> list[Artefact]:
    """Return every file below a root.

    Raises:
        StorageError: there are files of an unknown kind.
    """
    paths = storage.list_tree(root)
    complete = {path.removesuffix(MANIFEST) for path in paths if path.endswith(f"/{MANIFEST}")}
    known = _kinds(paths, complete)
    found = [Artefact(kind=kind, path=path, location=storage.join(root, path)) for path, kind in known]
    unknown = sorted(set(paths) - {each.path for each in found})
    if unknown:
        raise StorageError(
            f"{len(unknown)} files below {root} are of unknown kinds, such as {unknown[:3]}, so users cannot be "
            "removed from them. Nothing was changed. Move files that are not hydra_ray's elsewhere; a file of a stage "
            "must be declared in the `file_kinds` of its definition (hydra_ray.stages), any other one in "
            "hydra_ray.forget.file_kinds."
        )
    return found


def _kinds(paths: list[str], complete: set[str]) -> Iterator[tuple[str, Kind]]:
    """Yield the paths of known kinds; every file of an incomplete training stage counts as unfinished.

    Args:
        complete: folders of the stages that have a manifest.
    """
    patterns = _patterns(definitions())
    learning = [re.compile(f"{_folder_pattern(each)}/") for each in definitions() if each.learns_from is not None]
    for path in paths:
        folder = next((match[0] for match in (each.match(path) for each in learning) if match), None)
        kind = next((kind for kind, pattern in patterns if pattern.fullmatch(path)), None)
        if kind is not None:
            is_unfinished = kind != Kind.LEASE and folder is not None and folder not in complete
            yield path, Kind.UNFINISHED if is_unfinished else kind
