"""Tokenizers of model folders, of all kinds: whatever is wrong with a folder's tokenizer files is a ModelError."""

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_ray.errors import ModelError
from hydra_ray.models.content import names_below

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEKKEN = "tekken.json"
_VOCABULARIES = ("tokenizer.json", _TEKKEN, "*vocab*", "*.model", "*.spm", "*.tiktoken", "bpe.codes", "dict.txt")
"""Names of files that hold a vocabulary."""
_MAX_VOCABULARY = 10_000_000
_TRIAL = "A short text, with 1 number."


def read_tokenizer(folder: Path, spec: str) -> "PreTrainedTokenizerBase":
    """Return the tokenizer in a model's folder. The model's own code is never run.

    Mistral's own format (`tekken.json`) is converted to the common one: its library tokenizes whole chats only.

    Args:
        spec: name of the model, for errors.

    Raises:
        ModelError: there is none, it is damaged, or it needs the model's own code.
    """
    try:
        tokenizer = _load(folder)
        tokens = tokenizer(_TRIAL, add_special_tokens=False)["input_ids"]
        unknown = tokenizer.unk_token_id
    except BaseException as error:  # the tokenizers library raises bare exceptions, and panics
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            raise
        refuse_own_code(spec, error)
        raise ModelError(
            f"{spec} has no tokenizer that can be loaded from {folder} ({first_sentence(error)}): put the model's "
            "tokenizer files beside its config.json."
        ) from error
    has_vocabulary = any(fnmatchcase(name, each) for name in names_below(folder) for each in _VOCABULARIES)
    if not tokens or (not has_vocabulary and all(each == unknown for each in tokens)):
        raise ModelError(
            f"{spec} has a tokenizer without a vocabulary in {folder}: put the model's tokenizer files "
            "(tokenizer.json, tokenizer.model or tekken.json) beside its config.json."
        )
    return tokenizer


def refuse_own_code(spec: str, error: BaseException) -> None:
    """Raise an error that explains it if transformers refused `spec` because it needs the model's own code.

    Raises:
        ModelError: the model needs code of its own.
    """
    if "custom code" in str(error):
        raise ModelError(
            f"{spec} is loaded by Python code of its own (auto_map in its config.json or tokenizer_config.json), which "
            "is never run. Set a model of a type that transformers itself knows."
        ) from error


def first_sentence(error: BaseException) -> str:
    """Return the first sentence of what an error says, at most 200 characters; its type where it says nothing."""
    return str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")[:200] or type(error).__name__


def _load(folder: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    if (folder / _TEKKEN).is_file() and not (folder / "tokenizer.json").is_file():
        from transformers.integrations.mistral.tokenizer import convert_tekken_tokenizer

        _require_sizes(folder / _TEKKEN)
        tokenizer = convert_tekken_tokenizer(str(folder / _TEKKEN))
        tokenizer.name_or_path = str(folder)
        return tokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, mistral_format=False)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(f"transformers made a {type(tokenizer).__name__} of it")
    return tokenizer


def _require_sizes(tekken: Path) -> None:
    """Check the sizes that Mistral's own format states, up to which its readers count.

    Raises:
        ValueError: one is no number, or larger than any vocabulary.
    """
    config = json.loads(tekken.read_bytes())["config"]
    for name in ("num_vocab_tokens", "default_vocab_size", "default_num_special_tokens"):
        if not isinstance(config[name], int) or not 0 <= config[name] <= _MAX_VOCABULARY:
            raise ValueError(f"tekken.json states {name}={str(config[name])[:50]}")
