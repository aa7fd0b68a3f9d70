"""Which settings of a loaded model name stages and kept answers, and what is checked before Ray starts."""

from typing import Any

import pytest
from builders import run_config

from hydra_ray.config import RunConfig
from hydra_ray.errors import ConfigError
from hydra_ray.stages.plan import plan_run
from hydra_ray.stages.run import personalize


def config_of(root: Any, gpus: int = 4, **generator: Any) -> RunConfig:
    return run_config(str(root), generator={"engine": "vllm", **generator}, placement={"generator_gpus": gpus})


def names(config: RunConfig) -> tuple[str, str]:
    """Names of the probes stage and of the store of kept answers."""
    plan = plan_run(config)
    return plan.probes.fingerprint, plan.completions.name


@pytest.mark.parametrize(
    "arguments", [{}, {"tensor_parallel_size": 2}, {"pipeline_parallel_size": 4}, {"tensor_parallel_size": 4}]
)
def test_how_a_copy_is_divided_among_its_gpus_renames_nothing(tmp_path: Any, arguments: dict[str, int]):
    assert names(config_of(tmp_path, engine_args=arguments)) == names(config_of(tmp_path, gpus=0))


def test_what_answers_may_depend_on_names_stages_and_kept_answers(tmp_path: Any):
    configs = [
        config_of(tmp_path),
        config_of(tmp_path, is_batch_invariant=True),
        config_of(tmp_path, engine_args={"quantization": "fp8"}),
        config_of(tmp_path, engine_args={"quantization": "int8"}),
        config_of(tmp_path, engine_args={"kv_cache_dtype": "fp8"}),
    ]
    stages, stores = zip(*map(names, configs), strict=True)
    assert len(set(stages)) == len(set(stores)) == len(configs)


def test_an_argument_that_vllm_does_not_have_is_refused_before_ray_starts(tmp_path: Any, monkeypatch):
    def start() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("hydra_ray.engine.parts.start_ray", start)
    with pytest.raises(ConfigError, match="EngineArgs have no quantisation; did you mean quantization"):
        personalize(config_of(tmp_path, engine_args={"quantisation": "fp8"}))
