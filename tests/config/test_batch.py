import pytest
from pydantic import ValidationError

from hydra_ray.config import BatchConfig, GeneratorConfig


@pytest.mark.parametrize(("window", "seconds"), [("24h", 86_400), ("7d", 604_800), ("1h", 3600)])
def test_a_completion_window_is_a_number_of_hours_or_days(window: str, seconds: int):
    assert BatchConfig(completion_window=window).window_seconds == seconds


@pytest.mark.parametrize("window", ["", "24", "0h", "24 h", "1w", "-1h", "1000h", "24h\n"])
def test_another_completion_window_is_refused(window: str):
    with pytest.raises(ValidationError, match="completion_window"):
        BatchConfig(completion_window=window)


@pytest.mark.parametrize("engine", ["openai", "openai_batch"])
def test_an_engine_of_an_endpoint_needs_one(engine: str):
    with pytest.raises(ValidationError, match=r"need the section generator\.api"):
        GeneratorConfig.model_validate({"engine": engine, "model": "m"})
