"""Users' files in an object store: the same forms as local ones, under whatever key, and never called damaged."""

import gzip
import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from bad_input import user_row
from fault_s3 import BUCKET, KEY, SECRET, Fault, FaultyS3
from own_files import lines, parquet, read, table, users

from hydra_ray.errors import HydraError, InputError
from hydra_ray.lamp.input_files import input_files
from hydra_ray.lamp.users import ingest, input_fingerprint


@pytest.fixture(scope="module")
def put(s3: FaultyS3, s3_root: str) -> Any:
    """Writes an object under any key, as another program would."""
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}
    client: Any = boto3.client("s3", endpoint_url=s3.endpoint, region_name="us-east-1", **keys)
    yield lambda key, content: client.put_object(Bucket=BUCKET, Key=key, Body=content)
    client.close()


KEYS = ("a//b", "a/../b", "./b", "a b", "a#b", "a?b", "a[1]b", "a%2Fb", "a+b", "ü \N{SNOWMAN}", "a&b=c", "a*b")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("form", [lines, lambda rows: parquet(table(rows))], ids=["lines", "parquet"])
def test_a_raw_file_under_any_key_is_read(tags, put, key, form):
    put(f"keys/{key}", form([user_row("ann")]))
    (user,) = users(tags, f"s3://{BUCKET}/keys/{key}")
    assert user.user_id == "ann"


@pytest.mark.parametrize("name", ["bad//users.parquet", "bad/users.arrow", "bad/users.jsonl.gz", "bad//users.json"])
def test_a_raw_file_that_is_broken_is_nobodys_to_remove(tags, put, make_config, stage, name):
    content = {"parquet": b"PAR1broken", "arrow": b"ARROW1broken", "gz": b"\x1f\x8bbroken", "json": b"[{"}
    put(name, content[name.rpartition(".")[2]])
    location = f"s3://{BUCKET}/{name}"
    with pytest.raises(HydraError) as caught:
        ingest(make_config({"task": tags.model_dump(), "users_files": location}), stage)
    assert location in str(caught.value)
    assert "emove" not in str(caught.value)


def test_folders_and_patterns_are_read_as_local_ones_are(tags, put, tmp_path):
    files = {
        "part-00000.jsonl": lines([user_row("a")]),
        "part-00001.json.gz": gzip.compress(lines([user_row("b")])),
        "day=1/part-0.parquet": parquet(table([user_row("c")])),
        "_SUCCESS": b"",
        ".part.crc": b"x",
    }
    for name, content in files.items():
        put(f"parts/{name}", content)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for entry in ("", "/*.json*", "/day=*", "/**/*.parquet"):
        there = users(tags, f"s3://{BUCKET}/parts{entry}")
        assert [user.user_id for user in there] == [user.user_id for user in users(tags, f"{tmp_path}{entry}")]
        assert there
    with pytest.raises(InputError, match="no file matches s3://"):
        input_files([f"s3://{BUCKET}/parts/*.csv"])
    with pytest.raises(InputError, match="no file s3://"):
        input_files([f"s3://{BUCKET}/nothing"])


def test_the_marker_of_a_folder_is_not_read_in_its_place(tags, put):
    for key in ("marked/", "marked/part-0.jsonl", "marked/inner/", "marked/inner_$folder$", "marked-not/part-0.jsonl"):
        put(key, lines([user_row(key)]) if key.endswith("jsonl") else b"")
    for entry in ("marked/", "marked", "marked/*", "marked/**"):
        assert [user.user_id for user in users(tags, f"s3://{BUCKET}/{entry}")] == ["marked/part-0.jsonl"]


def test_a_store_that_fails_for_a_moment_costs_no_row(tags, put, s3):
    put("calm/users.jsonl", lines([user_row(f"u{n}", text="x" * 1000) for n in range(300)]))
    s3.disturb(Fault.NONE, Fault.SLOW_DOWN, Fault.NONE, Fault.SLOW_DOWN, Fault.SLOW_DOWN)
    assert len(read(tags, f"s3://{BUCKET}/calm/users.jsonl")) == 300
    s3.calm()


def test_the_fingerprint_of_a_folder_follows_its_files(tags, put, make_config):
    def prints() -> list[str]:
        lamp = {"task": tags.model_dump(), "users_files": f"s3://{BUCKET}/print"}
        return input_fingerprint(make_config(lamp).lamp)

    put("print/part-0.jsonl", lines([user_row("a")]))
    before = prints()
    assert prints() == before
    put("print/_SUCCESS", b"")
    assert prints() == before
    put("print/part-1.jsonl", lines([user_row("b")]))
    assert prints() != before


def test_lamps_own_files_may_be_packed(tags, make_config, stage, write_split, sample_of):
    root = Path(write_split("train", [sample_of("t")], [("t", "romance")]))
    write_split("dev", [sample_of("n")], None)
    for path in list(root.iterdir()):
        (root / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    counters = ingest(make_config({"task": tags.model_dump(), "root": str(root)}), stage)
    assert (counters["users"], counters["rejected"]) == (2, 0)
    assert json.dumps(counters)
