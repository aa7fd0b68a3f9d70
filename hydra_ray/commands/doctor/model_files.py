"""Descriptions of models from their files, without loading weights: configuration, tokenizer, completeness."""

import json
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from hydra_ray import storage
from hydra_ray.errors import ModelError
from hydra_ray.models import Model, open_model
from hydra_ray.models.content import weight_files
from hydra_ray.models.hub import HubModel
from hydra_ray.models.node_cache import cache_folder
from hydra_ray.models.object_store import StoredModel
from hydra_ray.models.tokenizers import first_sentence, read_tokenizer, refuse_own_code

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_INDEX, _SAFETENSORS = ".index.json", ".safetensors"
_LENGTH_BYTES = 8
"""Number of bytes of the header length with which a safetensors file begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """A model that has not been loaded. Key: spec."""

    spec: str
    """Name in the configuration."""
    config: "PretrainedConfig"
    tokenizer: "PreTrainedTokenizerBase"
    weight_bytes: int | None
    """Size of the weights; None where it is unknown."""
    missing_bytes: int
    """Bytes still to be fetched to this machine."""
    cache: str
    """Folder to which the model is fetched."""

    @property
    def architecture(self) -> str:
        """Class name that transformers saved, which distinguishes generators from encoders; empty where missing."""
        return next(iter(self.config.architectures or ()), "")


def describe_model(spec: str, *, with_weights: bool = True) -> ModelDescription:
    """Return the description of the model `spec`; a package's GGUF file is converted, as the first run would do.

    Args:
        with_weights: False where only the tokenizer is needed.

    Raises:
        ModelError: it is missing or unreachable, not supported by transformers, or incomplete.
    """
    from transformers import AutoConfig

    model = open_model(spec)
    folder = model.fetch(with_weights=False)
    try:
        # Otherwise transformers asks on the terminal whether to run code in the model's folder.
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        refuse_own_code(spec, error)
        raise ModelError(
            f"{spec} is of no model type that transformers knows ({first_sentence(error)}): set another one"
        ) from error
    tokenizer = read_tokenizer(folder, spec)
    missing = model.missing_bytes() if with_weights else 0
    if with_weights and not missing:
        model.fetch(with_weights=True)
    elif isinstance(model, StoredModel):
        _require_shards(model)
        _require_headers(model)
    return ModelDescription(
        spec=spec,
        config=config,
        tokenizer=tokenizer,
        weight_bytes=model.weight_bytes() if with_weights else None,
        missing_bytes=missing,
        cache=_cache(model),
    )


def _require_shards(model: StoredModel) -> None:
    """Check that a stored model has all weight files that its index lists."""
    there = storage.list_files(model.location)
    for index in (name for name in there if name.endswith(_INDEX)):
        listed = {*storage.read_json(storage.join(model.location, index))["weight_map"].values()}
        if missing := sorted(listed.difference(there)):
            raise ModelError(f"{model.location} lacks {len(missing)} of {len(listed)} weights: put {missing[0]} there")


def _require_headers(model: StoredModel) -> None:
    """Check that stored weights are complete safetensors files, by the size that their headers state."""
    for name in weight_files(storage.list_files(model.location)):
        if not name.endswith(_SAFETENSORS):
            continue
        location = storage.join(model.location, name)
        found, _ = storage.file_state(location)
        with storage.open_input(location) as file:
            expected = _safetensors_bytes(file, found)
        if expected != found:
            why = "are no safetensors" if expected is None else f"should be {expected} bytes long"
            raise ModelError(
                f"{location} ({found} bytes) holds no whole weights: they {why}; it may be cut off or a pointer of "
                "git-lfs (`git lfs pull`). Put the file there again."
            )


def _safetensors_bytes(file: IO[bytes], num_bytes: int) -> int | None:
    """Return the size that a safetensors file should have by its header; None where the header is invalid."""
    start = file.read(_LENGTH_BYTES)
    length = int.from_bytes(start, "little")
    if len(start) < _LENGTH_BYTES or length > num_bytes - _LENGTH_BYTES:
        return None
    try:
        header = json.loads(file.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
    return _LENGTH_BYTES + length + max(ends, default=0)


def _cache(model: Model) -> str:
    if isinstance(model, HubModel):
        from huggingface_hub import constants

        return constants.HF_HUB_CACHE
    return str(cache_folder())
