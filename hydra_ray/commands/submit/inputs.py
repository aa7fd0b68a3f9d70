"""Users' files on this machine that a cluster cannot read, and where they are copied for it.

They hold users' raw texts, so they are copied neither below storage.root, where every file must be of a kind that
`forget` knows, nor into the job's working directory, which Ray keeps on its nodes.
"""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra_ray import storage
from hydra_ray.errors import InputError
from hydra_ray.lamp.input_files import input_files
from hydra_ray.lamp.lamp_files import QUESTIONS
from hydra_ray.storage.locations import require_supported

_SPLITS = ("train_split", "new_split")
_LAMP_FILES = ("questions", "outputs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Locations of users' files for the cluster. Key: their names in the command or configuration."""

    locations: tuple[str, ...]
    """Locations, in the given order."""
    copies: Mapping[Path, str] = field(default_factory=dict)
    """Files of this machine that are still to be copied, with their destinations."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""


def place_files(named: Sequence[str], setting: str, upload: str | None) -> Placed:
    """Return the locations of files for the cluster, and the local files to copy there first.

    Args:
        named: files, folders of parts and patterns; an absolute path is the cluster's, unless it exists on this machine
            too and `upload` is given.
        setting: setting or option that names them, for messages.
        upload: folder that this machine can write and the cluster can read.

    Raises:
        InputError: a file is on this machine only and there is no `upload`, or it does not exist.
    """
    locations: list[str] = []
    copies: dict[Path, str] = {}
    notes: list[str] = []
    for each in named:
        path = Path(each).expanduser()
        here = () if storage.is_uri(each) else _files_here(path)
        if _is_elsewhere(each, path) and not here:
            locations.append(each if storage.is_uri(each) else str(path))
        elif upload is None and path.is_absolute():
            locations.append(str(path))
            notes.append(_looked_for(setting, path))
        elif not here:
            found = "that is a folder without users' own files" if path.is_dir() else "there is no such file here"
            raise InputError(f"{setting} names {each}, and {found}: {path.absolute()}")
        else:
            folder = storage.join(_require_upload(upload, here, setting), _digest(here))
            for number, file in enumerate(here):
                # Files of several folders may have one name.
                name = file.name if len({other.name for other in here}) == len(here) else f"{number:05d}-{file.name}"
                copies[file] = storage.join(folder, name)
                locations.append(copies[file])
    return Placed(locations=tuple(locations), copies=copies, notes=tuple(notes))


def place_folder(lamp: Mapping[str, Any], upload: str | None) -> Placed:
    """Return the location of a folder of LaMP files for the cluster, and the local files to copy there first.

    Args:
        lamp: section of a configuration with its `root` set.
        upload: as for `place_files`.

    Raises:
        InputError: as `place_files`.
    """
    root, setting = str(lamp["root"]), "lamp.root"
    path = Path(root).expanduser()
    if _is_elsewhere(root, path):
        return Placed(locations=(root,))
    if upload is None and path.is_absolute():
        return Placed(locations=(str(path),), notes=(_looked_for(setting, path),))
    files = list(_lamp_files(path, lamp))
    if not files:
        raise InputError(f"{setting} is {root}, and no file of its splits is there: {path.absolute()}")
    folder = storage.join(_require_upload(upload, files, setting), _digest(files))
    return Placed(locations=(folder,), copies={each: storage.join(folder, each.name) for each in files})


def _files_here(path: Path) -> Sequence[Path]:
    """Return the files of this machine that a path or a pattern stands for."""
    if path.is_file():
        return (path,)
    try:
        found = [Path(file.location) for file in input_files([str(path)])]
    except InputError:
        return ()
    # Files of LaMP belong together: `place_folder` copies them.
    return () if any(QUESTIONS in file.name for file in found) else found


def copy_there(path: Path, location: str) -> str:
    """Copy a local file to its location for the cluster; return a note for the user."""
    if not storage.exists(location):  # its name contains a digest of its content
        with path.open("rb") as file, storage.open_output(location) as copy:
            shutil.copyfileobj(file, copy, length=16 << 20)
    return (
        f"{path} ({_size(path.stat().st_size)}) is at {location} for the cluster; that is outside storage.root, "
        "so remove it there yourself when one of its users is to be forgotten"
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.1f} kB"


def _looked_for(setting: str, path: Path) -> str:
    return f"{setting}: {path} is looked for on the cluster's machines; --upload would send the one of this machine"


def _is_elsewhere(location: str, path: Path) -> bool:
    """Return whether only the cluster can have a location.

    Raises:
        ConfigError: it is in a store that is not supported.
    """
    if storage.is_uri(location):
        require_supported(location)
        return True
    return path.is_absolute() and not path.exists()


def _require_upload(upload: str | None, files: Sequence[Path], setting: str) -> str:
    if upload is not None:
        return storage.require_absolute(upload, "--upload")
    names = " ".join(map(str, files))
    raise InputError(
        f"{setting} names {names}, on this machine alone: the cluster cannot see it. Add `--upload s3://BUCKET/FOLDER` "
        "(or a folder that both see), and it is copied there before the job starts; or copy it yourself, as with "
        f"`aws s3 cp {files[0]} s3://BUCKET/FOLDER/`, and set {setting} to that place."
    )


def _lamp_files(folder: Path, lamp: Mapping[str, Any]) -> Iterator[Path]:
    defaults = {"train_split": "train", "new_split": "dev"}
    for name in _SPLITS:
        split = lamp.get(name, defaults[name])
        for kind in _LAMP_FILES:
            path = folder / f"{split}_{kind}.json"
            if split is not None and path.is_file():
                yield path


def _digest(files: Sequence[Path]) -> str:
    """Return a digest of names and contents: the same files are copied to the same place, which a run finds
    unchanged."""
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
        digest.update(path.name.encode() + b"\0" + content)
    return digest.hexdigest()
