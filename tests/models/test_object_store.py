"""Models in an object store: brought once, whole or not at all, and never fetched twice."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from fault_s3 import Fault, FaultyS3
from model_files import write_model
from safetensors.numpy import load_file

from hydra_ray import storage
from hydra_ray.errors import ConfigError, ModelError
from hydra_ray.models import model_identity, object_store, open_model, resolve_model, weight_bytes
from hydra_ray.storage.s3 import S3Store

MEGABYTE = 1 << 20
_SMALL_BYTES = 1000
"""More than all files have together that are no weights."""
_NODE = """
import sys
from hydra_ray.models import resolve_model, object_store
object_store.CHUNK_BYTES = 1 << 20
print(resolve_model(sys.argv[1]))
"""


class Uploaded(NamedTuple):
    location: str
    folder: Path
    """What was uploaded."""

    def put(self) -> None:
        names = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
        storage.copy_files(str(self.folder), self.location, names)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes this process one of the node that is named; returns the node's cache."""

    def be(name: str) -> Path:
        monkeypatch.setenv("HYDRA_CACHE_DIR", str(tmp_path / name))
        return tmp_path / name / "models"

    be("node-1")
    monkeypatch.setattr(object_store, "CHUNK_BYTES", MEGABYTE)
    return be


@pytest.fixture
def uploaded(s3_root: str, tmp_path: Path, s3: FaultyS3) -> Uploaded:
    folder = write_model(tmp_path / "uploaded", num_numbers=3 * MEGABYTE, README__md="read me")
    made = Uploaded(f"{s3_root}/{uuid.uuid4().hex}/small", folder)
    made.put()
    s3.forget_requests()
    return made


def processes(location: str, cache: Path, number: int) -> list["subprocess.Popen[str]"]:
    """Processes of one node that want the same model at the same time."""
    environment = {**os.environ, "HYDRA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", _NODE, location]
    return [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(number)]


def test_a_model_is_brought_once_and_is_what_was_uploaded(uploaded, node, s3, caplog):
    caplog.set_level(logging.INFO, "hydra_ray.models")
    folder = Path(resolve_model(uploaded.location))
    assert (folder / "model.safetensors").read_bytes() == (uploaded.folder / "model.safetensors").read_bytes()
    assert not (folder / "README.md").exists()
    assert [record.message.split(" ")[0] for record in caplog.records] == ["fetching", "fetched"]
    served = s3.served_bytes
    assert served >= 12 * MEGABYTE
    assert resolve_model(uploaded.location) == str(folder)
    assert s3.served_bytes == served


def test_equal_content_has_one_identity_in_folder_store_and_other_node(uploaded, node):
    here = model_identity(uploaded.location)
    node("node-2")
    assert model_identity(uploaded.location) == model_identity(str(uploaded.folder)) == here
    assert model_identity(uploaded.location, with_weights=False) != here


def test_a_tokenizer_is_brought_without_the_weights(uploaded, node, s3):
    folder = Path(resolve_model(uploaded.location, with_weights=False))
    assert (folder / "tokenizer.json").exists()
    assert s3.served_bytes < MEGABYTE


def test_the_size_of_weights_is_listed_and_not_brought(uploaded, node, s3):
    assert weight_bytes(uploaded.location) == (uploaded.folder / "model.safetensors").stat().st_size
    assert s3.served_bytes == 0


def test_refusals_and_bodies_that_break_off_change_nothing(uploaded, node, s3):
    s3.disturb(Fault.SLOW_DOWN, Fault.NONE, Fault.SLOW_DOWN, Fault.CUT_OFF, Fault.NONE, Fault.CUT_OFF, Fault.SLOW_DOWN)
    folder = Path(resolve_model(uploaded.location))
    assert s3.num_faults == 0
    assert (folder / "model.safetensors").read_bytes() == (uploaded.folder / "model.safetensors").read_bytes()


