import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hydra_ray import storage
from hydra_ray.config import ProbesConfig
from hydra_ray.errors import StorageError
from hydra_ray.runs.stage import Stage, bucket_of, fingerprint

SETTINGS = {"probes": ProbesConfig(), "seed": 1}


def test_a_fingerprint_changes_with_everything_that_it_covers():
    prints = [
        fingerprint("probes", 1, SETTINGS, ["a", "b"]),
        fingerprint("drafts", 1, SETTINGS, ["a", "b"]),
        fingerprint("probes", 2, SETTINGS, ["a", "b"]),
        fingerprint("probes", 1, {**SETTINGS, "seed": 2}, ["a", "b"]),
        fingerprint("probes", 1, {**SETTINGS, "other": 1}, ["a", "b"]),
        fingerprint("probes", 1, SETTINGS, ["b", "a"]),
        fingerprint("probes", 1, SETTINGS, ["ab"]),
        *(
            fingerprint("probes", 1, {**SETTINGS, "probes": ProbesConfig(**{name: 7})}, ["a", "b"])
            for name in ProbesConfig.model_fields
        ),
    ]
    assert len(set(prints)) == len(prints)


def test_a_fingerprint_does_not_depend_on_order_of_settings_or_process():
    expected = fingerprint("probes", 1, SETTINGS, ["ä"])
    assert fingerprint("probes", 1, dict(reversed(SETTINGS.items())), ["ä"]) == expected
    code = (
        "from hydra_ray.config import ProbesConfig; from hydra_ray.runs.stage import fingerprint; "
        "print(fingerprint('probes', 1, {'probes': ProbesConfig(), 'seed': 1}, ['ä']))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert output.strip() == expected


def test_buckets_are_even_and_depend_on_the_key():
    ids = [f"train:{n}" for n in range(8000)]
    counts = Counter(bucket_of(each, 8, "key") for each in ids)
    assert set(counts) == set(range(8))
    assert max(counts.values()) < 1.15 * min(counts.values())
    assert sum(bucket_of(each, 8, "key") == bucket_of(each, 8, "other") for each in ids) < 0.15 * len(ids)


@examples(max_examples=50)
@given(st.text(), st.integers(1, 1000))
def test_every_id_has_a_bucket(user_id, num_buckets):
    assert 0 <= bucket_of(user_id, num_buckets, "key") < num_buckets
    assert bucket_of(user_id, num_buckets, "key") == bucket_of(user_id, num_buckets, "key")


@pytest.fixture
def stage(tmp_path) -> Stage:
    return Stage(name="reranker.base", fingerprint="f" * 16, root=str(tmp_path), num_buckets=4, settings=SETTINGS)


def test_missing_buckets_are_those_without_a_committed_part(stage):
    assert stage.missing_buckets("users") == [0, 1, 2, 3]
    for bucket in (2, 0):
        storage.write_bytes(stage.part("users", bucket), b"")
    storage.write_bytes(stage.part("users", 1) + ".tmp", b"")
    assert stage.missing_buckets("users") == [1, 3]
    assert stage.missing_buckets("rejected") == [0, 1, 2, 3]


def test_a_bucket_is_missing_as_long_as_any_of_its_tables_lacks_it(stage):
    for table, buckets in (("users", (0, 1, 2)), ("rejected", (0, 2, 3))):
        for bucket in buckets:
            storage.write_bytes(stage.part(table, bucket), b"")
    assert stage.missing_buckets("users", "rejected") == [1, 3]


def test_a_stage_of_some_buckets_misses_and_lists_no_others(stage):
    some = replace(stage, only_buckets=(1, 3))
    storage.write_bytes(some.part("users", 1), b"")
    assert some.missing_buckets("users") == [3]
    assert some.parts("users") == [stage.part("users", 1), stage.part("users", 3)]
    assert list(stage.buckets) == [0, 1, 2, 3]


def test_a_stage_is_complete_only_by_its_manifest(stage):
    for part in stage.parts("users"):
        storage.write_part(part, pa.table({"a": [0]}))
    assert not stage.is_complete()
    with pytest.raises(StorageError, match=r"reranker\.base is not complete"):
        stage.manifest()
    stage.complete(1.5, {"users": 4})
    assert stage.is_complete()
    manifest = stage.manifest()
    assert (manifest["seconds"], manifest["counters"]) == (1.5, {"users": 4})
    assert manifest["settings"] == {"probes": ProbesConfig().model_dump(), "seed": 1}


def test_no_listing_decides_what_is_there(stage, monkeypatch):
    storage.write_bytes(stage.part("users", 1), b"")
    for name in ("list_files", "list_tree"):
        monkeypatch.setattr(storage, name, lambda _: [])
    assert stage.missing_buckets("users") == [0, 2, 3]
    assert stage.committed_buckets("users") == [1]
    stage.complete(0, {})
    assert stage.is_complete()


def test_damaged_parts_of_a_stage_are_set_aside_and_missing_again(stage):
    for bucket in range(3):
        storage.write_part(stage.part("users", bucket), pa.table({"a": [bucket]}))
    whole = storage.read_bytes(stage.part("users", 1))
    storage.write_bytes(stage.part("users", 1), whole[:-9])
    storage.write_bytes(stage.part("users", 2), b"")
    assert stage.set_aside_damaged() == [stage.part("users", 1), stage.part("users", 2)]
    assert stage.missing_buckets("users") == [1, 2, 3]
    assert stage.set_aside_damaged() == []
    assert storage.read_part(stage.part("users", 0)).to_pylist() == [{"a": 0}]


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: {**manifest, "format": 2},
        lambda manifest: {key: value for key, value in manifest.items() if key != "counters"},
        lambda manifest: [manifest],
    ],
)
def test_a_manifest_of_another_version_is_an_error_that_names_it_and_says_what_to_do(stage, change):
    stage.complete(0, {})
    storage.write_bytes(stage.manifest_location, json.dumps(change(stage.manifest())).encode())
    with pytest.raises(StorageError, match=rf"{stage.manifest_location}.*Another version.*remove the stage's folder"):
        stage.manifest()


def test_the_folder_names_stage_and_fingerprint(stage, tmp_path):
    assert stage.folder == f"{tmp_path}/stages/reranker/base/{'f' * 16}"
    assert stage.part("users", 3) == f"{stage.folder}/users/bucket-00003.parquet"


def test_the_manifest_of_another_stage_is_refused_by_name(stage):
    other = replace(stage, fingerprint="0" * 16)
    for each in (stage, other):
        each.complete(1.5, {"users": 4})
    storage.write_bytes(stage.manifest_location, storage.read_bytes(other.manifest_location))
    with pytest.raises(
        StorageError, match=rf"{stage.manifest_location}.*it is that of the stage {other.name}, 0{{16}}"
    ):
        stage.manifest()
