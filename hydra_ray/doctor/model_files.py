"""What a model's files say of it, without loading it: configuration, tokenizer, and whether its weights are whole."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_ray.errors import ModelError
from hydra_ray.models import resolve_model, weight_bytes

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_READING = ("*.json", "*.jinja", "*.txt", "*.model")
"""Files of a hub's model that are no weights."""
_INDEX = "*.index.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """A model that has not been loaded. Key: spec."""

    spec: str
    """As the configuration names it."""
    config: "PretrainedConfig"
    tokenizer: "PreTrainedTokenizerBase"
    weight_bytes: int | None
    """None where nobody tells."""
    is_here: bool
    """Whether the weights are on this machine."""

    @property
    def architecture(self) -> str:
        """The class that transformers saved, which tells a generator from an encoder; empty where it is not told."""
        return next(iter(self.config.architectures or ()), "")


def describe_model(spec: str) -> ModelDescription:
    """What the model `spec` is; a package's GGUF file is converted for this, as the first run would do it.

    Raises:
        ModelError: it is not there or not reachable, is none that transformers knows, or is not whole.
    """
    from transformers import AutoConfig, AutoTokenizer

    folder = _folder(spec)
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{spec} is of no model type that transformers knows ({_first_sentence(error)}): set another one"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # whatever the tokenizer's own parser raises
        raise ModelError(
            f"{spec} has no tokenizer that can be loaded ({_first_sentence(error)}): put the model's tokenizer files "
            "beside its config.json"
        ) from error
    size, is_here = weight_bytes(spec), Path(resolve_model(spec)).is_absolute()
    if is_here:
        _require_whole(folder, spec, size)
    return ModelDescription(spec=spec, config=config, tokenizer=tokenizer, weight_bytes=size, is_here=is_here)


def _folder(spec: str) -> Path:
    """The folder of everything but a model's weights."""
    location = resolve_model(spec)
    if Path(location).is_absolute():
        return Path(location)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(location, allow_patterns=list(_READING)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{spec} is neither in this machine's Hugging Face cache nor reachable ({_first_sentence(error)}): connect "
            "it, log in with `hf auth login` where the model asks for it, or set the folder of a copy"
        ) from error


def _require_whole(folder: Path, spec: str, size: int | None) -> None:
    """Refuse weights of which a part is missing or cut off; reads headers only."""
    from safetensors import SafetensorError, safe_open

    for index in folder.glob(_INDEX):
        listed = {*json.loads(index.read_bytes())["weight_map"].values()}
        if missing := sorted(name for name in listed if not (folder / name).is_file()):
            raise ModelError(f"{spec} lacks {len(missing)} of {len(listed)} files of weights: bring {missing[0]}")
    if not size:
        raise ModelError(f"{spec} holds no weights: bring its *.safetensors files, too")
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is cut off or damaged ({error}): bring it again") from error


def _first_sentence(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")[:200] or type(error).__name__
