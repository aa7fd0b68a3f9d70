from typing import Any

import pytest

from hydra_ray.config import check_config


@pytest.fixture(scope="session")
def few_settings() -> dict[str, Any]:
    """A run with every section that may be left out of another, and no others."""
    encoder = {"base": {"encoder": "none"}}
    task = {"name": "mine", "kind": "classification", "instruction": "Which?", "labels": ["a", "b"]}
    return {
        "run": "test",
        "taught_by": "taught",
        "update": {"follows": ["taught"], "handed_in": "none"},
        "storage": {"root": "/tmp/storage"},
        "lamp": {"task": task, "planted": {}},
        "generator": {"engine": "openai", "model": "none", "api": {"base_url": "http://localhost", "model": "none"}},
        "reranker": encoder,
        "adapter": encoder,
    }


@pytest.fixture(scope="session")
def full_settings(few_settings: dict[str, Any]) -> dict[str, Any]:
    """Every setting of a run, in sections that are all there."""
    full = check_config(few_settings, "test").model_dump(mode="json")
    # A run is either an update or a refresh.
    return full | {"refresh": {"of": "taught", "follows": ["taught"], "taken": "none"}}


@pytest.fixture(scope="session")
def full_sweep() -> dict[str, Any]:
    """Every setting of a sweep."""
    return {
        "sweep": "test",
        "base": "demo.yaml",
        "overrides": {"lamp.planted.num_new_users": 24, "placement.train_labels.zone": "a"},
        "space": {
            "drafts.num_records": [2, 4],
            "adapter.heads.ranks": [[4], [16]],
            "adapter.heads.prior_scale": {"low": 0.1, "high": 10, "log": True},
        },
        "search": "random",
        "num_trials": 2,
        "max_concurrent": 1,
        "judged_on": "history",
        "seed": 0,
        "mlflow_uri": None,
    }
