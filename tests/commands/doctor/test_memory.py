from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import run_config
from machines import A100, RTX_4090, T4, V100, machine
from model_folders import write_model

from hydra_ray.commands.doctor.machine import GIGABYTE, Machine
from hydra_ray.commands.doctor.memory import ModelSize, cpu_finding, gpu_findings, size_of
from hydra_ray.commands.doctor.model_files import describe_model
from hydra_ray.config import RunConfig
from hydra_ray.findings import Finding

QWEN_7B = ModelSize(weight_bytes=15_231_233_024, token_bytes=57_344, num_heads=28)


def gpu_config(**placement: Any) -> RunConfig:
    generator = {"engine": "vllm", "max_model_tokens": 2048}
    return run_config(generator=generator, placement={"generator_gpus": 1, **placement})


def gpu_memory(here: Machine, size: ModelSize = QWEN_7B, **placement: Any) -> Finding:
    return next(each for each in gpu_findings(gpu_config(**placement), here, size) if each.name == "gpu memory")


def problems(config: RunConfig, here: Machine) -> list[str]:
    return [each.name for each in gpu_findings(config, here, QWEN_7B) if each.is_problem]


def test_size_follows_from_the_configuration(tmp_path: Path):
    config = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "torch_dtype": "bfloat16",
    }
    found = describe_model(write_model(tmp_path / "model", config))
    assert size_of(found, "bfloat16") == ModelSize(
        weight_bytes=found.weight_bytes or 0, token_bytes=QWEN_7B.token_bytes, num_heads=28
    )
    doubled = size_of(found, "float32")
    assert doubled is not None
    assert doubled.weight_bytes == 2 * (found.weight_bytes or 0)
    assert doubled.token_bytes == 2 * 57_344


def test_quantized_weights_are_not_converted(tmp_path: Path):
    config = {"model_type": "llama", "torch_dtype": "float16", "quantization_config": {"quant_method": "awq"}}
    found = describe_model(write_model(tmp_path / "model", config))
    size = size_of(found, "float32")
    assert size is not None
    assert size.weight_bytes == found.weight_bytes


def test_size_is_not_known_without_weights(tmp_path: Path):
    found = describe_model(write_model(tmp_path / "model", {"model_type": "llama"}))
    assert size_of(replace(found, weight_bytes=None), "bfloat16") is None


@pytest.mark.parametrize(("here", "sequences"), [(machine(RTX_4090), 49), (machine(A100), 510)])
def test_room_for_sequences_is_what_weights_and_allowance_leave(here: Machine, sequences: int):
    found = gpu_memory(here)
    assert not found.is_problem
    free = 0.9 * here.gpus[0].memory_bytes - QWEN_7B.weight_bytes - 2 * GIGABYTE
    assert int(free / 57_344 / 2048) == sequences
    assert f"{sequences} sequences of 2048" in found.value


def test_weights_that_do_not_fit_are_a_problem():
    found = gpu_memory(machine(T4))
    assert found.is_problem
    assert "placement.generator_gpus=2" in found.remedy


def test_a_fraction_that_is_too_small_is_raised_not_the_gpu():
    found = gpu_memory(machine(RTX_4090), gpu_memory_fraction=0.6)
    assert found.is_problem
    assert found.remedy.startswith("set placement.gpu_memory_fraction=0.")
    fraction = float(found.remedy.partition("=")[2])
    assert not gpu_memory(machine(RTX_4090), gpu_memory_fraction=fraction).is_problem


def test_tensor_parallel_ranks_share_weights_and_cache():
    assert "on each of 2 GPUs" in gpu_memory(machine(T4, T4), generator_gpus=2).value
    assert not gpu_memory(machine(T4, T4), generator_gpus=2).is_problem


def test_heads_that_cannot_be_shared_out_are_a_problem():
    found = gpu_memory(machine(*[T4] * 8), generator_gpus=8)
    assert found.is_problem
    assert "28 attention heads" in found.value


def test_the_smallest_gpu_is_the_one_that_counts():
    assert gpu_memory(machine(A100, T4)).is_problem


def test_memory_that_others_hold_is_a_problem():
    busy = replace(RTX_4090, free_bytes=10 * GIGABYTE)
    assert "nvidia-smi" in gpu_memory(machine(busy)).remedy


def test_copies_that_share_a_gpu_must_share_its_memory():
    small = replace(QWEN_7B, weight_bytes=4 * GIGABYTE)
    found = gpu_memory(machine(A100), small, generator_gpus=0.5, generator_actors=2)
    assert found.is_problem
    assert found.remedy.startswith("set placement.gpu_memory_fraction=0.45")
    shared = {"generator_gpus": 0.5, "generator_actors": 2, "gpu_memory_fraction": 0.45}
    assert not gpu_memory(machine(A100), small, **shared).is_problem


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (machine(RTX_4090), []),
        (machine(RTX_4090, driver="580.65.06"), []),
        (machine(RTX_4090, driver="575.57.08"), ["cuda"]),
        (machine(RTX_4090, driver="575.57.08", cuda="12.9"), []),
        (machine(RTX_4090, cuda=None), ["cuda"]),
        (machine(), ["gpus"]),
        (machine(V100), ["gpu generation"]),
        (machine(replace(A100, capability=(7, 5))), ["gpu generation"]),
    ],
)
def test_a_machine_lacks_what_cuda_needs(here: Machine, expected: list[str]):
    assert problems(gpu_config(), here) == expected


def test_more_gpus_than_there_are_is_a_problem():
    assert problems(gpu_config(generator_gpus=2), machine(RTX_4090)) == ["gpus"]


def test_a_run_without_gpus_needs_none():
    assert problems(gpu_config(generator_gpus=0), machine()) == []
    assert problems(run_config(placement={"generator_gpus": 1}), machine()) == [], "the fake engine loads nothing"


def test_training_on_a_gpu_needs_one_only_where_bases_are_trained():
    trained = run_config(placement={"train_gpus_per_worker": 1})
    assert problems(trained, machine()) == ["gpus"]
    base = {**trained.adapter.base.model_dump(), "num_epochs": 0}
    untrained = run_config(placement={"train_gpus_per_worker": 1}, adapter={"base": base}, reranker={"base": base})
    assert problems(untrained, machine()) == []


def test_copies_on_the_cpu_share_its_memory():
    config = gpu_config(generator_gpus=0, generator_kv_cache_gigabytes=4)
    here = machine(memory_gigabytes=32)
    one, two = (cpu_finding(config, here, QWEN_7B, copies) for copies in (1, 2))
    assert one is not None
    assert two is not None
    assert not one.is_problem
    assert two.is_problem
    assert "placement.generator_actors" in two.remedy


def test_a_cache_that_holds_no_whole_prompt_is_a_problem():
    config = gpu_config(generator_gpus=0)
    found = cpu_finding(config, machine(), replace(QWEN_7B, token_bytes=1 << 20), 1)
    assert found is not None
    assert "placement.generator_kv_cache_gigabytes=2" in found.remedy
