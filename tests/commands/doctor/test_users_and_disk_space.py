import gzip
import json
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import run_config

from hydra_ray.commands.doctor.disk_space import Need, room_findings, storage_finding
from hydra_ray.commands.doctor.machine import GIGABYTE, Disk, disk_of
from hydra_ray.commands.doctor.users import users_finding
from hydra_ray.config import PlantedConfig, RunConfig
from hydra_ray.forget.file_kinds import Kind, artefacts
from hydra_ray.lamp.planted import write_planted
from hydra_ray.lamp.seen_users import MAX_ROWS, SeenUsers
from hydra_ray.lamp.tasks import TASKS, task_of
from hydra_ray.lamp.users import USERS, ingest
from hydra_ray.stages.plan import plan_run


def rows(count: int) -> list[dict[str, Any]]:
    record = {"input": "a story", "output": "comedy"}
    query = {"id": "q", "input": "another", "target": "music"}
    return [
        {"user_id": f"u{number}", "is_new": bool(number % 2), "history": [record] * 3, "queries": [query]}
        for number in range(count)
    ]


def seen_of(config: RunConfig) -> SeenUsers:
    finding, seen = users_finding(config, task_of(config.lamp))
    assert not finding.is_problem, finding
    assert seen is not None
    return seen


def own_config(tmp_path: Path, *files: Path, **users: Any) -> RunConfig:
    lamp = {"planted": None, "users_files": [str(file) for file in files]}
    return run_config(str(tmp_path / "root"), lamp=lamp, users=users)


def write_lines(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(count)))
    return path


def test_a_few_hundred_rows_of_a_file_are_read_and_the_rest_is_estimated(tmp_path: Path):
    seen = seen_of(own_config(tmp_path, write_lines(tmp_path / "users.jsonl", 5000)))
    assert len(seen.ids) == MAX_ROWS
    assert not seen.is_whole
    assert 3000 < seen.num_users < 7000


def test_parquet_tells_how_many_rows_it_has(tmp_path: Path):
    path = tmp_path / "users.parquet"
    pq.write_table(pa.Table.from_pylist(rows(1000)), path)
    assert seen_of(own_config(tmp_path, path)).num_users == 1000


def test_lamp_files_of_all_splits_are_counted(tmp_path: Path):
    write_planted(PlantedConfig(num_train_users=7, num_new_users=5, num_records=4), tmp_path)
    seen = seen_of(run_config(lamp={"planted": None, "root": str(tmp_path)}))
    assert (seen.num_users, seen.num_trainable, seen.num_new, seen.is_whole) == (12, 7, 5, True)


@pytest.mark.parametrize("num_buckets", [2, 16])
@pytest.mark.parametrize("is_planted", [True, False])
def test_parts_with_users_are_those_that_a_run_makes(num_buckets: int, is_planted: bool, tmp_path: Path):
    users = {"num_buckets": num_buckets}
    if is_planted:
        config = run_config(str(tmp_path / "root"), users=users)
    else:
        config = own_config(tmp_path, write_lines(tmp_path / "users.jsonl", 9), **users)
    plan = plan_run(config)
    ingest(config, plan.users)
    occupied = sum(pq.read_metadata(plan.users.part(USERS, each)).num_rows > 0 for each in plan.users.buckets)
    assert seen_of(config).num_parts(config) == occupied


def test_parts_are_at_most_as_many_as_users_where_the_key_is_not_known_yet(tmp_path: Path):
    config = own_config(tmp_path, write_lines(tmp_path / "users.jsonl", 9), num_buckets=64, bucket_key=None)
    assert seen_of(config).num_parts(config) == 9


def test_a_planted_sample_of_another_task_is_a_problem():
    finding, seen = users_finding(run_config(), TASKS["LaMP_3"])
    assert finding.is_problem
    assert seen is None


def test_folders_on_one_disk_share_its_room():
    needs = [Need(what="a", folder="/a", num_bytes=3 * GIGABYTE), Need(what="b", folder="/b", num_bytes=4 * GIGABYTE)]
    disk = Disk(device=1, free_bytes=5 * GIGABYTE, total_bytes=9 * GIGABYTE)
    (shared,) = room_findings(needs, {"/a": disk, "/b": disk})
    assert shared.is_problem
    assert "4.0 GB are for b" in shared.remedy
    other = Disk(device=2, free_bytes=5 * GIGABYTE, total_bytes=9 * GIGABYTE)
    assert not any(each.is_problem for each in room_findings(needs, {"/a": disk, "/b": other}))


