"""Bit flips in artefacts below a root, and what is done about a file that a run refuses."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from hydra_ray.runs.stage import MANIFEST
from hydra_ray.stages.plan import Plan

_PATTERNS: Mapping[str, Sequence[tuple[str, str]]] = {
    "users": [("users", "users/*.parquet")],
    "rejected": [("users", "rejected/*.parquet")],
    "profiles": [("profiles", "profiles/*.parquet")],
    "probes": [("probes", "probes/*.parquet")],
    "retrieved": [("probes", "retrieved/*.parquet")],
    "examples": [("reranker.examples", "examples/*.parquet")],
    "features": [("reranker.features", "**/*.parquet"), ("adapter.features", "**/*.parquet")],
    "base": [("reranker.base", "**/*.safetensors"), ("adapter.base", "**/*.safetensors")],
    "heads": [("reranker.heads", "**/*.parquet"), ("adapter.heads", "**/*.parquet")],
    "head prior": [("reranker.heads", "population*/*"), ("adapter.heads", "population*/*")],
    "labeller": [("adapter.labeller", "**/*.*")],
    "drafts": [("drafts", "drafts/*.parquet")],
    "errors": [("drafts", "errors/*.parquet"), ("probes", "errors/*.parquet")],
    "gate": [("gate", "**/*.parquet")],
    "manifest": [(name, MANIFEST) for name in ("users", "probes", "reranker.heads", "adapter.features", "drafts")],
}
"""Files of each kind of artefact: a stage and a pattern in its folder."""
COMPUTED = ("profiles", "probes", "reranker.examples", "drafts", "gate", "answers")
"""Stages that a disturbed run computes anew, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """One flipped bit of a file."""

    path: Path
    was: bytes
    now: bytes

    @property
    def is_there(self) -> bool:
        """Return whether the file is as the flip left it."""
        return self.path.exists() and self.path.read_bytes() == self.now

    def is_named(self, text: str) -> bool:
        """Return whether a text names the file, or the folder that it and nothing else is wrong with."""
        return str(self.path) in text or str(self.path.parent) in text

    def put_back(self) -> None:
        """Write the file as it was."""
        _write(self.path, self.was)


def files_of(plan: Plan, artefact: str) -> list[Path]:
    """Return the files of a kind of artefact of a run."""
    if artefact == "completions":
        return sorted(Path(plan.completions.folder).rglob("*.parquet"))
    folders = [(Path(plan.stage(stage).folder), pattern) for stage, pattern in _PATTERNS[artefact]]
    return sorted(path for folder, pattern in folders for path in folder.glob(pattern) if _is_artefact(path, pattern))


def _is_artefact(path: Path, pattern: str) -> bool:
    return path.is_file() and (path.name != MANIFEST or pattern == MANIFEST)


def flip_bit(path: Path, random: Random) -> Flip:
    """Flip one bit of a file, of which other names keep what it was."""
    was = path.read_bytes()
    now = bytearray(was)
    now[random.randrange(len(now))] ^= 1 << random.randrange(8)
    _write(path, bytes(now))
    return Flip(path=path, was=was, now=bytes(now))


def _write(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def first_computed(artefact: str, random: Random) -> str:
    """Return the first stage that is computed anew in a schedule: one that comes after the artefact."""
    if artefact == "completions":
        return "profiles"
    makers = {stage for stage, _ in _PATTERNS[artefact]}
    after = max((COMPUTED.index(each) + 1 for each in makers if each in COMPUTED), default=0)
    if makers & {"reranker.heads", "reranker.features", "reranker.base"}:
        after = max(after, COMPUTED.index("drafts"))
    if any(each.startswith("adapter") for each in makers):
        after = max(after, COMPUTED.index("gate"))
    return random.choice(COMPUTED[after:])


def remove_from(plan: Plan, first: str) -> None:
    """Remove the results of the computed stages from `first` on."""
    for name in COMPUTED[COMPUTED.index(first) :]:
        shutil.rmtree(plan.stage(name).folder, ignore_errors=True)


def link_tree(source: Path, destination: Path) -> None:
    """Give every file below a folder a second name below another; what is there is left as it is."""
    for path in _files(source):
        own = destination / path.relative_to(source)
        if not own.exists():
            own.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, own)


def follow_advice(plan: Plan, flip: Flip, text: str) -> bool:
    """Do what an error says about the flipped file; return whether it says anything."""
    stage = next(
        (each for each in plan.stages() if flip.path.is_relative_to(each.folder)),
        None,
    )
    if "remove the stage's folder" in text.lower() and stage is not None:
        shutil.rmtree(stage.folder)
        return True
    if "remove" not in text.lower():
        return False
    flip.path.unlink(missing_ok=True)
    if stage is not None:
        Path(stage.manifest_location).unlink(missing_ok=True)
    return True


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in _files(folder)}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
