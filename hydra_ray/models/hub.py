"""Models of the Hugging Face hub, fetched once into this node's Hugging Face cache and loaded from there.

A name without a revision means the main branch: each process resolves it to a commit once, and plans pass the commit to
workers. Downloads, their locks and their resumption are those of huggingface_hub.
"""

import contextlib
import glob
import logging
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra_ray.errors import ModelError
from hydra_ray.models.content import CONFIG, content_of, model_files, require_model, require_whole, weight_files
from hydra_ray.models.folder import folder_identity, folder_weight_bytes, identity_of
from hydra_ray.models.node_cache import alone, cache_folder, file_digest, file_digests

REVISION = "@"
"""Separator of a repository's name and a branch, tag or commit."""
_SHA256 = re.compile("[0-9a-f]{64}")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A model of the repository `repository`; see `hydra_ray.models.Model`."""

    repository: str
    revision: str = ""
    """Branch, tag or commit; the main branch where empty."""

    @property
    def spec(self) -> str:
        """The model's name in a configuration."""
        return f"{self.repository}{REVISION}{self.revision}" if self.revision else self.repository

    @property
    def place(self) -> str:
        """Name of the repository."""
        return self.repository

    @property
    def commit(self) -> str:
        """Commit that the revision resolves to."""
        return _commit(self.repository, self.revision)

    def source(self, *, with_weights: bool) -> str:
        """Return the repository, its commit and whether weights are included."""
        return f"{self.pinned('')}{'' if with_weights else ' without weights'}"

    def pinned(self, identity: str) -> str:  # noqa: ARG002 -- a commit pins everything
        """Return the repository and its commit."""
        return f"{self.repository}{REVISION}{self.commit}"

    def fetch(self, *, with_weights: bool) -> Path:
        """Return the snapshot's folder in this node's Hugging Face cache, downloading it first if needed.

        Raises:
            ModelError: it is not a model, it is neither in the cache nor available from the hub, or the disk is full.
        """
        folder = self._here(with_weights=with_weights)
        if folder is None:
            cache_folder().mkdir(parents=True, exist_ok=True)
            with alone(cache_folder() / self.pinned("").replace("/", "--")):
                folder = self._here(with_weights=with_weights) or self._fetch(with_weights)
        self._require_undamaged(folder, with_weights)
        require_whole(folder, self.spec, with_weights=with_weights)
        return folder

    def identity(self, *, with_weights: bool) -> str:
        """Return the identity of the commit's content; weights are not downloaded, because the hub reports their
        digests."""
        folder = self._here(with_weights=with_weights)
        listed = None if folder else self._listed()
        if listed is None:
            return folder_identity(self.fetch(with_weights=with_weights), with_weights=with_weights)
        wanted = self._wanted(listed, with_weights)
        reported = {name: listed[name].lfs.sha256 for name in wanted if listed[name].lfs is not None}
        small = {name: listed[name] for name in wanted if name not in reported}
        return identity_of(content_of({**reported, **file_digests(self._download(small), small)}))

    def former_identity(self) -> str | None:
        """Return the name, which was the whole identity; None for a configured revision, which had none."""
        return None if self.revision else self.repository

    def weight_bytes(self) -> int | None:
        """Return the size of the weights; None where they are not cached and the hub cannot be reached."""
        with contextlib.suppress(UnreachableHubError):
            folder = self._here(with_weights=True)
            if folder is not None:
                return folder_weight_bytes(folder)
            listed = self._listed() or {}
            return sum(listed[name].size for name in weight_files(listed)) or None
        return None

    def _fetch(self, with_weights: bool) -> Path:
        """Return the snapshot's folder after downloading missing files; without a hub, whatever is cached."""
        listed = self._listed()
        if listed is None:
            return self._cached()
        return self._download({name: listed[name] for name in self._wanted(listed, with_weights)})

    def missing_bytes(self) -> int:
        """Return the size of the files that are not in this node's cache."""
        listed = None if self._here(with_weights=True) else self._listed()
        if listed is None:
            return 0
        return sum(listed[name].size for name in self._wanted(listed, True) if self._cached_file(name) is None)

    def _wanted(self, listed: Mapping[str, Any], with_weights: bool) -> list[str]:
        require_model(listed, self.spec, with_weights=with_weights)
        return model_files(listed, with_weights=with_weights)

    def _here(self, *, with_weights: bool) -> Path | None:
        """Return the snapshot's folder if it is completely cached; does not contact the hub."""
        from huggingface_hub import get_cached_repo_tree
        from huggingface_hub.errors import CachedRepoTreeNotFoundError

        try:
            names = [each.path for each in get_cached_repo_tree(self.repository, revision=self.commit)]
        except CachedRepoTreeNotFoundError:
            return None
        wanted = {*model_files(names, with_weights=with_weights), CONFIG}
        found = {name: self._cached_file(name) for name in wanted}
        config = found[CONFIG]
        return None if config is None or None in found.values() else config.parent

    def _cached_file(self, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repository, name, revision=self.commit)
        return Path(found) if isinstance(found, str) else None

    def _listed(self) -> dict[str, Any] | None:
        """Return the files of the commit as the hub lists them; None where it cannot be reached."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        with contextlib.suppress(UnreachableHubError), _hub_errors(self.spec):
            entries = HfApi().list_repo_tree(self.repository, recursive=True, revision=self.commit)
            return {each.path: each for each in entries if isinstance(each, RepoFile)}
        return None

    def _cached(self) -> Path:
        """Return the snapshot's folder, which may be incomplete."""
        from huggingface_hub import snapshot_download

        with _hub_errors(self.spec):
            return Path(snapshot_download(self.repository, revision=self.commit, local_files_only=True))

    def _download(self, files: Mapping[str, Any]) -> Path:
        """Return the snapshot's folder after downloading those of the files that are missing."""
        from huggingface_hub import snapshot_download

        num_bytes = sum(each.size for name, each in files.items() if self._cached_file(name) is None)
        if num_bytes:
            _require_room(self.spec, num_bytes)
            _LOG.info("downloading %s from the hub, %.2f GB", self.pinned(""), num_bytes / 1e9)
        start = time.monotonic()
        with _hub_errors(self.spec):
            folder = snapshot_download(
                self.repository,
                revision=self.commit,
                allow_patterns=[glob.escape(name) for name in files],
                tqdm_class=_silent(),
            )
        if num_bytes:
            _LOG.info("downloaded %s in %.1f s", self.spec, time.monotonic() - start)
        return Path(folder)

    def _require_undamaged(self, folder: Path, with_weights: bool) -> None:
        """Compare large files with their digests, by which the cache names them."""
        for name in model_files((path.name for path in folder.iterdir()), with_weights=with_weights):
            blob = (folder / name).resolve()
            if _SHA256.fullmatch(blob.name) and file_digest(blob) != blob.name:
                blob.unlink()
                (folder / name).unlink()
                raise ModelError(f"{name} of {self.spec} was damaged in this node's cache and is removed: run again")


