"""Small Hugging Face folders, whose weights are real safetensors of random numbers."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_model(folder: Path, seed: int = 0, num_numbers: int = 64, **others: str) -> Path:
    """Write a model; `others` are files more, with dots in their names written as two underscores."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    numbers = np.random.default_rng(seed).integers(0, 1 << 30, num_numbers, dtype=np.int32)
    save_file({"numbers": numbers}, folder / "model.safetensors")
    for name, text in others.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder
