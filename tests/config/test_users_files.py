"""`lamp.users_files` as one path or several."""

import pytest

from hydra_ray.config import LampConfig
from hydra_ray.runs.settings import settings_of


@pytest.mark.parametrize("given", ["/data/x.jsonl", ["/data/x.jsonl"], ("/data/x.jsonl",)])
def test_one_path_is_taken_as_one_file(given):
    lamp = LampConfig.model_validate({"task": "planted", "users_files": given})
    assert lamp.users_files == ("/data/x.jsonl",)
    assert settings_of(lamp) == settings_of(
        LampConfig.model_validate({"task": "planted", "users_files": ["/data/x.jsonl"]})
    )