@pytest.mark.integration
def test_a_process_killed_in_the_middle_is_gone_on_from_there(uploaded, node, s3, tmp_path):
    cache = tmp_path / "killed"
    s3.disturb(*[Fault.NONE] * 16, *[Fault.STALL] * 20)
    (killed,) = processes(uploaded.location, cache, 1)
    while num_chunks(cache) < 2 or s3.num_faults >= 20:  # until everything that is asked stalls
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    s3.calm()
    whole, kept = (uploaded.folder / "model.safetensors").read_bytes(), num_chunks(cache) * MEGABYTE
    assert 2 * MEGABYTE <= kept < len(whole)
    assert not list(cache.glob("models/small-*/.brought.json"))
    s3.forget_requests()
    others = processes(uploaded.location, cache, 3)
    (folder,) = {each.communicate()[0].strip() for each in others}
    assert [each.returncode for each in others] == [0, 0, 0]
    assert s3.served_bytes <= len(whole) - kept + _SMALL_BYTES
    assert Path(folder, "model.safetensors").read_bytes() == whole


@pytest.mark.integration
def test_several_processes_of_a_node_bring_a_model_once(uploaded, node, s3, tmp_path):
    others = processes(uploaded.location, tmp_path / "shared", 3)
    assert len({each.communicate()[0] for each in others}) == 1
    assert [each.returncode for each in others] == [0, 0, 0]
    assert s3.served_bytes < 13 * MEGABYTE