def test_a_look_at_a_root_leaves_what_is_there_as_it_was(tmp_path: Path):
    (tmp_path / "kept").write_text("")
    assert not storage_finding(str(tmp_path), str(tmp_path)).is_problem
    assert not storage_finding(str(tmp_path / "deep" / "root"), "root").is_problem
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_marker_that_a_kill_left_behind_is_known_to_forgetting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def killed(_: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hydra_ray.storage.remove_file", killed)
        with pytest.raises(KeyboardInterrupt):
            storage_finding(str(tmp_path), str(tmp_path))
    assert [artefact.kind for artefact in artefacts(str(tmp_path))] == [Kind.UNFINISHED]


def test_a_root_on_s3_is_written_and_read(s3_root: str):
    finding = storage_finding(s3_root, s3_root)
    assert not finding.is_problem, finding


def test_a_bucket_that_is_not_there_is_a_problem(s3_root: str):
    finding = storage_finding("s3://no-such-bucket/root", "s3://no-such-bucket/root")
    assert finding.is_problem
    assert "Check the bucket" in finding.remedy


def test_users_on_s3_are_looked_at(s3_root: str, tmp_path: Path):
    from hydra_ray import storage

    location = f"{s3_root}/users.jsonl"
    storage.write_bytes(location, write_lines(tmp_path / "users.jsonl", 4).read_bytes())
    config = run_config(s3_root, lamp={"planted": None, "users_files": [location]})
    assert seen_of(config).num_users == 4
    storage.remove_file(location)
    finding, _ = users_finding(config, task_of(config.lamp))
    assert "no file s3://" in finding.remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_root_below_a_folder_that_may_not_be_entered_is_a_problem(nobodys: Path):
    finding = storage_finding(str(nobodys / "closed" / "root"), "root")
    assert finding.is_problem
    assert "Permission denied" in finding.remedy
    assert disk_of(str(nobodys / "closed" / "root")).total_bytes > 0


def test_a_root_with_too_long_a_name_is_a_problem_and_leaves_nothing(tmp_path: Path):
    finding = storage_finding(str(tmp_path / "above" / ("x" * 300)), "root")
    assert finding.is_problem
    assert "too long" in finding.remedy
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("root", ["s3://", "gs://bucket/root"])
def test_a_root_in_no_store_is_a_problem_and_makes_no_folder(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    finding = storage_finding(root, root)
    assert finding.is_problem
    assert "expected an absolute path or s3://bucket/folder" in finding.remedy
    assert not list(tmp_path.iterdir())


def test_users_that_are_in_two_files_are_a_problem(tmp_path: Path):
    files = [write_lines(tmp_path / name, 9) for name in ("first.jsonl", "second.jsonl")]
    config = own_config(tmp_path, files[0], files[0])
    assert users_finding(config, task_of(config.lamp))[0].is_problem
    finding, _ = users_finding(own := own_config(tmp_path, *files), task_of(own.lamp))
    assert finding.is_problem
    assert f"the same id as sample 0 of {files[0]}" in finding.remedy


def test_new_users_without_targets_are_a_problem_of_a_cross_fitted_run(tmp_path: Path):
    path = tmp_path / "users.jsonl"
    text = "".join(json.dumps({**row, "queries": [{"input": "x"}]} if row["is_new"] else row) + "\n" for row in rows(9))
    path.write_text(text)
    config = own_config(tmp_path, path)
    assert not users_finding(config, task_of(config.lamp))[0].is_problem
    finding, _ = users_finding(own_config(tmp_path, path, num_folds=3), task_of(config.lamp))
    assert finding.is_problem
    assert "a query has no target" in finding.remedy


def test_a_folder_or_an_archive_in_the_place_of_users_is_told(tmp_path: Path):
    finding, _ = users_finding(config := own_config(tmp_path, tmp_path), task_of(config.lamp))
    assert "is a folder" in finding.remedy
    packed = tmp_path / "users.jsonl"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("users.jsonl", "{}")
    finding, _ = users_finding(config := own_config(tmp_path, packed), task_of(config.lamp))
    assert "a zip archive" in finding.remedy


def test_users_in_packed_files_of_a_folder_are_found(tmp_path: Path):
    folder = tmp_path / "parts"
    folder.mkdir()
    chance = random.Random(0)
    texts = [[{"input": chance.randbytes(400).hex(), "output": "comedy"}] for _ in range(3000)]
    found = [{**row, "history": text} for row, text in zip(rows(3000), texts, strict=True)]
    content = "".join(json.dumps(row) + "\n" for row in found).encode()
    (folder / "part-0.json.gz").write_bytes(gzip.compress(content))
    seen = seen_of(own_config(tmp_path, folder))
    assert len(seen.ids) == MAX_ROWS
    assert 1500 < seen.num_users < 6000


def test_a_root_of_users_that_is_empty_is_not_called_planted():
    config = run_config(lamp={"planted": None, "root": ""})
    finding, _ = users_finding(config, task_of(config.lamp))
    assert finding.is_problem
    assert "planted" not in finding.value
