"""Files and tables; what holds of both kinds of stores is tested on both, the object store over real HTTP."""

import errno
import json
import os
import re
import threading
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pytest
from fault_s3 import Fault, FaultyS3
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hydra_ray import storage
from hydra_ray.config import RunConfig, StorageConfig, check_settings
from hydra_ray.errors import ConfigError, DamagedError, StorageError
from hydra_ray.storage import files, sealed_parquet
from hydra_ray.storage import locations as locations_module
from hydra_ray.storage import s3 as s3_module

Place = Callable[[str], str]


def new_part(location: str) -> str:
    """The location, with a table of several pages that cannot be compressed."""
    storage.write_part(location, pa.table({"a": range(20_000), "b": [uuid.uuid4().hex for _ in range(20_000)]}))
    return location


@pytest.fixture(scope="module", params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Locations by name, in a new folder each time."""
    root = str(tmp_path_factory.mktemp("root")) if request.param == "local" else request.getfixturevalue("s3_root")
    return lambda name: f"{root}/{uuid.uuid4().hex}/{name}"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@examples(max_examples=10)
@given(st.binary(max_size=100), st.binary(max_size=100))
def test_bytes_are_read_as_they_were_last_written(place: Place, first, second):
    location = place("a/b")
    for content in (first, second):
        storage.write_bytes(location, content)
        assert storage.read_bytes(location) == content
        assert storage.file_state(location)[0] == len(content)
        with storage.open_input(location) as file:
            assert file.read() == content


@examples(max_examples=10)
@given(st.dictionaries(st.text(), json_values, max_size=3))
def test_json_comes_back_equal(place: Place, value):
    location = place("value.json")
    storage.write_json(location, value)
    stored = json.loads(storage.read_bytes(location).decode("utf-8"))
    assert stored.pop("checksum").startswith("blake2b:")
    assert storage.read_json(location) == value == stored


@examples(max_examples=10)
@given(
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.none() | st.text()), max_size=10),
    st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=3),
)
def test_a_part_comes_back_with_its_counters(place: Place, rows, counters):
    location = place("part.parquet")
    schema = pa.schema([pa.field("number", pa.int64(), nullable=False), pa.field("text", pa.string())])
    table = pa.Table.from_pylist([{"number": number, "text": text} for number, text in rows], schema=schema)
    storage.write_part(location, table, counters)
    assert storage.read_part(location, schema).to_pylist() == table.to_pylist()
    assert storage.read_counters(location) == counters


def test_row_groups_written_one_by_one_are_read_with_their_final_counters(place: Place):
    location = place("part.parquet")
    tables = [pa.table({"a": values, "b": values}) for values in ([1, 2], [3], pa.array([], pa.int64()))]
    counters = {"rows": 0}

    def growing():
        for table in tables:
            counters["rows"] += table.num_rows
            yield table

    schema = tables[0].schema.with_metadata({"key": "value"})
    storage.write_row_groups(location, schema, growing(), counters)
    assert [each.to_pydict() for each in storage.read_row_groups(location, schema)] == [t.to_pydict() for t in tables]
    assert [each.column_names for each in storage.read_row_groups(location, schema, ["b"])] == [["b"]] * 3
    assert storage.read_counters(location) == {"rows": 3}
    assert storage.open_part(location, schema).schema_arrow.metadata[b"key"] == b"value"
    again = storage.read_part(location, schema)
    storage.write_part(location, again, {"rows": 4})
    assert storage.read_counters(location) == {"rows": 4}


def test_only_what_repeats_is_written_with_a_dictionary(tmp_path):
    location, lists = str(tmp_path / "part.parquet"), pa.list_(pa.field("element", pa.float32()))
    struct = pa.struct([pa.field("name", pa.string()), pa.field("scores", lists)])
    schema = pa.schema([("a", pa.float64()), ("b", pa.string()), ("c", pa.list_(pa.field("element", struct)))])
    row = {"a": 1.0, "b": "x", "c": [{"name": "y", "scores": [0.5]}]}
    storage.write_part(location, pa.Table.from_pylist([row], schema=schema))
    group = storage.open_part(location).metadata.row_group(0)
    columns = [group.column(place) for place in range(group.num_columns)]
    assert {column.path_in_schema: column.has_dictionary_page for column in columns} == {
        "a": False,
        "b": True,
        "c.list.element.name": True,
        "c.list.element.scores.list.element": False,
    }
    assert storage.read_part(location, schema).to_pylist() == [row]


def test_row_groups_that_cannot_all_be_made_leave_no_part(place: Place):
    def failing():
        yield pa.table({"a": [1]})
        raise RuntimeError("stopped")

    folder = place("folder")
    with pytest.raises(RuntimeError, match="stopped"):
        storage.write_row_groups(f"{folder}/part.parquet", pa.schema([("a", pa.int64())]), failing(), {})
    assert storage.list_tree(folder) == []


def test_a_part_with_another_schema_is_refused(place: Place):
    location = place("part.parquet")
    storage.write_part(location, pa.table({"a": [1]}))
    with pytest.raises(StorageError, match="schema"):
        storage.read_part(location, pa.schema([("a", pa.string())]))
    with pytest.raises(StorageError, match="schema"):
        next(storage.read_row_groups(location, pa.schema([("a", pa.string())])))


@pytest.fixture
def part(place: Place) -> str:
    """Location of a table."""
    return new_part(place("part.parquet"))


@pytest.mark.parametrize("read", [storage.read_part, storage.read_counters, storage.read_bytes, storage.open_input])
def test_what_is_missing_is_a_storage_error_that_names_it(place: Place, read: Callable[[str], object]):
    with pytest.raises(StorageError, match=r"no file at .*absent.*run again"):
        read(place("absent"))
    with pytest.raises(StorageError, match=r"no file at .*absent"):
        storage.file_state(place("absent"))


@pytest.mark.parametrize("keep", [lambda whole: b"", lambda whole: b"PAR1 and", lambda whole: whole[: len(whole) // 2]])
@pytest.mark.parametrize("read", [storage.read_part, storage.read_counters])
def test_a_table_that_is_cut_off_is_an_error_that_names_it_and_says_what_to_do(part: str, keep, read):
    storage.write_bytes(part, keep(storage.read_bytes(part)))
    with pytest.raises(DamagedError, match=r"part\.parquet is damaged.*Remove it, and its stage's manifest.*run again"):
        read(part)


def test_a_single_wrong_byte_in_a_table_is_never_read_as_if_it_were_right(part: str):
    whole = bytearray(storage.read_bytes(part))
    whole[len(whole) // 2] ^= 1
    storage.write_bytes(part, bytes(whole))
    with pytest.raises(StorageError, match=r"part\.parquet.*Remove it.*run again"):
        storage.read_part(part)


def test_what_is_no_json_is_an_error_that_names_it(place: Place):
    location = place("manifest.json")
    storage.write_bytes(location, b'{"stage": "pro')
    with pytest.raises(DamagedError, match=r"manifest\.json is damaged"):
        storage.read_json(location)


def test_only_a_damaged_table_is_set_aside_and_nothing_of_it_is_lost(part: str):
    assert not storage.set_aside_if_damaged(part)
    storage.write_bytes(part, b"half")
    assert storage.set_aside_if_damaged(part)
    assert not storage.exists(part)
    assert storage.read_bytes(f"{part}{storage.DAMAGED_SUFFIX}") == b"half"


def test_a_write_that_fails_leaves_the_old_content_and_no_other_file(place: Place):
    folder = place("folder")
    location = f"{folder}/file"
    storage.write_bytes(location, b"old")
    with pytest.raises(RuntimeError, match="stopped"), storage.open_output(location) as file:  # noqa: PT012
        file.write(b"half of the new")
        raise RuntimeError("stopped")
    assert storage.read_bytes(location) == b"old"
    assert storage.list_tree(folder) == ["file"]


def test_files_appear_under_their_name_only_when_whole(place: Place):
    location = place("file")
    with storage.open_output(location) as file:
        file.write(b"half")
        file.flush()
        assert not storage.exists(location)
    assert storage.exists(location)


def test_a_full_disk_leaves_no_file_and_is_told_with_what_to_do(tmp_path: Path):
    full = Path("/dev/full")  # every write to it fails as on a full disk
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.open", lambda *_, **__: os.fdopen(os.open(full, os.O_WRONLY), "wb"))
        with pytest.raises(StorageError, match=rf"no room is left to write {tmp_path}/part.*free space"):
            storage.write_part(str(tmp_path / "part"), pa.table({"a": range(10_000)}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "change"),
    [
        ("os.unlink", storage.remove_file),
        ("shutil.rmtree", storage.remove_folder),
        ("os.replace", storage.set_aside_if_damaged),
        ("builtins.open", lambda location: storage.write_bytes(location, b"new")),
        ("builtins.open", lambda location: storage.write_over(location, b"old", b"new")),
    ],
)
def test_a_read_only_file_system_is_told_with_the_file(tmp_path: Path, call: str, change: Callable[[str], object]):
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    location = str(tmp_path / "part.parquet")
    storage.write_bytes(location, b"old")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(StorageError, match=re.escape(location)):
            change(location)
    assert storage.read_bytes(location) == b"old"


def test_a_full_disk_sends_nothing_to_a_store_and_is_told_with_what_to_do(s3: FaultyS3, s3_root: str, tmp_path: Path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    location = f"{s3_root}/{uuid.uuid4().hex}/part"
    with pytest.MonkeyPatch.context() as patch:
        (tmp_path / "object").symlink_to("/dev/full")
        patch.setattr("hydra_ray.storage.s3.temporary_folder", lambda _: nullcontext(str(tmp_path)))
        with pytest.raises(StorageError, match=rf"cannot buffer {location} in .*set TMPDIR"):
            storage.write_part(location, pa.table({"a": range(10_000)}))
    assert not storage.exists(location)


def test_a_disk_that_fills_up_while_a_file_is_renamed_keeps_the_old_one(tmp_path: Path, monkeypatch):
    location = str(tmp_path / "file")
    storage.write_bytes(location, b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(StorageError, match="no room is left"):
        storage.write_bytes(location, b"new")
    assert storage.read_bytes(location) == b"old"
    assert storage.list_files(str(tmp_path)) == ["file"]


def test_files_and_folders_are_listed_sorted(place: Place):
    folder = place("folder")
    for name in ("b", "a", "inner/c", "inner/deep/d"):
        storage.write_bytes(f"{folder}/{name}", b"")
    assert storage.list_files(folder) == ["a", "b"]
    assert storage.list_tree(folder) == ["a", "b", "inner/c", "inner/deep/d"]
    assert storage.list_files(f"{folder}/absent") == storage.list_tree(f"{folder}/absent") == []
    assert storage.present([f"{folder}/{name}" for name in ("a", "inner", "absent", "inner/c")]) == [True, 0, 0, True]
    assert not storage.exists(f"{folder}/inner")


def test_folders_that_a_library_makes_are_no_files(place: Place):
    folder = place("folder")
    filesystem, path = storage.arrow_filesystem(folder)
    filesystem.create_dir(f"{path}/empty/inner", recursive=True)
    with filesystem.open_output_stream(f"{path}/file") as stream:
        stream.write(b"content")
    assert storage.list_tree(folder) == storage.list_files(folder) == ["file"]
    assert not storage.exists(f"{folder}/empty")
    storage.remove_folder(folder)
    assert filesystem.get_file_info(path).type.name == "NotFound"


def test_only_what_is_named_is_removed(place: Place):
    folder = place("folder")
    for name in ("a", "inner/c", "inner/deep/d", "inner-not"):
        storage.write_bytes(f"{folder}/{name}", b"")
    for _ in range(2):
        storage.remove_file(f"{folder}/a")
        storage.remove_folder(f"{folder}/inner")
    assert storage.list_tree(folder) == ["inner-not"]


def test_copied_files_are_the_same(place: Place, tmp_path: Path):
    content = {"a": b"", "b": os.urandom(1000)}
    for name, each in content.items():
        (tmp_path / name).write_bytes(each)
    folder = place("folder")
    storage.copy_files(str(tmp_path), folder, content)
    storage.copy_files(folder, str(tmp_path / "back"), content)
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == content


def test_of_many_writers_of_a_new_file_one_wins(place: Place):
    location, won = place("key"), []
    writers = [
        threading.Thread(target=lambda n=n: won.append(n) if storage.write_new(location, bytes([n])) else None)
        for n in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(won) == 1
    assert storage.read_bytes(location) == bytes(won)


def test_of_many_writers_over_one_file_one_wins(place: Place):
    location, won = place("turn"), []
    storage.write_bytes(location, b"old")
    writers = [
        threading.Thread(target=lambda n=n: won.append(n) if storage.write_over(location, b"old", bytes([n])) else None)
        for n in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(won) == 1
    assert storage.read_bytes(location) == bytes(won)
    assert not storage.write_over(location, b"old", b"late")
    assert not storage.write_over(place("absent"), b"old", b"new")
    assert storage.list_files(location.rpartition("/")[0]) == ["turn"]


def test_only_relative_locations_are_refused():
    for location in ("/tmp/x", "s3://bucket/x"):
        assert storage.require_absolute(location, "storage.root") == location
    with pytest.raises(ConfigError, match=r"storage\.root.*'runs/x'"):
        storage.require_absolute("runs/x", "storage.root")


@pytest.mark.parametrize("location", ["nosuch://x/y", "s3:///y"])
def test_a_location_of_no_known_kind_is_a_config_error(location: str):
    with pytest.raises(ConfigError, match=f"'{location}'.*expected an absolute path or s3://"):
        storage.exists(location)


@pytest.mark.parametrize(
    "location",
    [
        "s3://AKIAKEY:hunter2@bucket/x",
        "s3://AKIAKEY:hun/ter2@bucket/x",
        "s3://bucket/x?access_key=AKIAKEY&secret_key=hunter2",
        "s3://bucket/x?endpoint_override=http://AKIAKEY:hunter2@host",
        "gs://AKIAKEY:hunter2@bucket",
    ],
)
def test_a_location_with_credentials_is_refused_without_repeating_them(location: str):
    with pytest.raises(ConfigError, match="carries credentials") as caught:
        storage.exists(location)
    assert not any(secret in str(caught.value) for secret in ("hunter2", "ter2", "AKIAKEY", "akiakey"))


@pytest.mark.parametrize(
    "endpoint", ["http://AKIAKEY:hunter2@host:9000", "http://host?secret_key=hunter2", "host:9000"]
)
def test_an_endpoint_with_credentials_or_without_scheme_is_refused_unseen(endpoint: str):
    with pytest.raises(ConfigError, match=r"storage\.endpoint") as caught:
        check_settings(RunConfig, {"run": "x", "storage": {"root": "s3://bucket/x", "endpoint": endpoint}}, "x.yaml")
    assert "hunter2" not in str(caught.value)


def test_a_submitted_job_that_tells_where_the_store_is_is_not_told_again(monkeypatch: pytest.MonkeyPatch):
    from hydra_ray.engine.ray_connection import _storage_environment

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://minio:9000")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    told = {
        name: value for name, value in _storage_environment().items() if name in ("AWS_ENDPOINT_URL_S3", "AWS_REGION")
    }
    assert told == {"AWS_ENDPOINT_URL_S3": "http://minio:9000", "AWS_REGION": "eu-west-1"}
    assert "hunter2" not in _storage_environment().values()
    job = {"runtime_env": {"env_vars": {"AWS_REGION": "eu-west-1"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert "AWS_REGION" not in _storage_environment()


def test_refusals_and_broken_answers_of_a_store_are_asked_again(s3: FaultyS3, s3_root: str):
    part = new_part(f"{s3_root}/{uuid.uuid4().hex}/part.parquet")
    whole, table = storage.read_bytes(part), storage.read_part(part)
    for fault in (Fault.SLOW_DOWN, Fault.CUT_OFF):
        for place_of_fault in range(2):
            s3.disturb(*[Fault.NONE] * place_of_fault, fault)
            assert storage.read_bytes(part) == whole
            s3.calm()
            s3.disturb(*[Fault.NONE] * place_of_fault, fault)
            assert storage.read_part(part).equals(table)
            s3.calm()
    s3.disturb(Fault.SLOW_DOWN)
    storage.write_bytes(part, b"new")
    s3.disturb(Fault.SLOW_DOWN)
    assert storage.exists(part)
    s3.disturb(Fault.SLOW_DOWN)
    assert storage.list_files(part.rpartition("/")[0]) == ["part.parquet"]
    s3.disturb(Fault.SLOW_DOWN)
    assert storage.write_over(part, b"new", b"newer")
    assert not s3.num_faults
    assert storage.read_bytes(part) == b"newer"


def test_a_store_that_cannot_be_used_is_told_by_location_and_endpoint_in_the_end(
    s3: FaultyS3, s3_root: str, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(StorageError, match=rf"s3://nobucket/x at {s3.endpoint}.*Check the bucket"):
        storage.write_bytes("s3://nobucket/x", b"")
    monkeypatch.setattr(s3_module, "_ATTEMPTS", 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    for use in (storage.exists, storage.read_bytes, lambda location: storage.write_bytes(location, b"")):
        with pytest.raises(StorageError, match=r"s3://hydra-ray/x|hydra-ray"):
            use("s3://hydra-ray/x")


def test_a_small_table_is_one_request_and_a_large_one_is_read_from_its_end(
    s3: FaultyS3, s3_root: str, monkeypatch: pytest.MonkeyPatch
):
    part = new_part(f"{s3_root}/{uuid.uuid4().hex}/part.parquet")
    whole, size = storage.read_part(part), storage.file_state(part)[0]
    s3.forget_requests()
    assert storage.read_part(part).equals(whole)
    assert len(s3.requests) == 1
    digest = storage.content_digest(part)
    assert s3.served_bytes < size + (100 << 10)
    for tail_bytes in (30, 2000, size - 1, size, size + 1):
        monkeypatch.setattr(files, "WHOLE_BYTES", tail_bytes)
        monkeypatch.setattr(sealed_parquet, "_TAIL_BYTES", min(tail_bytes, 64 << 10))
        s3.forget_requests()
        assert storage.read_part(part).equals(whole)
        assert len(s3.requests) <= 4, tail_bytes
    assert storage.content_digest(part) == digest


def test_many_files_of_a_folder_are_found_by_one_listing_and_what_it_lacks_by_itself(
    s3: FaultyS3, s3_root: str, monkeypatch: pytest.MonkeyPatch
):
    folder = f"{s3_root}/{uuid.uuid4().hex}"
    locations = [f"{folder}/{number}" for number in range(20)]
    for location in locations[:15]:
        storage.write_bytes(location, b"")
    expected = [True] * 15 + [False] * 5
    s3.forget_requests()
    assert storage.present(locations) == expected
    assert len(s3.requests) == 1 + 5
    listed = s3_module.S3Store.list_files
    monkeypatch.setattr(
        s3_module.S3Store, "list_files", lambda *given, **kind: [each for each in listed(*given, **kind) if each != "3"]
    )
    assert storage.present(locations) == expected
    s3.forget_requests()
    assert storage.present([f"{folder}/absent/{number}" for number in range(20)]) == [False] * 20
    assert len(s3.requests) == 1


def test_a_listing_of_more_than_a_page_is_whole(s3_root: str, monkeypatch: pytest.MonkeyPatch):
    folder = f"{s3_root}/{uuid.uuid4().hex}"
    names = [f"{number:02d}" for number in range(7)]
    for name in names:
        storage.write_bytes(f"{folder}/inner/{name}", name.encode())
    store, path = locations_module.store_of(folder)
    call = store._objects.call_s3
    monkeypatch.setattr(store._objects, "call_s3", lambda name, **given: call(name, MaxKeys=3, **given))
    assert storage.list_tree(folder) == [f"inner/{name}" for name in names]
    assert storage.list_files(folder) == []
    assert store.file_sizes(path) == {f"inner/{name}": 2 for name in names}


def test_a_heartbeat_is_one_request_and_notices_who_took_over(s3: FaultyS3, s3_root: str):
    location = f"{s3_root}/{uuid.uuid4().hex}/lease"
    assert storage.write_new(location, b"0")
    s3.forget_requests()
    assert storage.write_over(location, b"0", b"1")
    assert storage.write_over(location, b"1", b"2")
    assert len(s3.requests) == 2
    storage.write_bytes(location, b"another")
    assert not storage.write_over(location, b"2", b"3")
    assert not storage.write_over(location, b"2", b"3")
    assert storage.read_bytes(location) == b"another"
    assert storage.write_over(location, b"another", b"4")


def test_credentials_that_expire_at_whatever_request_of_a_reading_are_told_and_not_taken_for_damage(
    s3: FaultyS3, s3_root: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files, "WHOLE_BYTES", 100)
    part = new_part(f"{s3_root}/{uuid.uuid4().hex}/part.parquet")
    s3.forget_requests()
    storage.read_part(part)
    num_requests = len(s3.requests)
    assert num_requests > 1
    for num_good in range(num_requests):
        s3.disturb(*[Fault.NONE] * num_good, *[Fault.EXPIRED] * 40)
        with pytest.raises(StorageError, match=r"s3://.*credentials") as told:
            storage.read_part(part)
        assert "damaged" not in str(told.value)
        s3.calm()


def test_a_full_store_is_an_error_that_names_the_file(s3: FaultyS3, s3_root: str):
    s3.disturb(*[Fault.NO_ROOM] * 40)
    with pytest.raises(StorageError, match="s3://hydra-ray/x at "):
        storage.write_bytes("s3://hydra-ray/x", b"")
    s3.calm()
    assert not storage.exists("s3://hydra-ray/x")


def test_the_configured_store_reaches_this_process_and_its_workers(monkeypatch: pytest.MonkeyPatch):
    for name in (*s3_module.ENDPOINTS, *s3_module.REGIONS):
        monkeypatch.setenv(name, "")  # so that it is restored, whatever is set meanwhile
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    config = StorageConfig(root="s3://bucket/x", endpoint="http://minio:9000", region="eu-west-1")
    locations_module.reach(StorageConfig(root="/x"))
    assert locations_module.worker_environment() == {}
    locations_module.reach(config)
    locations_module.reach(config)
    assert locations_module.worker_environment() == {
        "AWS_ENDPOINT_URL_S3": "http://minio:9000",
        "AWS_REGION": "eu-west-1",
    }
    with pytest.raises(ConfigError, match=r"storage\.region is 'us-east-1', but AWS_REGION"):
        locations_module.reach(config.model_copy(update={"region": "us-east-1"}))


@examples(max_examples=20)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 100)), max_size=5))
def test_counters_add_up_by_name(counters):
    total = storage.add_counters(counters)
    assert total == {name: sum(each.get(name, 0) for each in counters) for each in counters for name in each}
