import dataclasses
import importlib.util

import pytest

from hydra_ray.config import GeneratorConfig, PlacementConfig
from hydra_ray.errors import ConfigError
from hydra_ray.generate.engines import vllm_settings
from hydra_ray.generate.engines.vllm_settings import engine_arguments, known_arguments, require_known_arguments

GPU = PlacementConfig(generator_gpus=1)


@pytest.fixture(autouse=True)
def _any_model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vllm_settings, "resolve_model", lambda model: f"/models/{model}")


def arguments(placement: PlacementConfig = GPU, **settings):
    return engine_arguments(GeneratorConfig.model_validate({"model": "m", **settings}), placement)


@pytest.mark.parametrize(("gpus", "ranks", "backend"), [(0.5, 1, None), (1, 1, None), (4, 4, "mp")])
def test_tensor_parallel_ranks_are_processes_on_the_node_of_their_bundle(gpus: float, ranks: int, backend: str | None):
    found = arguments(PlacementConfig(generator_gpus=gpus))
    assert (found["tensor_parallel_size"], found["distributed_executor_backend"]) == (ranks, backend)


def test_pipeline_parallel_ranks_are_processes_on_the_node_too():
    found = arguments(PlacementConfig(generator_gpus=4), engine_args={"pipeline_parallel_size": 4})
    names = ("tensor_parallel_size", "pipeline_parallel_size", "distributed_executor_backend")
    assert tuple(found[name] for name in names) == (1, 4, "mp")


def test_vllm_chooses_the_number_of_sequences_on_gpus_unless_it_is_set():
    assert arguments()["max_num_seqs"] is None
    assert arguments(GPU.model_copy(update={"max_concurrent_sequences": 128}))["max_num_seqs"] == 128
    assert arguments(PlacementConfig())["max_num_seqs"] == 64


def test_arguments_are_passed_on_and_go_before_defaults():
    found = arguments(PlacementConfig(), engine_args={"quantization": "fp8", "block_size": 64})
    assert (found["quantization"], found["block_size"]) == ("fp8", 64)
    assert found["model"] == "/models/m"


def test_an_argument_that_the_installed_vllm_does_not_have_is_refused_with_the_like_one():
    with pytest.raises(ConfigError, match="EngineArgs have no quantisation; did you mean quantization"):
        arguments(engine_args={"quantisation": "fp8"})


def test_nothing_is_refused_where_vllm_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    known_arguments.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    try:
        require_known_arguments(GeneratorConfig(model="m", engine_args={"no_such": 1}))
    finally:
        known_arguments.cache_clear()


@pytest.mark.ray
def test_the_known_arguments_are_those_of_vllm_itself():
    from vllm.engine.arg_utils import EngineArgs

    own = {field.name for field in dataclasses.fields(EngineArgs) if not field.name.startswith("_")}
    assert known_arguments() == own
