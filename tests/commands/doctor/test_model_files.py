import json
import uuid
from pathlib import Path

import pytest
from model_folders import BERT, LLAMA, write_model
from simulated_hub import Repository, simulated_hub

from hydra_ray import storage
from hydra_ray.commands.doctor.model_files import describe_model
from hydra_ray.commands.doctor.models import context_limit
from hydra_ray.errors import ModelError
from hydra_ray.models import load_tokenizer

SHARDS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]


def put(folder: str, root: str, *, without: str = "") -> str:
    """A copy of a model in the store."""
    location = f"{root}/models/{uuid.uuid4().hex}"
    names = [path.name for path in Path(folder).iterdir() if path.name != without]
    storage.copy_files(folder, location, names)
    return location


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_CACHE_DIR", str(tmp_path / "cache"))


def test_a_model_in_a_store_is_described_without_its_weights(s3_root: str, tmp_path: Path):
    folder = write_model(tmp_path / "model", LLAMA, weight_bytes=1 << 20)
    found = describe_model(put(folder, s3_root))
    assert found.architecture == "LlamaForCausalLM"
    assert found.tokenizer.chat_template
    assert found.weight_bytes is not None
    assert found.missing_bytes > found.weight_bytes > 1 << 20
    assert found.cache == str(tmp_path / "cache" / "models")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_model_that_was_brought_misses_nothing(s3_root: str, tmp_path: Path):
    from hydra_ray.models import resolve_model

    location = put(write_model(tmp_path / "model", LLAMA), s3_root)
    resolve_model(location)
    assert describe_model(location).missing_bytes == 0


def test_a_shard_that_is_missing_in_the_store_is_told_before_anything_is_brought(s3_root: str, tmp_path: Path):
    location = put(write_model(tmp_path / "model", LLAMA, shards=SHARDS), s3_root, without=SHARDS[1])
    with pytest.raises(ModelError, match=SHARDS[1]):
        describe_model(location)


def test_a_model_of_the_hub_is_described_without_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = Path(write_model(tmp_path / "model", LLAMA, weight_bytes=1 << 20))
    with simulated_hub() as hub:
        hub.repositories["org/described"] = Repository()
        hub.repositories["org/described"].commit(folder)
        hub.take_the_place_of_the_real_one(monkeypatch, cache=tmp_path / "hf")
        found = describe_model("org/described")
        assert hub.served_bytes < 1 << 20
    size = (folder / "model.safetensors").stat().st_size
    assert (found.architecture, found.weight_bytes, found.missing_bytes) == ("LlamaForCausalLM", size, size)


def test_a_model_that_is_not_in_the_store_is_told(s3_root: str):
    with pytest.raises(ModelError, match="nothing is at"):
        describe_model(f"{s3_root}/models/none")


def test_weights_are_not_looked_at_where_a_tokenizer_is_all_that_is_wanted(tmp_path: Path):
    folder = write_model(tmp_path / "model", LLAMA)
    (tmp_path / "model" / "model.safetensors").unlink()
    assert describe_model(folder, with_weights=False).weight_bytes is None
    with pytest.raises(ModelError, match="weights"):
        describe_model(folder)


def test_a_tokenizer_that_cannot_be_loaded_is_told(tmp_path: Path):
    folder = Path(write_model(tmp_path / "model", BERT))
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="no tokenizer that can be loaded"):
        describe_model(str(folder))


def test_context_is_what_positions_and_their_stretching_allow(tmp_path: Path):
    plain = describe_model(write_model(tmp_path / "plain", LLAMA))
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    stretched = describe_model(write_model(tmp_path / "stretched", {**LLAMA, "rope_scaling": rope}))
    assert (context_limit(plain), context_limit(stretched)) == (4096, 16384)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_models_own_code_is_neither_run_nor_asked_about(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = Path(write_model(tmp_path / "model", LLAMA))
    settings = json.loads((folder / file).read_text())
    if file == "config.json":
        settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    else:
        settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / file).write_text(json.dumps(settings))
    (folder / "own.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("nobody is asked"))
    with pytest.raises(ModelError, match="which is never run"):
        describe_model(str(folder))
    if file != "config.json":
        with pytest.raises(ModelError, match="which is never run"):
            load_tokenizer(str(folder))


@pytest.mark.parametrize("spoil", ["pointer", "cut", "empty"])
def test_weights_in_the_store_that_are_none_are_told_before_they_are_brought(s3_root: str, tmp_path: Path, spoil: str):
    weights = Path(write_model(tmp_path / "model", LLAMA)) / "model.safetensors"
    whole = weights.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4321\n"
    weights.write_bytes({"pointer": pointer, "cut": whole[:-100], "empty": b""}[spoil])
    location = put(str(weights.parent), s3_root)
    with pytest.raises(ModelError, match=r"model.safetensors .* holds no whole weights"):
        describe_model(location)
    weights.write_bytes(whole)
    assert describe_model(put(str(weights.parent), s3_root)).missing_bytes > len(whole)
