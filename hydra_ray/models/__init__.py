"""Models by name: their files, identity and tokenizer.

A model is named by an absolute Hugging Face folder, by a folder of the object store (`s3://bucket/folder`), by a name
of the Hugging Face hub (`org/name` or `org/name@revision`), or by `package:NAME` for a model that an installed Python
package contains. Models are always loaded from the folder that `resolve_model` returns, to which each node fetches them
once.
"""

import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hydra_ray.errors import ModelError
from hydra_ray.models import object_store, packaged
from hydra_ray.models.content import CONFIG
from hydra_ray.models.folder import FolderModel
from hydra_ray.models.hub import REVISION, HubModel
from hydra_ray.models.object_store import StoredModel
from hydra_ray.models.packaged import PackagedModel
from hydra_ray.models.tokenizers import read_tokenizer
from hydra_ray.storage.locations import is_uri

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?")
_EXPECTED = (
    "an absolute folder, s3://bucket/folder, a hub name such as org/name or org/name@revision, or package:NAME for a "
    "model that an installed package contains"
)


class Model(Protocol):
    """A model by its name; there is one implementation per kind of place."""

    @property
    def spec(self) -> str:
        """The model's name in a configuration."""
        ...

    @property
    def place(self) -> str:
        """Name of the model without a revision or a required content."""
        ...

    def source(self, *, with_weights: bool) -> str:
        """Return a name of exactly what is there now, without reading weights; empty where there is no such name."""
        ...

    def pinned(self, identity: str) -> str:
        """Return a name that keeps meaning the model of this identity even when the place holds another one."""
        ...

    def fetch(self, *, with_weights: bool) -> Path:
        """Return the local folder of the model, fetching it first if it is not there yet."""
        ...

    def identity(self, *, with_weights: bool) -> str:
        """Return the model's identity for fingerprints: the same for the same content, wherever it is."""
        ...

    def former_identity(self) -> str | None:
        """Return the identity used before identities were content hashes; None where it is the same."""
        ...

    def weight_bytes(self) -> int | None:
        """Return the size of the weights without fetching them; None where it is unknown."""
        ...

    def missing_bytes(self) -> int:
        """Return the number of bytes still to be fetched to this node; 0 where it is unknown."""
        ...


def open_model(spec: str) -> Model:
    """Return the model that `spec` names, without accessing it.

    Raises:
        ModelError: `spec` is not a name of a model.
    """
    if spec.startswith(packaged.PREFIX):
        return PackagedModel(name=spec.removeprefix(packaged.PREFIX))
    if is_uri(spec):
        if not re.match(f"{object_store.PREFIX}[^/]", spec):
            raise ModelError(
                f"{spec!r}: models can only be fetched from S3 and stores that speak its protocol; expected "
                f"{_EXPECTED}."
            )
        location, _, content = spec.partition(object_store.PIN)
        return StoredModel(location=location.rstrip("/"), content=content)
    if os.path.isabs(spec) or spec.startswith("~"):
        return FolderModel(spec=spec)
    if os.path.isfile(os.path.join(spec, CONFIG)):
        raise ModelError(
            f"got the model {spec!r}, which is a folder below this working directory; a folder must be absolute: "
            f"{os.path.abspath(spec)}."
        )
    if not _HUB_NAME.fullmatch(spec):
        raise ModelError(f"got the model {spec!r}; expected {_EXPECTED}.")
    repository, _, revision = spec.partition(REVISION)
    return HubModel(repository=repository, revision=revision)


def resolve_model(spec: str, *, with_weights: bool = True) -> str:
    """Return the folder from which transformers and vLLM load the model `spec`, fetching it first if needed.

    Args:
        with_weights: False where only the tokenizer is needed.

    Raises:
        ModelError: the model is missing, incomplete, or cannot be fetched.
    """
    return str(open_model(spec).fetch(with_weights=with_weights))


def model_identity(spec: str, *, with_weights: bool = True) -> str:
    """Return the identity of the model `spec`: the same text for the same content, on every machine.

    A package is identified by its version, any other model by the files that loaders read.

    Raises:
        ModelError: as `resolve_model`.
    """
    return open_model(spec).identity(with_weights=with_weights)


def weight_bytes(spec: str) -> int | None:
    """Return the size of the weights of the model `spec` without fetching them; None where it is unknown.

    Raises:
        ModelError: there is no such model.
    """
    return open_model(spec).weight_bytes()


@cache
def load_tokenizer(spec: str) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of the model `spec`; one object per process.

    Raises:
        ModelError: as `resolve_model`, or the tokenizer cannot be loaded.
    """
    return read_tokenizer(Path(resolve_model(spec, with_weights=False)), spec)
