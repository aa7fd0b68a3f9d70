"""Files that make up a model, checks of their completeness, and the digest of their content.

Files that no loader reads (a README, other formats of the same weights) do not count, so that all copies of a model
have the same digest.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from hydra_ray.errors import ModelError

CONFIG = "config.json"
_READING = (
    CONFIG,
    "generation_config.json",
    "*quant*config.json",
    "*processor_config.json",
    "tokenizer*",
    "*.tokenizer",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*vocab*",
    "merges.txt",
    "bpe.codes",
    "dict.txt",
    "emoji.json",
    "normalizer.json",
    "byte_maps.json",
    "word_*.json",
    "tekken.json",
    "*.model",
    "*.spm",
    "*.tiktoken",
)
"""Names, in a model's own folder, of the files that define how texts are read and answers are written."""
_READING_BELOW = "additional_chat_templates/*.jinja"
_SAFETENSORS, _CONSOLIDATED, _PICKLED = "*.safetensors", "consolidated*", "pytorch_model*.bin"
_INDEX = ".index.json"
_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Digests of a model's files."""

    reading: str
    """Digest of the configuration and tokenizer files."""
    weights: str
    """Digest of the weights; empty where only a tokenizer is needed."""

    def __str__(self) -> str:
        return self.reading + self.weights

    @classmethod
    def parse(cls, text: str) -> "Content":
        """Return the content that was formatted as `text`."""
        return cls(reading=text[: 2 * _DIGEST_BYTES], weights=text[2 * _DIGEST_BYTES :])

    def without_weights(self) -> "Content":
        """Return the content that a tokenizer needs."""
        return replace(self, weights="")

    def agrees_with(self, other: "Content") -> bool:
        """Return whether both are equal as far as both are known."""
        return self.reading == other.reading and (self.weights == other.weights or not (self.weights and other.weights))


def model_files(names: Iterable[str], *, with_weights: bool) -> list[str]:
    """Return the sorted names of the files that make up a model, given all names below its folder."""
    names = sorted(names)
    reading = [name for name in names if _is_reading(name)]
    return sorted([*reading, *weight_files(names)]) if with_weights else reading


def weight_files(names: Iterable[str]) -> list[str]:
    """Return the names of a model's weight files and of their index, given all names below its folder."""
    own = sorted(name for name in names if "/" not in name)
    for pattern in (_SAFETENSORS, _PICKLED):
        found = [name for name in own if fnmatchcase(name, pattern)]
        # "consolidated" is Mistral's own format of the same weights.
        plain = [name for name in found if not fnmatchcase(name, _CONSOLIDATED)]
        if found:
            return [*(plain or found), *(name for name in own if fnmatchcase(name, pattern + _INDEX))]
    return []


def content_of(digests: Mapping[str, str]) -> Content:
    """Return the content of a model's files, given the SHA-256 of each."""
    weights = {*weight_files(digests)}
    return Content(
        reading=_digest({name: digests[name] for name in digests if name not in weights}),
        weights=_digest({name: digests[name] for name in weights}) if weights else "",
    )


def require_model(names: Iterable[str], spec: str, *, with_weights: bool) -> None:
    """Check that a folder is a Hugging Face model folder, given the names of all files below it.

    Raises:
        ModelError: it has no config.json, or no weights.
    """
    names = list(names)
    if CONFIG not in names:
        below = sorted(name for name in names if name.endswith(f"/{CONFIG}"))
        hint = f"; there is one in {spec}/{below[0].removesuffix(f'/{CONFIG}')}" if below else ""
        raise ModelError(
            f"{spec} is no Hugging Face model folder: it has no config.json{hint}. Set the model's own folder."
        )
    if with_weights and not weight_files(names):
        raise ModelError(
            f"{spec} holds no weights: expected *.safetensors (or pytorch_model*.bin) beside its config.json. Put the "
            "whole model there, or set another folder."
        )


def require_whole(folder: Path, spec: str, *, with_weights: bool) -> None:
    """Check that no file of a model is missing or truncated, reading no more than headers.

    Raises:
        ModelError: a file is missing or truncated.
    """
    names = names_below(folder)
    require_model(names, spec, with_weights=with_weights)
    for name in model_files(names, with_weights=with_weights):
        _require_readable(folder / name)
    if not with_weights:
        return
    weights = weight_files(names)
    for index in (name for name in weights if name.endswith(_INDEX)):
        missing = sorted(_indexed(folder / index) - {*names})
        if missing:
            raise ModelError(
                f"{spec} is incomplete: {index} lists {missing[0]} and {len(missing) - 1} more files that are not "
                "there. Put the whole model there."
            )
    for name in weights:
        if fnmatchcase(name, _SAFETENSORS):
            _require_safetensors(folder / name)


def names_below(folder: Path) -> list[str]:
    """Return the relative paths of all files below a folder, without hidden ones (a download's bookkeeping).

    Raises:
        ModelError: the files cannot be listed.
    """
    try:
        if os.path.isdir(folder):
            os.listdir(folder)  # rglob silently skips folders that it may not list
        paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    except OSError as error:
        raise ModelError(
            f"cannot list the files below {folder} ({error.strerror or error}): let this program's user list "
            "and enter the folder and those above it, or set another one."
        ) from error
    return sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))


def _is_reading(name: str) -> bool:
    if "/" in name:
        return name.count("/") == 1 and fnmatchcase(name, _READING_BELOW)
    return any(fnmatchcase(name, pattern) for pattern in _READING)


def _digest(digests: Mapping[str, str]) -> str:
    return hashlib.blake2b(json.dumps(sorted(digests.items())).encode(), digest_size=_DIGEST_BYTES).hexdigest()


def _indexed(index: Path) -> set[str]:
    try:
        return {*json.loads(index.read_bytes())["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is not an index of weights: {error!r}. Put the whole model there again.") from error


def _require_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror or error}): let this program's user read all files of the model."
        ) from error


def _require_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        with path.open("rb") as file:
            pointer = b"git-lfs" in file.read(200)
        what = "a pointer of git-lfs: run `git lfs pull` there" if pointer else "cut off or damaged: put it there again"
        raise ModelError(f"{path} ({path.stat().st_size} bytes) holds no weights, it is {what} ({error})") from error
