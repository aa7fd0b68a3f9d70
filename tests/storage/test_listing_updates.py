"""Listings of digests: what is not what was listed is refused, and what is rewritten is listed anew."""

import json
import logging
from contextlib import suppress
from dataclasses import replace

import pyarrow as pa
import pytest

from hydra_ray import storage
from hydra_ray.errors import DamagedError
from hydra_ray.runs.stage import Stage
from hydra_ray.storage import listing_updates
from hydra_ray.storage.listing_updates import require_files, rewriting
from hydra_ray.storage.listings import forget_listing, read_listing
from hydra_ray.storage.recording import record, recording


class Killed(BaseException):
    """The end of the process."""


@pytest.fixture
def stage(tmp_path) -> Stage:
    """A complete stage with two parts and a file."""
    made = Stage(name="answers", fingerprint="a" * 16, root=str(tmp_path / "root"), num_buckets=2)
    for bucket in made.buckets:
        storage.write_part(made.part("answers", bucket), pa.table({"user_id": [f"user-{bucket}"]}))
    storage.write_bytes(f"{made.folder}/predictions.json", b'{"golds": []}')
    made.complete(1, {})
    return made


def test_a_manifest_lists_every_file_of_the_stage_and_nothing_else(stage: Stage):
    storage.write_bytes(stage.lease_location, b"{}")
    storage.write_bytes(f"{stage.part('answers', 0)}.{'0' * 32}.tmp", b"")
    stage.complete(1, {})
    files = stage.manifest()["files"]
    assert sorted(files) == ["answers/bucket-00000.parquet", "answers/bucket-00001.parquet", "predictions.json"]
    assert all(len(digest) == 32 for digest in files.values())


