"""Stage fingerprints of the shipped configurations: runs that users have are found again by them.

A fingerprint may change only where a stage's version is raised on purpose. Then make the file anew, in the same commit:

    PYTHONPATH=tests python -c "import test_fingerprints as t; t.PINNED.write_text(t.pinned_text())"
"""

import json
from pathlib import Path
from unittest import mock

import pytest

from hydra_ray.config import RunConfig, load_config
from hydra_ray.models import model_identity
from hydra_ray.models.model_records import KnownModel, RunModels, UsedModel
from hydra_ray.stages.plan import plan_run

PINNED = Path(__file__).with_name("fingerprints.json")
CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if "\nrun: " in path.read_text(encoding="utf-8"))


def fingerprints(name: str) -> dict[str, str]:
    """Fingerprint by stage, of a root, a root's key, input files and models from elsewhere that are always the same."""
    config = load_config(CONFIGS / f"{name}.yaml", ["storage.root=/pinned"])
    if config.users.num_buckets == "auto":  # input files decide, which are not there
        config = config.model_copy(update={"users": config.users.model_copy(update={"num_buckets": 16})})
    with (
        mock.patch("hydra_ray.stages.planning.bucket_key_name", return_value="key"),
        mock.patch("hydra_ray.stages.users.bucket_key_name", return_value="key"),
        mock.patch("hydra_ray.stages.users.input_fingerprint", return_value=["input"]),
        mock.patch("hydra_ray.stages.plan.models_of", _models),
    ):
        plan = plan_run(config)
    return {stage.name: stage.fingerprint for stage in plan.stages()} | {"completions": plan.completions.name}


def _models(config: RunConfig) -> RunModels:
    encoder = config.retrieve.encoder
    return RunModels(
        generator=_used(config.generator.model) if config.generator.model else None,
        retriever=None if encoder is None else _used(encoder),
        reranker=_used(config.reranker.base.encoder),
        adapter=_used(config.adapter.base.encoder),
    )


def _used(spec: str) -> UsedModel:
    """Return a model that a package carries as it is; of another place its name, so that no network is needed."""
    identity = model_identity(spec) if spec.startswith("package:") else spec
    known = KnownModel(place=spec, content=identity, former=None, identity=identity)
    return UsedModel(known=known, source="", pinned=spec)


def pinned_text() -> str:
    return json.dumps({name: fingerprints(name) for name in NAMES}, indent=2) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_of_a_shipped_configuration_keeps_its_fingerprint(name: str):
    assert fingerprints(name) == json.loads(PINNED.read_text())[name]
