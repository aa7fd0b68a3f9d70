from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydra_ray import storage
from hydra_ray.errors import HeadMismatchError, StorageError
from hydra_ray.rows import from_table
from hydra_ray.runs.stage import Stage, bucket_of
from hydra_ray.scorer.heads.features import ROW_GROUP_USERS
from hydra_ray.scorer.heads.store import (
    HEADS_SCHEMA,
    HeadStore,
    Lineage,
    UserHead,
    heads_table,
    read_heads,
    write_heads,
)

LINEAGE = Lineage(base="base0", head_prior="head prior0")
RANK = 32


def head_of(user_id, rng, rank=RANK):
    """A user's random head, in numbers that its table can hold."""
    return UserHead(
        user_id=user_id,
        is_new=bool(rng.integers(2)),
        configuration=f"lowrank-{rank}",
        code=tuple(rng.normal(size=rank).astype(np.float32).tolist()),
        precision=tuple((1 + rng.gamma(2, 3, size=rank)).astype(np.float16).tolist()),
        num_groups=int(rng.integers(20)),
        held_out_losses=tuple(rng.gamma(2, size=2).astype(np.float32).tolist()),
    )


def table_of(heads):
    rows = [{name: getattr(head, name) for name in HEADS_SCHEMA.names} for head in heads]
    return pa.Table.from_pylist(rows, schema=HEADS_SCHEMA)


def tables_of(heads, size):
    return [table_of(heads[start : start + size]) for start in range(0, len(heads), size)]


def head_store(root, heads, num_buckets=3, row_group_users=4, key="key"):
    stage = Stage(name="planted.heads", fingerprint="h" * 16, root=str(root), num_buckets=num_buckets)
    for bucket in stage.buckets:
        own = sorted(
            (head for head in heads if bucket_of(head.user_id, num_buckets, key) == bucket),
            key=lambda head: head.user_id,
        )
        location = stage.part(heads_table(0), bucket)
        write_heads(location, tables_of(own, row_group_users), LINEAGE, {"rows": len(own)})
    return HeadStore(stage=stage, fold=0, bucket_key=key, lineage=LINEAGE)


@pytest.fixture(scope="module")
def heads():
    rng = np.random.default_rng(0)
    return {head.user_id: head for head in (head_of(f"user {number}", rng, 4) for number in range(100))}


@pytest.fixture(scope="module")
def store(tmp_path_factory, heads):
    return head_store(tmp_path_factory.mktemp("store"), list(heads.values()))


def test_every_user_s_head_is_found_as_it_was_stored(store, heads):
    assert [store.read_head(user_id) for user_id in heads] == list(heads.values())


@pytest.mark.parametrize("user_id", ["", "user", "user 5 ", "zzz", "ü"])
def test_who_has_no_head_is_told_apart(store, user_id):
    assert store.read_head(user_id) is None


@settings(max_examples=25)
@given(st.lists(st.integers(-5, 110), max_size=30))
def test_many_heads_come_in_the_order_they_are_asked_for(store, heads, numbers):
    user_ids = [f"user {number}" for number in numbers]
    found = list(from_table(store.read_heads_of(user_ids), UserHead))
    assert found == [heads[user_id] for user_id in user_ids if user_id in heads]


@settings(max_examples=25)
@given(st.sets(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=1, max_size=20))
def test_ids_of_any_script_are_found(tmp_path_factory, user_ids):
    rng = np.random.default_rng(1)
    heads = {user_id: head_of(user_id, rng, 2) for user_id in user_ids}
    store = head_store(tmp_path_factory.mktemp("scripts"), list(heads.values()), num_buckets=1, row_group_users=2)
    assert list(from_table(store.read_heads_of(list(heads)), UserHead)) == list(heads.values())


def test_a_look_up_reads_one_row_group_of_one_bucket(store, heads, monkeypatch):
    opened, read = [], []
    open_part, read_row_group = storage.open_part, pq.ParquetFile.read_row_group

    def noting(location, *arguments, **options):
        opened.append(location)
        return open_part(location, *arguments, **options)

    def counting(file, place, **options):
        read.append((place, file.num_row_groups))
        return read_row_group(file, place, **options)

    monkeypatch.setattr("hydra_ray.storage.files.open_part", noting)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    assert store.read_head("user 42") == heads["user 42"]
    assert opened == [store.stage.part(heads_table(0), bucket_of("user 42", 3, "key"))]
    [(_, num_row_groups)] = read
    assert num_row_groups > 5