@pytest.mark.parametrize("position", [0, MEGABYTE + 5, 3 * MEGABYTE - 1])
def test_a_byte_flipped_on_the_disk_before_the_end_is_noticed_and_brought_again(uploaded, node, monkeypatch, position):
    plain = object_store._append

    def append(file, content):
        if file.tell() >= 3 * MEGABYTE:
            raise InterruptedError
        plain(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(object_store, "_append", append)
        with pytest.raises(ModelError, match="HYDRA_CACHE_DIR"):
            resolve_model(uploaded.location)
    (weights,) = node("node-1").glob("small-*/model.safetensors")
    flip(weights, position)
    folder = Path(resolve_model(uploaded.location))
    assert (folder / "model.safetensors").read_bytes() == (uploaded.folder / "model.safetensors").read_bytes()


def test_a_byte_flipped_afterwards_or_a_cut_is_noticed_when_the_model_is_loaded(uploaded, node, caplog):
    weights = Path(resolve_model(uploaded.location)) / "model.safetensors"
    flip(weights, 2 * MEGABYTE)
    resolve_model(uploaded.location)
    assert weights.read_bytes() == (uploaded.folder / "model.safetensors").read_bytes()
    assert "was changed on this node's disk" in caplog.text
    os.truncate(weights, 100)
    resolve_model(uploaded.location)
    assert weights.read_bytes() == (uploaded.folder / "model.safetensors").read_bytes()


def test_a_folder_that_was_only_touched_is_not_brought_again(uploaded, node, s3):
    folder = Path(resolve_model(uploaded.location))
    (folder / "model.safetensors").touch()
    s3.forget_requests()
    assert resolve_model(uploaded.location) == str(folder)
    assert s3.served_bytes == 0


def test_an_object_changed_while_it_is_brought_is_refused_by_name(uploaded, node, monkeypatch):
    plain = object_store._read_back

    def change(target, journal):
        if target.name == "model.safetensors":
            write_model(uploaded.folder, seed=1, num_numbers=3 * MEGABYTE)
            uploaded.put()
        return plain(target, journal)

    monkeypatch.setattr(object_store, "_read_back", change)
    with pytest.raises(ModelError, match=r"/small/(model.safetensors|tokenizer.json) was changed while it was read"):
        resolve_model(uploaded.location)
    monkeypatch.undo()
    monkeypatch.setenv("HYDRA_CACHE_DIR", str(node("node-1").parent))


def test_a_model_replaced_after_the_plan_is_refused_by_whoever_has_the_plan(uploaded, node):
    pinned = open_model(uploaded.location).pinned(model_identity(uploaded.location))
    assert resolve_model(pinned) == resolve_model(uploaded.location)
    for with_weights in (True, False):
        identity = model_identity(uploaded.location, with_weights=with_weights)
        assert model_identity(pinned, with_weights=with_weights) == identity
    assert resolve_model(pinned, with_weights=False)
    write_model(uploaded.folder, seed=1, num_numbers=3 * MEGABYTE)
    uploaded.put()
    with pytest.raises(ModelError, match="was replaced"):
        resolve_model(pinned)
    changed = load_file(Path(resolve_model(uploaded.location), "model.safetensors"))["numbers"]
    assert np.array_equal(changed, load_file(uploaded.folder / "model.safetensors")["numbers"])


def test_what_came_otherwise_than_the_store_says_is_refused(uploaded, node, monkeypatch):
    plain = object_store._read_back
    monkeypatch.setattr(object_store, "_read_back", lambda *paths: {**(plain(*paths) or {}), "md5": "0" * 32})
    with pytest.raises(ModelError, match="was corrupted on the way"):
        resolve_model(uploaded.location)


def test_a_pin_of_the_tokenizer_alone_leaves_the_weights_open(uploaded, node):
    identity = model_identity(uploaded.location, with_weights=False)
    pinned = open_model(uploaded.location).pinned(identity)
    assert resolve_model(pinned) == resolve_model(uploaded.location)
    assert model_identity(pinned, with_weights=False) == identity
    assert model_identity(pinned) == model_identity(uploaded.location)


def test_a_cache_that_cannot_be_written_is_said(uploaded, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HYDRA_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match="HYDRA_CACHE_DIR"):
        resolve_model(uploaded.location)


def test_a_model_for_which_there_is_no_room_is_not_begun(uploaded, node, monkeypatch):
    monkeypatch.setattr(object_store.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 5 * MEGABYTE))
    with pytest.raises(ModelError, match=r"needs 0.01 GB more on this node, and 0.01 GB are free .*HYDRA_CACHE_DIR"):
        resolve_model(uploaded.location)
    assert not list(node("node-1").glob("small-*/model.safetensors"))
    assert model_identity(uploaded.location) == model_identity(str(uploaded.folder)), "planning needs no room"
    assert not list(node("node-1").glob("small-*/model.safetensors"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_disk_that_fills_up_meanwhile_is_said_and_what_came_is_kept(uploaded, node, monkeypatch):
    plain = object_store._append

    def append(file, content):
        if len(content) == MEGABYTE and file.tell() >= 2 * MEGABYTE:
            with open("/dev/full", "wb", buffering=0) as full:
                full.write(content)
        plain(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(object_store, "_append", append)
        with pytest.raises(ModelError, match="HYDRA_CACHE_DIR"):
            resolve_model(uploaded.location)
    (weights,) = node("node-1").glob("small-*/model.safetensors")
    assert weights.stat().st_size == 2 * MEGABYTE
    resolve_model(uploaded.location)


def test_what_is_no_model_in_the_store_is_said(s3_root, node, tmp_path):
    place = f"{s3_root}/{uuid.uuid4().hex}"
    with pytest.raises(ModelError, match=r"nothing is at .*aws s3 cp"):
        resolve_model(place)
    inner = Uploaded(f"{place}/inner", write_model(tmp_path / "inner"))
    inner.put()
    with pytest.raises(ModelError, match=f"no config.json; there is one in {place}/inner"):
        resolve_model(place)
    (inner.folder / "model.safetensors").unlink()
    Uploaded(f"{place}/empty", inner.folder).put()
    with pytest.raises(ModelError, match="holds no weights"):
        resolve_model(f"{place}/empty")
    (inner.folder / "model.safetensors").write_bytes(json.dumps({}).encode())
    Uploaded(f"{place}/broken", inner.folder).put()
    with pytest.raises(ModelError, match="cut off or damaged"):
        resolve_model(f"{place}/broken")


def test_a_store_that_does_not_answer_is_an_error_of_the_model(s3, uploaded, node, monkeypatch):
    monkeypatch.setattr("hydra_ray.storage.s3._ATTEMPTS", 2)
    monkeypatch.setattr("hydra_ray.storage.s3._connected", S3Store)
    s3.disturb(*[Fault.SLOW_DOWN] * 400)
    with pytest.raises(ModelError, match="cannot fetch the model"):
        resolve_model(uploaded.location)
    s3.calm()


@pytest.mark.parametrize("scheme", ["gs", "abfs", "az", "hf", "https", "file"])
def test_a_location_in_a_store_that_is_not_supported_is_refused_by_name(scheme):
    with pytest.raises(ConfigError, match=f"{scheme}://.*s3://bucket/folder"):
        storage.exists(f"{scheme}://bucket/folder")


def num_chunks(cache: Path) -> int:
    """Chunks of the weights that are safe on a node's disk."""
    journals = cache.glob("models/small-*/.journals/model.safetensors")
    return sum(path.stat().st_size for path in journals) // 4


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (old,) = file.read(1)
        file.seek(position)
        file.write(bytes([old ^ 1]))
