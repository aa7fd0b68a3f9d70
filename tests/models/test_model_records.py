"""What fingerprints under a root say of models: nothing that users have is ever made again for a new name of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import in_process
import pytest
from builders import ENCODER
from builders import run_config as any_config
from damage import unnoticed
from model_files import write_model
from simulated_hub import Repository, simulated_hub

from hydra_ray import storage
from hydra_ray.config import RunConfig
from hydra_ray.forget.file_kinds import Kind, artefacts
from hydra_ray.models import model_identity, resolve_model
from hydra_ray.models.model_records import MODELS
from hydra_ray.stages.plan import Plan, plan_recorded, plan_run
from hydra_ray.stages.run import personalize

FORMER_COMMIT = "c9ded34"
"""The last one whose fingerprints said of a folder its files' sizes, and of a model of the hub its name."""
FORMER = {
    "package": {
        "probes": "675beab7fd0d94e3",
        "reranker.base": "3b52055d00c8ac71",
        "drafts": "b1426cd48a71966f",
        "adapter.labeller": "81d6428ee81e5c9d",
        "answers": "1886367db0129d71",
        "completions": "177bf96a42c7b946",
    },
    "package, vllm, dense": {
        "probes": "ae24a9fcfbc0561c",
        "reranker.base": "3377f56e1d63b00a",
        "drafts": "0d1aa0cf48ce9b0d",
        "answers": "52f770301bdb5ca1",
        "completions": "c827364f2e8bc5de",
    },
    "folder": {
        "profiles": "5995ea0077bef3b8",
        "probes": "b1699c73b44ab7b3",
        "reranker.base": "12bd52a3b46b05ea",
        "drafts": "8ef8fa5585436b70",
        "answers": "54f17271ca3fcebe",
        "completions": "177bf96a42c7b946",
    },
    "hub": {
        "profiles": "57c1a0f87954ebcf",
        "probes": "43109c4b88f72caa",
        "drafts": "eca1cbb250a79fc4",
        "answers": "8b0ab03fff442b0f",
        "completions": "707da544bf10e790",
    },
}
"""Fingerprints by that code's names of models, with the versions that stages have."""
_RUN = """
import sys
import pytest, in_process
from builders import run_config
from hydra_ray.config import RunConfig
from hydra_ray.pipeline import personalize
with pytest.MonkeyPatch.context() as patch:
    in_process.install(patch)
    personalize(RunConfig.model_validate_json(sys.argv[1]))
"""


def run_config(root: str = "/nowhere", **sections: Any) -> RunConfig:
    """A run of that code, which fitted no own heads to all records."""
    return any_config(root, **{"adapter": {"has_own_heads": False}, **sections})


def fingerprints(plan: Plan) -> dict[str, str]:
    return {**{stage.name: stage.fingerprint for stage in plan.stages()}, "completions": plan.completions.name}


def like(plan: Plan, kind: str) -> bool:
    """Whether a plan's fingerprints are those that there have always been."""
    return fingerprints(plan).items() >= FORMER[kind].items()


def dense(root: Path, encoder: object, **sections: dict[str, object]) -> RunConfig:
    return run_config(str(root), retrieve={"method": "dense", "encoder": str(encoder)}, **sections)


def start(config: RunConfig) -> None:
    """Leave what a run of the former code leaves that was killed at once."""
    location = storage.join(config.storage.root, "runs", config.run, "config.json")
    storage.write_json(location, config.model_dump(mode="json"))


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "models" / "encoder", README__md="read me")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_fingerprints_of_packaged_models_stay_as_they_are():
    assert like(plan_run(run_config()), "package")
    assert like(plan_run(dense(Path("/nowhere"), ENCODER, generator={"engine": "vllm"})), "package, vllm, dense")


def test_no_damage_to_a_models_record_goes_unnoticed(encoder: Path, tmp_path: Path):
    config = dense(tmp_path / "root", encoder)
    plan_run(config).models.record(config.storage.root)
    paths = list((tmp_path / "root" / MODELS).iterdir())
    assert len(paths) >= 1
    assert [missed for path in paths for missed in unnoticed(path, lambda: plan_run(config))] == []


