import pytest
from builders import run_config

from hydra_ray.config import PlacementConfig
from hydra_ray.engine.generator_actor import GeneratorActor
from hydra_ray.engine.row_bytes import to_bytes
from hydra_ray.errors import ConfigError
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Completion, Prompt


def test_a_generator_that_cannot_be_opened_is_an_error_of_the_first_call(tmp_path, monkeypatch: pytest.MonkeyPatch):
    # An actor whose constructor fails is started again and again, and its error is Ray's own.
    monkeypatch.delenv("HYDRA_TEST_KEY", raising=False)
    api = {"base_url": "http://localhost/v1", "model": "m", "api_key_env": "HYDRA_TEST_KEY"}
    generator = run_config(generator={"engine": "openai", "api": api}).generator
    store = CompletionStore(root=str(tmp_path), name="s")
    actor = GeneratorActor(TASKS["planted"], generator, PlacementConfig(), store, "probes")
    with pytest.raises(ConfigError, match="HYDRA_TEST_KEY, which is not set where the generator runs"):
        actor(
            {"bucket": [0], "asked": [b""], "prompts": [to_bytes([], Prompt)], "rejected": [to_bytes([], Completion)]}
        )
