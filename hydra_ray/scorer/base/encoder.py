"""Text encoders: loading, and batched pooling of the last hidden states.

Shape suffixes: N texts, H the encoder's width.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from hydra_ray.conversations import is_conversation, message_texts, newest_that_fit
from hydra_ray.errors import ConfigError, ModelError
from hydra_ray.models import resolve_model
from hydra_ray.models.tokenizers import read_tokenizer, refuse_own_code
from hydra_ray.scorer.base.layer_cache import LowerLayers, Text
from hydra_ray.scorer.base.spec import Pooling

BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}
"""Number of tokens in a batch of the encoder, padding included, by the type of its device. On CPU larger batches leave
the caches; a GPU needs many tokens at once to be busy."""
SLICE_TEXTS = 4096
"""Number of texts that are tokenized and sorted by length at once."""
CPU = torch.device("cpu")


class TextEncoder:
    """Frozen encoder as a function from texts to unit vectors (N, H)."""

    def __init__(self, encoder: PreTrainedModel, tokenizer: Any, max_text_tokens: int) -> None:
        self._encoder, self._tokenizer, self._max_text_tokens = encoder, tokenizer, max_text_tokens

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts (N, H)."""
        found, place_of = distinct(list(texts))
        with torch.inference_mode():
            return pool(self._encoder, self._tokenizer, found, None, self._max_text_tokens)[place_of].cpu().numpy()

    def is_like(self, encoder: PreTrainedModel, max_text_tokens: int) -> bool:
        """Return whether another encoder with the same tokenizer makes the same vectors, because its weights are the
        same."""
        own, other = self._encoder.state_dict(), encoder.state_dict()
        return (
            max_text_tokens == self._max_text_tokens
            and own.keys() == other.keys()
            and all(torch.equal(weights, other[name]) for name, weights in own.items())
        )


@cache
def open_encoder(spec: str, max_text_tokens: int, device: torch.device = CPU) -> TextEncoder:
    """Return the frozen encoder `spec`; it is loaded once per process.

    Args:
        max_text_tokens: longer texts are truncated.
        device: where it computes; see `device_of`.

    Raises:
        ConfigError: the encoder cannot read this many tokens.
        ModelError: there is no encoder.
    """
    encoder, tokenizer = load_encoder(resolve_model(spec))
    require_length(encoder.config, max_text_tokens, "retrieve.max_text_tokens")
    prepare_encoding(encoder, device)
    return TextEncoder(encoder, tokenizer, max_text_tokens)


def load_encoder(folder: str) -> tuple[PreTrainedModel, Any]:
    """Load the encoder in `folder` and its tokenizer.

    Raises:
        ModelError: there is no encoder.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model_class: Any = MODEL_MAPPING[type(config)]
        # The pooler of BERT-like models is not used, and most sentence encoders carry no weights for it.
        has_pooler = "add_pooling_layer" in inspect.signature(model_class).parameters
        options = {"add_pooling_layer": False} if has_pooler else {}
        encoder = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False, **options)
    except (OSError, KeyError, ValueError) as error:
        refuse_own_code(folder, error)
        raise ModelError(
            f"{folder} is not an encoder that transformers can load: {error}. Expected a folder with config.json, "
            "model.safetensors and a tokenizer; check the setting `encoder`."
        ) from error
    return encoder, read_tokenizer(Path(folder), folder)


def device_of(num_gpus: float) -> torch.device:
    """Return the device on which a process encodes that reserves so many Ray GPUs: Ray shows it no other GPU.

    Raises:
        ConfigError: it has a GPU that torch cannot use.
    """
    if not num_gpus:
        return CPU
    if not torch.cuda.is_available():
        raise ConfigError(
            f"placement.encoder_gpus is {num_gpus:g}, but torch {torch.__version__} finds no GPU on this node: "
            "`hydra-ray doctor` tells why; placement.encoder_gpus=0 encodes on CPU"
        )
    return torch.device("cuda")


def prepare_encoding(encoder: PreTrainedModel, device: torch.device) -> None:
    """Freeze an encoder that is not trained any more, without dropout, on the device where it encodes."""
    encoder.requires_grad_(False)
    encoder.train(False)
    encoder.to(device)  # pyright: ignore[reportArgumentType]
    if has_fast_bfloat16(device):
        # Autocast would round these weights to the same numbers for each batch again.
        for module in encoder.modules():
            if isinstance(module, nn.Linear):
                module.to(torch.bfloat16)


def require_length(config: PretrainedConfig, max_text_tokens: int, setting: str) -> None:
    """Raise an error if texts may be longer than the encoder can read.

    Raises:
        ConfigError: names the `setting` that is too large.
    """
    limit = getattr(config, "max_position_embeddings", max_text_tokens)
    if max_text_tokens > limit:
        raise ConfigError(
            f"{setting} is {max_text_tokens}, but the encoder reads at most {limit}: set {setting}={limit} or less"
        )


def pool(
    encoder: PreTrainedModel,
    tokenizer: Any,
    texts: Sequence[str],
    second: Sequence[str] | None,
    max_text_tokens: int,
    lower: LowerLayers | None = None,
    pooling: Pooling = "mean",
) -> torch.Tensor:
    """Return the vector of each text (or pair of texts), scaled to length 1 (N, H).

    Args:
        lower: the encoder's lower layers, if a hidden-state cache keeps their outputs.
        pooling: whether the vector is the mean of the last hidden states or the first token's.
    """
    if not texts:
        return torch.zeros(0, encoder.config.hidden_size, device=encoder.device)
    whole = list(zip(texts, second or [None] * len(texts), strict=True))
    are_known = [False] * len(whole) if lower is None else lower.known(whole)
    pieces, places = [], []
    for is_known in (True, False):
        own = [place for place, each in enumerate(are_known) if each == is_known]
        for rows, inputs in _batches(
            tokenizer, [whole[place] for place in own], max_text_tokens, BATCH_TOKENS[encoder.device.type]
        ):
            pieces.append(_pool_batch(encoder, inputs, [whole[own[row]] for row in rows], lower, pooling))
            places.extend(own[row] for row in rows)
    order = torch.empty(len(places), dtype=torch.long)
    order[torch.tensor(places)] = torch.arange(len(places))
    return torch.cat(pieces)[order]


def distinct(values: list[Any]) -> tuple[list[Any], torch.Tensor]:
    """Return the distinct values, and the index of each value among them."""
    places = {value: place for place, value in enumerate(dict.fromkeys(values))}
    return list(places), torch.tensor([places[value] for value in values], dtype=torch.long)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 is faster than float32 on this device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _pool_batch(
    encoder: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    texts: Sequence[Text],
    lower: LowerLayers | None,
    pooling: Pooling,
) -> torch.Tensor:
    device = encoder.device
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    weights = _pooling_weights(inputs["attention_mask"], pooling)
    is_global = {"global_attention_mask": weights} if pooling == "first" and _has_global_attention(encoder) else {}

    def encode() -> torch.Tensor:
        return encoder(**inputs, **is_global).last_hidden_state

    with torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device)):
        states = encode() if lower is None else lower.run(encode, texts, inputs["attention_mask"])
    mask = weights.unsqueeze(-1)
    return nn.functional.normalize((states.float() * mask).sum(1) / mask.sum(1).clamp(min=1), dim=-1)


def _pooling_weights(attention_mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Return which tokens of each text (rows) count: all that are no padding, or the first of them."""
    if pooling == "mean":
        return attention_mask
    return torch.zeros_like(attention_mask).scatter(1, attention_mask.argmax(1, keepdim=True), 1)


