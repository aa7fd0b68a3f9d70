"""What the doctor says of a generator against what vLLM itself says of the same folder, without loading weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from builders import run_config
from model_folders import BERT, LLAMA, write_model

from hydra_ray.commands.doctor.memory import size_of
from hydra_ray.commands.doctor.models import generator_finding
from hydra_ray.generate.engines.vllm import supports_architecture
from hydra_ray.lamp.tasks import TASKS

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]

ROPE = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
FOLDERS: dict[str, tuple[Mapping[str, Any], int]] = {
    "fits": (LLAMA, 4096),
    "too long": (LLAMA, 4097),
    "stretched": ({**LLAMA, "rope_scaling": ROPE}, 8192),
    "stretched too far": ({**LLAMA, "rope_scaling": ROPE}, 8193),
    "unknown architecture": ({**LLAMA, "architectures": ["NobodyKnowsForCausalLM"]}, 512),
}


def vllm_config(folder: str, max_tokens: int) -> Any:
    from vllm.config import ModelConfig

    return ModelConfig(model=folder, max_model_len=max_tokens, dtype="bfloat16", runner="generate")


@pytest.mark.parametrize(("config", "max_tokens"), FOLDERS.values(), ids=FOLDERS)
def test_a_generator_is_refused_where_vllm_refuses_it(config: Mapping[str, Any], max_tokens: int, tmp_path: Path):
    folder = write_model(tmp_path / "model", config)
    settings = {"engine": "vllm", "model": folder, "max_model_tokens": max_tokens}
    finding, found = generator_finding(run_config(generator=settings), TASKS["planted"], supports_architecture)
    try:
        theirs = vllm_config(folder, max_tokens)
    except ValueError:
        theirs = None
    assert finding.is_problem == (theirs is None), finding
    if theirs is not None and found is not None:
        size = size_of(found, "bfloat16")
        assert size is not None
        kept = theirs.get_total_num_kv_heads() * theirs.get_head_size() * theirs.get_total_num_hidden_layers()
        assert size.token_bytes == 2 * 2 * kept


def test_an_encoder_is_refused_by_both(tmp_path: Path):
    folder = write_model(tmp_path / "encoder", BERT)
    settings = {"engine": "vllm", "model": folder, "max_model_tokens": 512}
    finding, _ = generator_finding(run_config(generator=settings), TASKS["planted"], supports_architecture)
    assert finding.is_problem
    with pytest.raises(ValueError, match="generate"):
        vllm_config(folder, 512)
