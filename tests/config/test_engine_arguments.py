import pytest
from builders import run_config
from pydantic import ValidationError

from hydra_ray.config import GeneratorConfig
from hydra_ray.config.engine_arguments import parallel_ranks


def generator(**settings) -> GeneratorConfig:
    return GeneratorConfig.model_validate({"model": "m", **settings})


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("model", "set generator.model"),
        ("dtype", "set generator.dtype"),
        ("max_model_len", "set generator.max_model_tokens"),
        ("max_num_seqs", "set placement.max_concurrent_sequences"),
        ("gpu_memory_utilization", "set placement.gpu_memory_fraction"),
        ("data_parallel_size", "set placement.generator_actors"),
        ("enable_prefix_caching", "common prefixes are always kept"),
        ("trust_remote_code", "never run"),
        ("hf_token", "HF_TOKEN"),
    ],
)
def test_what_a_setting_or_nobody_sets_is_refused_by_name(argument: str, says: str):
    with pytest.raises(ValidationError, match=f"engine_args must not have {argument}: .*{says}"):
        generator(engine_args={argument: 1})


@pytest.mark.parametrize("name", ["--quantization", "max-num-seqs", "Quantization", ""])
def test_arguments_are_named_as_in_engine_args(name: str):
    with pytest.raises(ValidationError):
        generator(engine_args={name: 1})


def test_a_secret_among_arguments_is_refused():
    with pytest.raises(ValidationError, match="looks like a secret"):
        generator(engine_args={"hf_overrides": {"a": ["sk-pass-word"]}})


@pytest.mark.parametrize("settings", [{"engine_args": {"quantization": "fp8"}}, {"is_batch_invariant": True}])
def test_other_engines_have_none_of_them(settings: dict[str, object]):
    with pytest.raises(ValidationError, match="are vLLM's"):
        generator(engine="fake", **settings)


@pytest.mark.parametrize(
    ("arguments", "gpus", "ranks"),
    [
        ({}, 0, (1, 1)),
        ({}, 0.5, (1, 1)),
        ({}, 4, (4, 1)),
        ({"tensor_parallel_size": 4}, 4, (4, 1)),
        ({"pipeline_parallel_size": 4}, 4, (1, 4)),
        ({"tensor_parallel_size": 2}, 4, (2, 2)),
        ({"pipeline_parallel_size": 2}, 4, (2, 2)),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 3}, 6, (2, 3)),
    ],
)
def test_the_ranks_of_a_copy_are_its_gpus(arguments: dict[str, int], gpus: float, ranks: tuple[int, int]):
    assert parallel_ranks(arguments, gpus) == ranks


@pytest.mark.parametrize(
    ("arguments", "gpus"),
    [
        ({"tensor_parallel_size": 2}, 0),
        ({"tensor_parallel_size": 2}, 1),
        ({"tensor_parallel_size": 3}, 4),
        ({"pipeline_parallel_size": 3}, 4),
        ({"tensor_parallel_size": 4, "pipeline_parallel_size": 2}, 4),
        ({"tensor_parallel_size": 8}, 4),
        ({"pipeline_parallel_size": 8}, 4),
        ({"tensor_parallel_size": "2"}, 2),
        ({"tensor_parallel_size": True}, 1),
        ({"pipeline_parallel_size": 0}, 1),
    ],
)
def test_ranks_that_do_not_fit_the_placement_are_refused(arguments: dict[str, object], gpus: float):
    with pytest.raises(ValidationError, match=r"generator\.engine_args"):
        run_config(generator={"engine": "vllm", "engine_args": arguments}, placement={"generator_gpus": gpus})


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"is_batch_invariant": True}, "on GPUs alone"), ({"engine_args": {"enable_chunked_prefill": True}}, "seed")],
)
def test_what_vllm_cannot_do_on_cpu_is_refused_there(settings: dict[str, object], says: str):
    with pytest.raises(ValidationError, match=says):
        run_config(generator={"engine": "vllm", **settings})
    run_config(generator={"engine": "vllm", **settings}, placement={"generator_gpus": 1})