def test_a_new_root_tells_a_folder_by_its_content(encoder: Path, tmp_path: Path):
    plan = plan_run(dense(tmp_path / "root", encoder))
    assert plan.models.retriever
    assert plan.models.retriever.identity == model_identity(str(encoder))
    assert not like(plan, "folder")
    assert not storage.list_tree(str(tmp_path / "root"))


def test_a_root_of_the_former_code_keeps_a_folders_name_and_answers(encoder: Path, tmp_path: Path):
    config = dense(tmp_path / "root", encoder)
    start(config)
    assert like(plan_run(config), "folder")
    plan_run(config).models.record(config.storage.root)
    assert like(plan_run(config), "folder")
    moved = encoder.rename(tmp_path / "elsewhere")
    assert like(plan_run(dense(tmp_path / "root", moved)), "folder")


def test_a_moved_folder_is_known_by_what_stages_say_of_it(encoder: Path, tmp_path: Path):
    config = dense(tmp_path / "root", encoder)
    start(config)
    plan_run(config).probes.complete(0, {})
    storage.remove_folder(storage.join(config.storage.root, "runs"))
    moved = encoder.rename(tmp_path / "elsewhere")
    assert like(plan_run(dense(tmp_path / "root", moved)), "folder")


def test_a_copy_in_the_store_is_known_as_the_folder_that_it_was_made_of(encoder: Path, tmp_path: Path, s3_root: str):
    config = dense(tmp_path / "root", encoder)
    start(config)
    plan_run(config).probes.complete(0, {})
    names = [path.name for path in encoder.iterdir()]
    storage.copy_files(str(encoder), f"{s3_root}/whole", names)
    assert like(plan_run(dense(tmp_path / "root", f"{s3_root}/whole")), "folder")
    plan_run(config).models.record(config.storage.root)
    storage.copy_files(str(encoder), f"{s3_root}/bare", [name for name in names if name != "README.md"])
    bare = plan_run(dense(tmp_path / "root", f"{s3_root}/bare"))
    assert like(bare, "folder")
    assert like(plan_run(bare.config), "folder")


def test_a_root_that_knows_a_stored_model_plans_without_bringing_it(
    encoder: Path, tmp_path: Path, s3_root: str, monkeypatch: pytest.MonkeyPatch
):
    storage.copy_files(str(encoder), f"{s3_root}/known", [path.name for path in encoder.iterdir()])
    config = dense(tmp_path / "root", f"{s3_root}/known")
    first = plan_run(config)
    first.models.record(config.storage.root)
    monkeypatch.setenv("HYDRA_CACHE_DIR", str(tmp_path / "another node"))
    assert fingerprints(plan_run(config)) == fingerprints(first)
    assert not (tmp_path / "another node").exists()
    assert first.config.retrieve.encoder
    assert resolve_model(first.config.retrieve.encoder)


def test_of_two_models_of_one_former_name_only_the_first_keeps_it(encoder: Path, tmp_path: Path):
    config = dense(tmp_path / "root", encoder)
    start(config)
    plan_run(config).models.record(config.storage.root)
    other = write_model(tmp_path / "models" / "other", seed=1, README__md="read me")
    start(dense(tmp_path / "root", other).model_copy(update={"run": "other"}))
    plan = plan_run(dense(tmp_path / "root", other))
    assert plan.models.retriever
    assert plan.models.retriever.identity == model_identity(str(other))


def test_weights_that_were_replaced_in_their_folder_are_another_model(encoder: Path, tmp_path: Path):
    config = dense(tmp_path / "root", encoder)
    first = plan_run(config)
    first.models.record(config.storage.root)
    start(config)
    write_model(encoder, num_numbers=128)
    second = plan_run(config)
    assert second.models.retriever
    assert second.models.retriever.identity == model_identity(str(encoder))
    assert fingerprints(second)["probes"] != fingerprints(first)["probes"]


