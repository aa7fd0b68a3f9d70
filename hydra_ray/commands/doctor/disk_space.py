"""Checks that a run's output can be written and fits: below its root, in temporary folders, in the model cache."""

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hydra_ray import storage
from hydra_ray.commands.doctor.machine import GIGABYTE, Disk, disk_of, gigabytes
from hydra_ray.commands.doctor.model_files import ModelDescription
from hydra_ray.config import RunConfig
from hydra_ray.errors import HydraError
from hydra_ray.findings import Finding, problem, unusable
from hydra_ray.forecast.disk import run_bytes
from hydra_ray.lamp.seen_users import SeenUsers, num_requests
from hydra_ray.temporary import temporary_place

_RAY_BYTES = 1 * GIGABYTE
"""Allowance for Ray's logs and for objects that it spills."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Disk space that a run needs in a folder."""

    what: str
    folder: str
    num_bytes: float


def storage_finding(root: str, given: str) -> Finding:
    """Return a finding on whether files can be written, read and removed below the root of a run.

    Args:
        given: root as written in the configuration.
    """
    try:
        storage.require_absolute(root, "storage.root")
    except HydraError as error:
        return unusable("storage.root", root, error)
    # Named like any unfinished file, so that one left behind by a kill is recognized as such.
    marker = storage.join(root, f"doctor.{uuid.uuid4().hex}.tmp")
    made = [] if storage.is_uri(root) else _missing_folders(Path(root))
    try:
        storage.write_bytes(marker, b"written")
        is_kept = storage.read_bytes(marker) == b"written"
        storage.remove_file(marker)
    except (HydraError, OSError) as error:
        if isinstance(error.__cause__, OSError) and not storage.is_uri(root):
            reason = error.__cause__.strerror or str(error.__cause__)
            return problem("storage.root", root, f"no file can be written there ({reason}): set another folder")
        return problem("storage.root", root, str(error))
    finally:
        for folder in made:
            with suppress(OSError):  # it does not exist, or is not empty any more
                folder.rmdir()
    if not is_kept:
        return problem("storage.root", root, "what was written there reads otherwise: use another store")
    relative = "" if storage.is_uri(given) or os.path.isabs(given) else f", {given!r} in this working directory"
    return Finding(name="storage.root", value=f"{root}{relative}: written, read and removed")


def needs_of(
    config: RunConfig, seen: SeenUsers, generator: ModelDescription | None, encoders: Sequence[ModelDescription]
) -> list[Need]:
    """Return the disk space that a run needs on this machine.

    Args:
        generator: generator's model; None where none is loaded.
        encoders: encoders that bases are made from.
    """
    temporary = os.environ.get("RAY_TMPDIR") or temporary_place()
    needs = [Need(what="Ray", folder=temporary, num_bytes=_RAY_BYTES)]
    needs.append(Need(what="users while they are read", folder=temporary_place(), num_bytes=seen.input_bytes))
    needs += (
        Need(what=model.spec, folder=model.cache, num_bytes=model.missing_bytes)
        for model in (*encoders, generator)
        if model is not None and model.missing_bytes
    )
    if not storage.is_uri(config.storage.root):
        bases = 0 if config.taught_by else _bases_bytes(config, encoders)
        asked = num_requests(config, seen)
        written = run_bytes(seen.input_bytes, bases, asked, config.users.num_folds)
        needs.append(Need(what="the run's tables", folder=config.storage.root, num_bytes=written))
    return needs


def room_findings(needs: Sequence[Need], disks: Mapping[str, Disk]) -> Iterator[Finding]:
    """Yield findings on whether the disks have the space: folders on the same one share it.

    Args:
        disks: disk of each needed folder.
    """
    by_device: dict[int, list[Need]] = {}
    for need in needs:
        by_device.setdefault(disks[need.folder].device, []).append(need)
    for own in by_device.values():
        free, wanted = disks[own[0].folder].free_bytes, sum(need.num_bytes for need in own)
        folders = ", ".join(dict.fromkeys(need.folder for need in own))
        value = f"about {gigabytes(wanted)} wanted, {gigabytes(free)} free: {folders}"
        if wanted > free:
            most = max(own, key=lambda need: need.num_bytes)
            yield problem("disk", value, f"free space there; {gigabytes(most.num_bytes)} are for {most.what}")
        else:
            yield Finding(name="disk", value=value)


def disks_of(needs: Sequence[Need]) -> dict[str, Disk]:
    """Return the disks of the folders that need space."""
    return {need.folder: disk_of(need.folder) for need in needs}


def _bases_bytes(config: RunConfig, encoders: Sequence[ModelDescription]) -> int:
    sizes = {model.spec: model.weight_bytes or 0 for model in encoders}
    return sum(
        sizes.get(scorer.base.encoder, 0) * (config.users.num_folds if scorer.base.num_epochs else 1)
        for scorer in (config.reranker, config.adapter)
    )


def _missing_folders(folder: Path) -> list[Path]:
    """Return those of a folder and its parents that do not exist, the lowest first."""
    return [each for each in (folder, *folder.parents) if not os.path.exists(each)]
