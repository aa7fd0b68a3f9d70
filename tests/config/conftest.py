from pathlib import Path
from typing import Any

import pytest
import yaml

SCORER = {"base": {"encoder": "none"}}


@pytest.fixture
def settings() -> dict[str, Any]:
    """The fewest settings that a run needs."""
    return {
        "run": "test",
        "storage": {"root": "/tmp/storage"},
        "lamp": {"task": "planted", "planted": {}},
        "generator": {"model": "none"},
        "reranker": SCORER,
        "adapter": SCORER,
    }


@pytest.fixture
def path(tmp_path: Path, settings: dict[str, Any]) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path