def test_a_name_of_the_hub_stays_where_runs_used_it_and_pins_what_new_ones_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
):
    config = run_config(str(tmp_path / "root"), generator={"model": "org/model"})
    start(config)
    assert like(plan_run(config), "hub"), "what runs made can be read where the hub cannot be asked"
    with simulated_hub() as hub:
        hub.repositories["org/model"] = Repository()
        commit = hub.repositories["org/model"].commit(write_model(tmp_path / "uploaded"))
        hub.take_the_place_of_the_real_one(monkeypatch, cache=tmp_path / "hub")
        plan = plan_run(config)
        assert like(plan, "hub")
        assert plan.config.generator.model == f"org/model@{commit}"
        plan.models.record(config.storage.root)
        pinned = plan_run(plan.config)
        assert fingerprints(pinned) == fingerprints(plan)
        fresh = plan_run(run_config(str(tmp_path / "fresh"), generator={"model": "org/model"}))
        copied = plan_run(run_config(str(tmp_path / "fresh"), generator={"model": str(tmp_path / "uploaded")}))
        names = [stage.name for stage in fresh.stages() if stage.name != "report"]
        assert [fingerprints(fresh)[name] for name in names] == [fingerprints(copied)[name] for name in names]


@pytest.mark.integration
def test_a_run_records_its_models_where_forgetting_knows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = real_run(tmp_path)
    in_process.install(monkeypatch)
    computed: list[str] = []
    personalize(config, on_computed=lambda stage: computed.append(stage.name))
    root = config.storage.root
    assert storage.list_files(f"{root}/{MODELS}")
    kinds = {each.path.partition("/")[0]: each.kind for each in artefacts(root)}
    assert kinds[MODELS] == Kind.RECORD
    assert computed
    computed.clear()
    personalize(config, on_computed=lambda stage: computed.append(stage.name))
    assert computed == []


@pytest.mark.integration
def test_a_finished_run_of_the_former_code_opens_and_is_run_again_without_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None, s3_root: str
):
    former = former_code(tmp_path)
    config = real_run(tmp_path, generator={"model": "org/model"})
    environment = {**os.environ, "PYTHONPATH": f"{former}:{former}/tests"}
    command = [sys.executable, "-c", _RUN, config.model_dump_json(exclude_defaults=True)]
    done = subprocess.run(command, env=environment, cwd=former, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert plan_recorded(plan_run(config).run_folder).is_complete()
    in_process.install(monkeypatch)
    computed: list[str] = []
    personalize(config, on_computed=lambda stage: computed.append(stage.name))
    assert not {"users", "profiles"} & set(computed), "their versions are the same"
    plan = plan_run(config)
    assert [stage.manifest()["counters"]["asked_now"] for stage in (plan.probes, plan.drafts)] == [0, 0]
    encoder = Path(config.adapter.base.encoder)
    counted = [path.name for path in encoder.iterdir() if path.is_file() and path.name != "README.md"]
    storage.copy_files(str(encoder), f"{s3_root}/encoder", counted)
    stored = config.model_dump()
    for name in ("reranker", "adapter"):
        stored[name]["base"]["encoder"] = f"{s3_root}/encoder"
    left = [stage.name for stage in plan_run(RunConfig.model_validate(stored)).stages() if not stage.is_complete()]
    assert left == ["report"], "the report alone tells where the model was"


def real_run(tmp_path: Path, **sections: dict[str, object]) -> RunConfig:
    """A run that can be made in one process, whose encoder is in a folder."""
    folder = tmp_path / "encoder"
    shutil.copytree(resolve_model(ENCODER), folder)
    untrained = {
        "base": {**run_config().adapter.base.model_dump(), "num_epochs": 0, "width": 8, "encoder": str(folder)}
    }
    return run_config(str(tmp_path / "root"), reranker=untrained, adapter=untrained, **sections)


def former_code(tmp_path: Path) -> Path:
    """The code of the former commit, where this is a clone with its history."""
    folder = tmp_path / "former"
    folder.mkdir()
    archive = ["git", "-C", str(Path(__file__).parents[2]), "archive", "--format=tar", FORMER_COMMIT]
    made = subprocess.run(archive, capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no clone with the commit {FORMER_COMMIT}")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=made.stdout, check=True)
    return folder
