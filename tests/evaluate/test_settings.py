from functools import reduce
from typing import Any

from synthetic import synthetic_config

from hydra_ray.config import apply_override, check_config
from hydra_ray.evaluate.settings import dotted_settings, seeds

CONFIG: dict[str, Any] = synthetic_config().model_dump(mode="json")


def test_every_setting_is_found_under_the_name_that_an_override_has():
    found = dotted_settings(CONFIG)
    assert found["adapter.heads.ranks"] == [16]
    for name, value in found.items():
        assert reduce(lambda section, key: section[key], name.split("."), CONFIG) == value
    changed = apply_override(CONFIG, "drafts.num_samples=3")
    assert dotted_settings(check_config(changed, "test").model_dump(mode="json")) == {**found, "drafts.num_samples": 3}


def test_seeds_are_all_settings_that_are_called_so():
    assert {"generator.seed", "probes.seed", "users.fold_seed", "report.seed", "lamp.planted.seed"} <= set(
        seeds(CONFIG)
    )
    assert all(isinstance(value, int) for value in seeds(CONFIG).values())