def _has_global_attention(encoder: PreTrainedModel) -> bool:
    """Return whether tokens attend to their neighbours alone except where they are told to attend to all, as in a
    Longformer."""
    return "global_attention_mask" in inspect.signature(encoder.forward).parameters


def _batches(
    tokenizer: Any, texts: Sequence[Text], max_text_tokens: int, batch_tokens: int
) -> Iterator[tuple[list[int], Mapping[str, torch.Tensor]]]:
    """Yield batches of texts of similar length with the positions of their texts."""
    for start in range(0, len(texts), SLICE_TEXTS):
        first, second = zip(*texts[start : start + SLICE_TEXTS], strict=True)
        is_pair = second[0] is not None
        room = max_text_tokens // 2 if is_pair else max_text_tokens
        first = [_shortened(tokenizer, text, room) for text in first]
        second = [_shortened(tokenizer, text, room) for text in second] if is_pair else None
        encodings = tokenizer(first, second, truncation=True, max_length=max_text_tokens)
        lengths = [len(ids) for ids in encodings["input_ids"]]
        for rows in _packed(lengths, batch_tokens):
            batch = {name: [values[row] for row in rows] for name, values in encodings.items()}
            yield [start + row for row in rows], _padded(tokenizer, batch)


def _padded(tokenizer: Any, batch: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, torch.Tensor]:
    """Return what `tokenizer.pad` does, without its work for each text: a GPU would wait for it."""
    lengths = np.array([len(ids) for ids in batch["input_ids"]])
    is_filled = np.arange(lengths.max()) < lengths[:, None]
    if tokenizer.padding_side == "left":
        is_filled = is_filled[:, ::-1]
    paddings = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    padded: dict[str, torch.Tensor] = {}
    for name, values in batch.items():
        whole = np.full(is_filled.shape, paddings.get(name, 0))
        whole[is_filled] = np.fromiter(chain.from_iterable(values), np.int64, lengths.sum())
        padded[name] = torch.from_numpy(whole)
    return padded


def _shortened(tokenizer: Any, text: str, max_text_tokens: int) -> str:
    """Return a conversation without its oldest messages where it is too long, since an encoder's limit cuts the end of
    a text; any other text as it is."""
    if not is_conversation(text):
        return text
    newest = newest_that_fit(text, lambda part: len(tokenizer(part)["input_ids"]), max_text_tokens)
    return newest or message_texts(text)[-1]


def _packed(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield rows in order of length, cut so that no padded batch exceeds `batch_tokens`."""
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if rows and (len(rows) + 1) * lengths[row] > batch_tokens:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows
