"""Models in local folders."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from hydra_ray.errors import ModelError
from hydra_ray.models.content import CONFIG, content_of, model_files, names_below, require_whole, weight_files
from hydra_ray.models.node_cache import file_digests

_CONTENT = "content:"


def identity_of(content: object) -> str:
    """Return the identity, for fingerprints, of a model that holds `content`."""
    return f"{_CONTENT}{content}"


def is_content(identity: str) -> bool:
    """Return whether an identity is a content hash and not a package's version."""
    return identity.startswith(_CONTENT)


def content_in(identity: str) -> str:
    """Return the content that an identity was made from."""
    return identity.removeprefix(_CONTENT)


def folder_identity(folder: Path, *, with_weights: bool) -> str:
    """Return the identity of the model in `folder`."""
    names = model_files(names_below(folder), with_weights=with_weights)
    return identity_of(content_of(file_digests(folder, names)))


def folder_weight_bytes(folder: Path) -> int:
    """Return the size of the weights in `folder`."""
    return sum((folder / name).stat().st_size for name in weight_files(names_below(folder)))


def former_identity(sizes: dict[str, int], config: bytes) -> str:
    """Return a folder's identity from before content hashes: a hash of its configuration and file sizes."""
    return f"folder:{hashlib.blake2b(repr(sorted(sizes.items())).encode() + config, digest_size=8).hexdigest()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderModel:
    """A model in the absolute folder `spec`; see `hydra_ray.models.Model`."""

    spec: str

    @property
    def place(self) -> str:
        """Name of the model in a configuration."""
        return self.spec

    @property
    def folder(self) -> Path:
        """Folder of the model.

        Raises:
            ModelError: it is below the home of a user who has none here.
        """
        try:
            return Path(self.spec).expanduser()
        except RuntimeError as error:
            raise ModelError(f"{self.spec} cannot be found ({error}): give the model's absolute folder.") from error

    def source(self, *, with_weights: bool) -> str:  # noqa: ARG002
        """Return the empty text: the content of a folder may change."""
        return ""

    def pinned(self, identity: str) -> str:  # noqa: ARG002
        """Return the folder: it must hold the same model on every node."""
        return self.spec

    def fetch(self, *, with_weights: bool) -> Path:
        """Return the folder after checking that it is complete."""
        require_whole(self.folder, self.spec, with_weights=with_weights)
        return self.folder

    def identity(self, *, with_weights: bool) -> str:
        """Return the identity of the folder's content."""
        return folder_identity(self.fetch(with_weights=with_weights), with_weights=with_weights)

    def former_identity(self) -> str:
        """Return the folder's identity from before content hashes."""
        sizes = {name: (self.folder / name).stat().st_size for name in names_below(self.folder)}
        return former_identity(sizes, (self.folder / CONFIG).read_bytes())

    def weight_bytes(self) -> int | None:
        """Return the size of the weights; None where there are none."""
        return folder_weight_bytes(self.folder) or None

    def missing_bytes(self) -> int:
        """Return 0: the model is on this node."""
        return 0