def test_what_was_recorded_is_listed_without_being_read_unless_it_is_of_another_size(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    whole = stage.manifest()["files"]
    read: list[str] = []
    digest = listing_updates.content_digest
    monkeypatch.setattr(
        listing_updates, "content_digest", lambda location: (read.append(location), digest(location))[1]
    )
    with recording(stage.folder):
        for part in stage.parts("answers"):
            written = storage.written_part(part)
            assert written is not None
            record(part, written if part == stage.part("answers", 0) else replace(written, num_bytes=1, digest="0"))
        stage.complete(1, {})
    assert stage.manifest()["files"] == whole
    assert sorted(read) == [stage.part("answers", 1), f"{stage.folder}/predictions.json"]


def test_a_part_in_the_place_of_another_is_refused(stage: Stage):
    first, second = stage.parts("answers")
    storage.read_part(first)
    storage.write_bytes(first, storage.read_bytes(second))
    with pytest.raises(DamagedError, match=rf"{first} is damaged, or not the file that was written.*Remove it"):
        storage.read_part(first)
    assert storage.read_part(second)["user_id"].to_pylist() == ["user-1"]


def test_another_file_is_refused_whole_and_copied(stage: Stage, tmp_path):
    storage.write_bytes(f"{stage.folder}/predictions.json", b'{"golds": [7]}')
    with pytest.raises(DamagedError, match=r"predictions\.json is damaged"):
        storage.read_bytes(f"{stage.folder}/predictions.json")
    with pytest.raises(DamagedError, match=r"predictions\.json is damaged"):
        storage.copy_files(stage.folder, str(tmp_path / "copy"), ["predictions.json"])
    assert storage.list_tree(str(tmp_path / "copy")) == []


def test_a_stage_that_was_computed_anew_is_read_by_whom_the_old_listing_is_known_to(stage: Stage):
    part = stage.part("answers", 0)
    storage.read_part(part)
    storage.write_part(part, pa.table({"user_id": ["somebody else"]}))
    stage.complete(1, {})
    assert storage.read_part(part)["user_id"].to_pylist() == ["somebody else"]


def test_stages_without_digests_are_read_and_that_is_said_once(stage: Stage, caplog):
    manifest = json.loads(storage.read_bytes(stage.manifest_location))
    del manifest["files"], manifest["checksum"]
    storage.write_bytes(stage.manifest_location, json.dumps(manifest).encode())
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            for part in stage.parts("answers"):
                storage.read_part(part)
    assert sum("recorded no digests" in message for message in caplog.messages) == 1
    assert stage.manifest()["stage"] == "answers"


@pytest.mark.parametrize("content", ["[]", "{}", "", "{", None, '{"files": []}', '{"files": null}'])
def test_a_damaged_listing_is_refused_by_name(stage: Stage, content: str | None):
    changed = storage.read_bytes(stage.manifest_location).replace(b'"answers"', b'"answer3"')
    storage.write_bytes(stage.manifest_location, changed if content is None else content.encode())
    with pytest.raises(DamagedError, match=rf"{stage.manifest_location} is damaged.*run again"):
        storage.read_part(stage.part("answers", 0))


def test_files_that_are_rewritten_are_listed_anew(stage: Stage):
    part = stage.part("answers", 0)
    with rewriting(stage.folder, ["answers/bucket-00000.parquet", "predictions.json"]):
        storage.write_part(part, pa.table({"user_id": pa.array([], pa.string())}))
        assert storage.read_part(part).num_rows == 0
        storage.remove_file(f"{stage.folder}/predictions.json")
    assert storage.read_part(part).num_rows == 0
    files = stage.manifest()["files"]
    assert sorted(files) == ["answers/bucket-00000.parquet", "answers/bucket-00001.parquet"]
    assert files["answers/bucket-00000.parquet"] == storage.content_digest(part)


@pytest.mark.parametrize("has_written", [False, True])
def test_a_kill_while_files_are_rewritten_is_mended_by_the_next_attempt(stage: Stage, has_written: bool):
    part = stage.part("answers", 0)
    with suppress(Killed), rewriting(stage.folder, ["answers/bucket-00000.parquet"]):
        if has_written:
            storage.write_part(part, pa.table({"user_id": pa.array([], pa.string())}))
        raise Killed
    assert stage.manifest()["files"]["answers/bucket-00000.parquet"] is None
    assert storage.read_part(part).num_rows == 1 - has_written
    with rewriting(stage.folder, []):
        pass
    assert stage.manifest()["files"]["answers/bucket-00000.parquet"] == storage.content_digest(part)


def test_a_folder_is_compared_with_its_list(stage: Stage):
    files = stage.manifest()["files"]
    require_files(stage.folder, files, "the folder", "Make it anew.")
    storage.write_bytes(f"{stage.folder}/predictions.json", b"")
    with pytest.raises(DamagedError, match=r"the folder holds 1 file .* such as .*predictions\.json.*Make it anew"):
        require_files(stage.folder, files, "the folder", "Make it anew.")
    storage.remove_file(stage.part("answers", 1))
    with pytest.raises(DamagedError, match=r"the folder lacks 1 of its 3 files, such as .*/answers/bucket-00001"):
        require_files(stage.folder, files, "the folder", "Make it anew.")


def test_a_part_read_while_another_process_rewrites_it_is_compared_afterwards(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("hydra_ray.storage.listing_updates.forget_listing", lambda _: None)  # as if by another process
    first, second = stage.parts("answers")
    with rewriting(stage.folder, ["answers/bucket-00000.parquet"]):
        storage.read_part(first)
        storage.read_part(second)
    storage.write_bytes(first, storage.read_bytes(second))
    with pytest.raises(DamagedError, match="bucket-00000"):
        storage.read_part(first)


def test_an_absent_listing_is_looked_for_once_and_again_when_it_was_written(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    first, second = stage.parts("answers")
    storage.remove_file(stage.manifest_location)
    looked: list[str] = []

    def look(listing: str):
        looked.append(listing)
        return read_listing(listing)

    monkeypatch.setattr("hydra_ray.storage.listings.read_listing", look)
    for _ in range(3):
        storage.read_part(first)
        storage.read_part(second)
    assert looked == [stage.manifest_location]
    stage.complete(1, {})
    storage.write_bytes(first, storage.read_bytes(second))
    with pytest.raises(DamagedError, match="bucket-00000"):
        storage.read_part(first)


def test_a_listing_that_was_absent_is_looked_for_again_later(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    first, second = stage.parts("answers")
    content = storage.read_bytes(stage.manifest_location)
    storage.remove_file(stage.manifest_location)
    forget_listing(stage.manifest_location)
    storage.read_part(first)
    storage.write_bytes(stage.manifest_location, content)  # as another process would
    storage.write_bytes(first, storage.read_bytes(second))
    storage.read_part(first)
    monkeypatch.setattr("hydra_ray.storage.listings._ABSENCE_SECONDS", 0.0)
    forget_listing(stage.manifest_location)
    with pytest.raises(DamagedError, match="bucket-00000"):
        storage.read_part(first)