def test_a_bucket_without_users_has_no_heads(tmp_path):
    store = head_store(tmp_path, [], num_buckets=1)
    assert store.read_head("anybody") is None
    assert list(read_heads(store.stage.part(heads_table(0), 0), LINEAGE)) == []


def test_a_bucket_that_is_missing_is_named(tmp_path):
    stage = Stage(name="planted.heads", fingerprint="h" * 16, root=str(tmp_path), num_buckets=1)
    with pytest.raises(StorageError, match="bucket-00000"):
        HeadStore(stage=stage, fold=0, bucket_key="key", lineage=LINEAGE).read_head("anybody")


@pytest.mark.parametrize(("kind", "other"), [("base", {"base": "x1"}), ("head prior", {"head_prior": "x1"})])
def test_heads_of_another_base_or_prior_are_refused(store, kind, other):
    lineage = replace(LINEAGE, **other)
    with pytest.raises(HeadMismatchError, match=f"{kind} {kind}0, expected x1"):
        list(read_heads(store.stage.part(heads_table(0), 0), lineage))
    with pytest.raises(HeadMismatchError, match=f"{kind} {kind}0, expected x1"):
        replace(store, lineage=lineage).read_head("user 1")


@pytest.mark.parametrize("names", ["ba", "aa", "acb", "abb", "abdc", "abcc", "bcaa"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_unsorted_or_repeated_users_are_neither_written_nor_read(tmp_path, names, size):
    rng = np.random.default_rng(2)
    tables = tables_of([head_of(name, rng, 1) for name in names], size)
    location = str(tmp_path / "heads.parquet")
    with pytest.raises(StorageError, match="not sorted by user_id"):
        write_heads(location, tables, LINEAGE, {})
    assert not storage.exists(location)
    storage.write_row_groups(location, HEADS_SCHEMA.with_metadata(LINEAGE.metadata()), tables, {})
    with pytest.raises(StorageError, match="not sorted by user_id"):
        list(read_heads(location, LINEAGE))


@pytest.mark.parametrize("names", ["bacd", "abdc", "cdab"])
def test_a_look_up_in_an_unsorted_bucket_is_refused(tmp_path, names):
    rng = np.random.default_rng(2)
    stage = Stage(name="planted.heads", fingerprint="h" * 16, root=str(tmp_path), num_buckets=1)
    tables = tables_of([head_of(name, rng, 1) for name in names], 2)
    schema = HEADS_SCHEMA.with_metadata(LINEAGE.metadata())
    storage.write_row_groups(stage.part(heads_table(0), 0), schema, tables, {})
    store = HeadStore(stage=stage, fold=0, bucket_key="key", lineage=LINEAGE)
    with pytest.raises(StorageError, match="not sorted by user_id"):
        store.read_heads_of(list("abcd"))


def test_a_head_of_rank_32_takes_at_most_256_bytes(tmp_path):
    rng = np.random.default_rng(4)
    ids = sorted({rng.bytes(8).hex() for _ in range(4 * ROW_GROUP_USERS)})
    location = str(tmp_path / "heads.parquet")
    write_heads(location, tables_of([head_of(user_id, rng) for user_id in ids], ROW_GROUP_USERS), LINEAGE, {})
    assert storage.file_state(location)[0] / len(ids) <= 256


@pytest.mark.ray
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.filterwarnings("ignore:.use_:DeprecationWarning")  # of Ray Data's own settings
def test_a_stream_of_users_gets_its_heads_a_block_at_a_time(store, heads):
    import ray

    user_ids = [*heads, "nobody"]
    blocks = [pa.table({"user_id": user_ids[start : start + 40]}) for start in range(0, len(user_ids), 40)]
    found = ray.data.from_arrow(blocks).map_batches(
        lambda block: store.read_heads_of(block["user_id"].to_pylist()), batch_format="pyarrow"
    )
    assert {row["user_id"]: tuple(row["code"]) for row in found.take_all()} == {
        user_id: head.code for user_id, head in heads.items()
    }
