"""Sealed Parquet files: nothing of them is read that was not checked, and nothing is read that need not be."""

from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import flipped

from hydra_ray import storage
from hydra_ray.errors import DamagedError, StorageError
from hydra_ray.storage import sealed_parquet

TABLE = pa.table(
    {
        "user_id": [f"user-{number:03d}" for number in range(300)],
        "code": [[float(number)] * 4 for number in range(300)],
        "answer": [{"text": f"text {number}", "tokens": number} for number in range(300)],
    }
)


@pytest.fixture(params=[1 << 20, 500])
def location(request: pytest.FixtureRequest, tmp_path, monkeypatch) -> str:
    """A table of three row groups, of a block each or of several."""
    monkeypatch.setattr(sealed_parquet, "_BLOCK_BYTES", request.param)
    location = str(tmp_path / "part.parquet")
    groups = [TABLE.slice(start, 100) for start in (0, 100, 200)]
    storage.write_row_groups(location, TABLE.schema, groups, {"rows": 300})
    return location


def test_what_was_written_is_read_by_us_and_by_any_other_reader(location: str):
    assert storage.read_part(location, TABLE.schema).equals(TABLE)
    assert pq.read_table(location).equals(TABLE)
    assert storage.read_counters(location) == {"rows": 300}
    ids = storage.read_row_groups(location, TABLE.schema, ["user_id"], lambda _: [1])
    assert [table["user_id"].to_pylist() for table in ids] == [TABLE["user_id"].to_pylist()[100:200]]


def test_any_flipped_bit_is_noticed(location: str):
    content, chance = storage.read_bytes(location), Random(0)
    for bit in chance.sample(range(8 * len(content)), 400):
        storage.write_bytes(location, flipped(content, bit))
        with pytest.raises(DamagedError, match=f"{location} is damaged"):
            storage.read_part(location)


def test_any_flipped_bit_of_the_footer_is_noticed_when_it_is_opened(location: str):
    content = storage.read_bytes(location)
    start = 8 * (len(content) - int.from_bytes(content[-8:-4], "little") - 8 - 24)
    for bit in Random(0).sample(range(start, 8 * len(content)), 200):
        storage.write_bytes(location, flipped(content, bit))
        with pytest.raises(DamagedError, match=f"{location} is damaged"):
            storage.open_part(location)


def test_damage_to_one_row_group_does_not_concern_who_reads_another(location: str):
    content = storage.read_bytes(location)
    with storage.open_part(location) as file:
        place = file.metadata.row_group(1).column(0).data_page_offset
    storage.write_bytes(location, flipped(content, 8 * place + 9))
    for group in (0, 2):
        (table,) = storage.read_row_groups(location, TABLE.schema, choose=lambda _, group=group: [group])
        assert table.equals(TABLE.slice(100 * group, 100))
    with pytest.raises(DamagedError, match="are not what was written"):
        list(storage.read_row_groups(location, TABLE.schema, choose=lambda _: [1]))


@pytest.mark.parametrize("num_bytes", [0, 3, 11, 500, -1, -20, -3000])
def test_a_file_that_is_cut_off_is_refused(location: str, num_bytes: int):
    storage.write_bytes(location, storage.read_bytes(location)[:num_bytes])
    with pytest.raises(DamagedError, match=f"{location} is damaged"):
        storage.open_part(location)


def test_a_file_without_a_seal_is_read_with_the_checksums_of_its_pages(tmp_path):
    location = str(tmp_path / "part.parquet")
    pq.write_table(TABLE, location, write_page_checksum=True, row_group_size=100)
    assert storage.read_part(location, TABLE.schema).equals(TABLE)
    chunk = pq.read_metadata(location).row_group(1).column(1)
    place = chunk.data_page_offset + 3 * chunk.total_compressed_size // 4  # of the page, behind its header
    storage.write_bytes(location, flipped(storage.read_bytes(location), 8 * place))
    with pytest.raises(StorageError, match=rf"cannot read {location}.*CRC.*If it is damaged: Remove it"):
        storage.read_part(location)


def test_parts_of_the_same_rows_have_one_digest_whatever_their_counters(location: str, tmp_path):
    other = str(tmp_path / "other.parquet")
    storage.write_row_groups(other, TABLE.schema, [TABLE.slice(start, 100) for start in (0, 100, 200)], {"rows": 7})
    assert storage.content_digest(other) == storage.content_digest(location)
    storage.write_row_groups(other, TABLE.schema, [TABLE], {})
    assert storage.content_digest(other) != storage.content_digest(location)
    schema = TABLE.schema.with_metadata({"base": "another"})
    storage.write_row_groups(other, schema, [TABLE.slice(start, 100) for start in (0, 100, 200)], {})
    assert storage.content_digest(other) != storage.content_digest(location)
