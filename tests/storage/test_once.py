import pyarrow as pa
import pytest

from hydra_ray import storage
from hydra_ray.errors import DamagedError
from hydra_ray.storage import files, once
from hydra_ray.storage.recording import recording

TABLE = pa.table({"number": [1, 2, 3]})


@pytest.fixture
def location(s3_root: str, s3) -> str:
    found = storage.join(s3_root, "table.parquet")
    storage.write_part(found, TABLE, {"rows": 3})
    s3.forget_requests()
    return found


def reads(s3) -> int:
    return sum(each.startswith("GET") for each in s3.requests)


def test_a_table_is_one_request_however_often_a_block_reads_it(location: str, s3):
    with storage.reading_once():
        for _ in range(3):
            assert storage.exists(location)
            assert storage.read_part(location).equals(TABLE)
        assert storage.read_counters(location) == {"rows": 3}
    assert len(s3.requests) == 2  # the first is whether it is there
    storage.read_part(location)
    assert len(s3.requests) == 3


def test_what_is_written_in_a_block_is_not_read_back(s3_root: str, s3):
    location = storage.join(s3_root, "written.parquet")
    s3.forget_requests()
    with storage.reading_once():
        storage.write_part(location, TABLE)
        assert storage.read_part(location).equals(TABLE)
        storage.write_part(location, TABLE.slice(1))
        assert storage.read_part(location).equals(TABLE.slice(1))
        storage.remove_file(location)
        assert not storage.exists(location)
    assert reads(s3) == 0


def test_what_was_read_travels_and_is_checked_where_it_arrives(location: str, s3):
    with storage.reading_once() as was_read:
        storage.read_part(location)
        sent = was_read()
    s3.forget_requests()
    with storage.reading_once(sent):
        assert storage.read_part(location).equals(TABLE)
    assert s3.requests == []
    (whole,) = sent
    content = bytearray(whole.content)
    content[10] ^= 1
    spoilt = storage.ReadFile(location=location, content=bytes(content))
    with storage.reading_once([spoilt]), pytest.raises(DamagedError, match="are not what was written"):
        storage.read_part(location)


def test_a_table_too_large_to_keep_is_read_in_pieces_and_does_not_travel(
    location: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files, "WHOLE_BYTES", 64)
    monkeypatch.setattr(once, "WHOLE_BYTES", 64)
    with storage.reading_once() as was_read:
        assert storage.read_part(location).equals(TABLE)
        storage.write_part(location, TABLE.slice(1))
        assert storage.read_part(location).equals(TABLE.slice(1))
        assert was_read() == []


def test_local_tables_are_left_to_the_system(tmp_path):
    location = str(tmp_path / "table.parquet")
    storage.write_part(location, TABLE)
    with storage.reading_once() as was_read:
        assert storage.read_part(location).equals(TABLE)
        assert was_read() == []


def test_counters_of_what_is_being_made_are_those_that_were_told(location: str, s3):
    with recording(location.rpartition("/")[0]):
        storage.write_part(location, TABLE, {"rows": 4})
        s3.forget_requests()
        assert storage.read_counters(location) == {"rows": 4}
        assert s3.requests == []


def test_a_table_that_may_be_missing_is_asked_for_once(location: str, s3):
    found = storage.read_part_if_there(location, TABLE.schema)
    assert found is not None
    assert found.equals(TABLE)
    assert storage.read_part_if_there(f"{location}.none.parquet", TABLE.schema) is None
    assert len(s3.requests) == 2
