"""Every kind of file below a storage root, and where users are in it.

A file of no kind known here stops the forgetting before anything is changed: whoever adds an artefact decides here what
becomes of the users in it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from hydra_ray import storage
from hydra_ray.errors import StorageError
from hydra_ray.generate.completion_store import STORES
from hydra_ray.models.model_records import MODELS
from hydra_ray.runs.root import FORGOTTEN, KEY
from hydra_ray.runs.stage import LEASE, MANIFEST
from hydra_ray.storage import DAMAGED_SUFFIX


class Kind(StrEnum):
    """What an artefact is."""

    TABLE = "table"
    """Parquet, whose column `user_id` tells whose a row is."""
    ANSWERS = "answers"
    """What the generator answered: Parquet, whose column `user` tells a user's pseudonym."""
    REJECTED = "rejected"
    """The table of samples that could not be used."""
    PREDICTIONS = "predictions"
    """LaMP's format; the id of a query tells whose an answer is."""
    REPORT = "report"
    """metrics.json, of which report.html is made."""
    PAGE = "page"
    """report.html; made anew whenever its metrics.json changes."""
    LEARNED = "learned"
    """What a cohort taught: a base, a population, a labeller. It holds no user's rows, and no user can be taken out."""
    UNFINISHED = "unfinished"
    """What work that was killed left behind: temporary files, checkpoints, what an incomplete stage had learned; and
    tables that were damaged and made again."""
    LEASE = "lease"
    """Who is making a stage, running a run or forgetting users: a process, no user."""
    RECORD = "record"
    """Settings, manifests, summaries, models, receipts: they name no user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """One file. Key: path."""

    kind: Kind
    path: str
    """Below the root."""
    location: str

    @property
    def folder(self) -> str:
        """Path of the folder that the file is in."""
        return self.path.rpartition("/")[0]

    @property
    def is_manifest(self) -> bool:
        """Whether the file is the manifest of a stage."""
        return self.path == f"{self.stage_folder}/{MANIFEST}"

    @property
    def stage_folder(self) -> str:
        """Path of the folder of the stage that the file is a part of; empty where it is of none."""
        match = _STAGE.match(self.path)
        return match[0] if match else ""


_FINGERPRINT = "[0-9a-f]{16}"
_BUCKET = r"bucket-\d{5}"
_STAGE = re.compile(rf"stages/[a-z]+(/[a-z]+)?/{_FINGERPRINT}")
_TEACHING = re.compile(rf"stages/((reranker|adapter)/(base|heads)|adapter/labeller)/{_FINGERPRINT}/")
_PATTERNS: dict[Kind, str] = {
    Kind.UNFINISHED: rf".+\.[0-9a-f]{{32}}\.tmp|.+{re.escape(DAMAGED_SUFFIX)}|"
    rf"{_STAGE.pattern}/(train|tune)/.+",
    Kind.REJECTED: rf"stages/users/{_FINGERPRINT}/rejected/{_BUCKET}\.parquet",
    Kind.TABLE: rf"{_STAGE.pattern}/.+/{_BUCKET}\.parquet",
    Kind.ANSWERS: rf"{STORES}/{_FINGERPRINT}/{_BUCKET}/[^/]+\.parquet",
    Kind.PREDICTIONS: rf"(stages/answers/{_FINGERPRINT}|runs/[^/]+)/predictions\.json",
    Kind.REPORT: rf"(stages/report/{_FINGERPRINT}|runs/[^/]+)/metrics\.json",
    Kind.PAGE: rf"(stages/report/{_FINGERPRINT}|runs/[^/]+)/report\.html",
    Kind.LEARNED: rf"{_STAGE.pattern}/(base(-\d+)?|population-\d+)/[^/]+|"
    rf"stages/adapter/labeller/{_FINGERPRINT}/labeller\.safetensors",
    Kind.LEASE: rf"(.+/)?{re.escape(LEASE)}",
    Kind.RECORD: rf"{_STAGE.pattern}/{re.escape(MANIFEST)}|runs/[^/]+/(config|outline|stages|summary)\.json|"
    r"sweeps/.+|"
    rf"{KEY}|{FORGOTTEN}/[0-9a-f]{{32}}\.json|{MODELS}/{_FINGERPRINT}\.json",
}
_KINDS = {kind: re.compile(pattern) for kind, pattern in _PATTERNS.items()}


def artefacts(root: str) -> list[Artefact]:
    """Return every file below a root.

    Raises:
        StorageError: there are files of no known kind.
    """
    paths = storage.list_tree(root)
    complete = {path.removesuffix(MANIFEST) for path in paths if path.endswith(f"/{MANIFEST}")}
    known = _kinds(paths, complete)
    found = [Artefact(kind=kind, path=path, location=storage.join(root, path)) for path, kind in known]
    unknown = sorted(set(paths) - {each.path for each in found})
    if unknown:
        raise StorageError(
            f"{len(unknown)} files below {root} are of no kind that a user can be removed from, such as {unknown[:3]}. "
            "Nothing was changed. Move what is not of hydra_ray elsewhere; for the rest, hydra_ray.forget.file_kinds "
            "must learn what it is."
        )
    return found


def _kinds(paths: list[str], complete: set[str]) -> Iterator[tuple[str, Kind]]:
    """Yield the paths of known kinds; in a stage that is to teach but was not completed, everything is unfinished.

    Args:
        complete: folders of the stages that have a manifest.
    """
    for path in paths:
        teaching = _TEACHING.match(path)
        kind = next((kind for kind, pattern in _KINDS.items() if pattern.fullmatch(path)), None)
        if kind is not None:
            is_unfinished = kind != Kind.LEASE and teaching and teaching[0] not in complete
            yield path, Kind.UNFINISHED if is_unfinished else kind
