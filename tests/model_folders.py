"""Hugging Face folders of models that are a few kilobytes large, whole or with something wrong."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = "{% for message in messages %}<{{ message.role }}> {{ message.content }}\n{% endfor %}<assistant>"
LLAMA: Mapping[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
BERT: Mapping[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


def write_model(
    folder: Path,
    config: Mapping[str, Any],
    *,
    chat_template: str | None = CHAT_TEMPLATE,
    shards: Sequence[str] = ("model.safetensors",),
    weight_bytes: int = 4096,
) -> str:
    """Write a model of a configuration, its weights into several files where several are named; returns its folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    # With a letter, by which classes that read the vocabulary as byte pairs encode texts too.
    words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, "t": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]")
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    for name in shards:
        save_file({f"weight-{name}": np.zeros(weight_bytes, np.uint8)}, folder / name)
    if len(shards) > 1:
        weights = {f"weight-{name}": name for name in shards}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    return str(folder)
