"""docs/one-gpu.md shows what the doctor says of `jobs/configs/gpu.yaml` on machines with one GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
from machines import A100, RTX_4090, machine
from model_folders import write_model

from hydra_ray.commands.doctor.machine import Gpu
from hydra_ray.commands.doctor.memory import GPU_ALLOWANCE_BYTES, gpu_findings, size_of
from hydra_ray.commands.doctor.model_files import describe_model
from hydra_ray.config import load_config

PAGE = (Path(__file__).parents[3] / "docs" / "one-gpu.md").read_text(encoding="utf-8")
CONFIG = load_config("gpu")
# As its config.json has them.
QWEN = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def num_parameters() -> int:
    """Of the generator in the configuration: embeddings, output, layers and the last norm, by its configuration."""
    width, inner, kept = 3584, 18944, 4 * 128
    attention = 2 * width * width + width + 2 * (width * kept + kept)
    layer = attention + 3 * width * inner + 2 * width
    return 2 * 152064 * width + 28 * layer + width


def lines(gpu: Gpu, tmp_path: Path) -> list[str]:
    found = describe_model(write_model(tmp_path / gpu.name, QWEN))
    size = size_of(replace(found, weight_bytes=2 * num_parameters()), CONFIG.generator.dtype)
    return [str(finding) for finding in gpu_findings(CONFIG, machine(gpu), size)]


def test_the_page_shows_what_is_said_of_24_gigabytes(tmp_path: Path):
    assert CONFIG.generator.model == "Qwen/Qwen2.5-7B-Instruct"
    told = lines(RTX_4090, tmp_path)
    assert all(line.startswith("ok ") for line in told)
    assert "".join(f"{line}\n" for line in told) in PAGE


def test_the_page_shows_what_is_said_of_80_gigabytes(tmp_path: Path):
    assert f"{lines(A100, tmp_path)[-1]}\n" in PAGE


@pytest.mark.parametrize(("gpu", "column"), [(RTX_4090, 2), (A100, 3)])
def test_the_table_of_sizes_is_the_arithmetic(gpu: Gpu, column: int):
    rows = {row.split("|")[1].strip(): row.split("|")[column].strip() for row in PAGE.splitlines() if row[:1] == "|"}
    room = CONFIG.placement.gpu_memory_fraction * gpu.memory_bytes - 2 * num_parameters() - GPU_ALLOWANCE_BYTES
    assert rows["weights, bfloat16"] == f"{2 * num_parameters() / 2**30:.1f} GB"
    assert rows["key-value cache, of `gpu_memory_fraction` 0.9"] == f"{room / 2**30:.1f} GB"
    assert rows["that is, in tokens of 56 KB"] == f"{int(room / (56 * 1024)):,}"