class UnreachableHubError(ModelError):
    """The hub cannot be reached."""


@cache
def _commit(repository: str, revision: str) -> str:
    spec = HubModel(repository=repository, revision=revision).spec
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UnreachableHubError(f"{spec} is a model of the hub, and huggingface_hub is not installed here") from error
    with _hub_errors(spec):
        return HfApi().resolve_revision(repository, revision=revision or None).resolved


def _require_room(spec: str, num_bytes: int) -> None:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ModelError(
            f"{spec} needs {num_bytes / 1e9:.2f} GB more on this node, and {free / 1e9:.2f} GB are free at {folder}. "
            "Free space there, or set HF_HOME to a folder on a larger disk."
        )


def _silent() -> Any:
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):
        """Shows no progress: many processes write to one log."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **{**settings, "disable": True})

    return Silent


@contextlib.contextmanager
def _hub_errors(spec: str) -> Iterator[None]:
    """Convert errors of huggingface_hub into errors that say what to do."""
    import httpx2
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{spec} is gated: accept its terms on the hub, and set HF_TOKEN on every node to a token of that account "
            f"({_first_line(error)})"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"{spec} is not a revision of that repository: give one of its branches, tags or commits"
        ) from (error)
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{spec} is not a repository of {constants.ENDPOINT}, or a private one: check the name, set HF_TOKEN on "
            f"every node to a token that may read it, or give an absolute folder{_folder_hint(spec)}"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.RevisionResolutionError, errors.OfflineModeIsEnabled) as error:
        raise UnreachableHubError(_unreachable(spec, constants, error)) from error
    except httpx2.TransportError as error:
        raise UnreachableHubError(_unreachable(spec, constants, error)) from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code >= 500:
            raise UnreachableHubError(_unreachable(spec, constants, error)) from error
        raise ModelError(
            f"{constants.ENDPOINT} refuses {spec} with status {error.response.status_code}: set HF_TOKEN on every node "
            f"to a token that may read it ({_first_line(error)})"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot fetch {spec} from {constants.ENDPOINT}: {error}") from error


def _unreachable(spec: str, constants: Any, error: Exception) -> str:
    kept = f"HF_HUB_OFFLINE keeps it from being fetched from {constants.ENDPOINT}"
    reason = kept if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached: {_first_line(error)}"
    return (
        f"{spec} is missing or incomplete in this node's Hugging Face cache ({constants.HF_HUB_CACHE}), and {reason}. "
        f"Let the node reach the hub, or put the model's folder in the store and set s3://bucket/folder{_folder_hint(spec)}"
    )


def _folder_hint(spec: str) -> str:
    folder = Path(spec)
    return f"; to use the local folder, set its absolute path {folder.resolve()}" if folder.is_dir() else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
