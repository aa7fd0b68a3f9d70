import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hydra_ray.config import RunConfig, Task, check_config
from hydra_ray.runs.stage import Stage


@pytest.fixture
def tags() -> Task:
    """A closed task with the plainest possible format."""
    return Task(
        name="tags",
        kind="classification",
        instruction="Which tag?",
        input_pattern=r"Which tag\? text:(?P<input>.+)",
        labels=("comedy", "dark comedy", "romance"),
        record_output="tag",
    )


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., RunConfig]:
    def make(lamp: Mapping[str, Any], **users: Any) -> RunConfig:
        scorer = {"base": {"encoder": "none"}}
        settings = {
            "run": "test",
            "storage": {"root": str(tmp_path / "storage")},
            "lamp": lamp,
            "users": users,
            "generator": {"model": "none", "engine": "fake"},
            "reranker": scorer,
            "adapter": scorer,
        }
        return check_config(settings, source="test")

    return make


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(name="users", fingerprint="0" * 16, root=str(tmp_path / "storage"), num_buckets=3)


@pytest.fixture
def write_split(tmp_path: Path) -> Callable[..., str]:
    """Writes a split in LaMP's format from samples and (id, output) pairs; None leaves the outputs out."""

    def write(split: str, samples: Sequence[Any], golds: Sequence[tuple[Any, Any]] | None) -> str:
        root = tmp_path / "lamp"
        root.mkdir(exist_ok=True)
        (root / f"{split}_questions.json").write_text(json.dumps(samples), encoding="utf-8")
        if golds is not None:
            outputs = {"task": "tags", "golds": [{"id": each, "output": output} for each, output in golds]}
            (root / f"{split}_outputs.json").write_text(json.dumps(outputs), encoding="utf-8")
        return str(root)

    return write


@pytest.fixture
def sample_of() -> Callable[..., dict[str, Any]]:
    def make(sample_id: Any, num_records: int = 2, **changes: Any) -> dict[str, Any]:
        profile = [{"id": f"{sample_id}-{n}", "text": f"text {n}", "tag": "comedy"} for n in range(num_records)]
        return {"id": sample_id, "input": f"Which tag? text: query of {sample_id}", "profile": profile, **changes}

    return make
