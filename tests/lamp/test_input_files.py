"""Which files `lamp.users_files` names."""

from pathlib import Path

import pytest
from own_files import users

from hydra_ray.errors import InputError
from hydra_ray.lamp.input_files import input_files

ROW = '{"user_id": "%s", "history": [], "queries": []}\n'


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder as Spark writes it."""
    folder = tmp_path / "users"
    (folder / "day=1").mkdir(parents=True)
    (folder / "_temporary").mkdir()
    for name in ("part-00001.json", "part-00000.json", "day=1/part-00000.json"):
        (folder / name).write_text(ROW % name)
    for name in ("_SUCCESS", ".part-00000.json.crc", "_metadata", ".hidden", "_temporary/part-9.json", "x.crc"):
        (folder / name).write_text("not a row")
    (folder / "part-00002.json").write_text("")
    return folder


def test_a_folder_is_its_parts_in_order_without_what_spark_hides(tags, parts):
    found = [user.user_id for user in users(tags, parts)]
    assert found == ["day=1/part-00000.json", "part-00000.json", "part-00001.json"]


def test_a_folder_of_empty_parts_alone_holds_no_row(tags, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "part-0.jsonl").write_text("")
    with pytest.raises(InputError, match="holds no row"):
        users(tags, tmp_path / "in")


@pytest.mark.parametrize("name", ["", "_SUCCESS"])
def test_a_folder_without_a_file_to_read_is_named(tmp_path, name):
    if name:
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match=f"{tmp_path} is a folder without a file"):
        input_files([str(tmp_path)])


def test_a_pattern_is_the_files_and_folders_that_match(tags, parts):
    found = [user.user_id for user in users(tags, f"{parts}/part-*.json")]
    assert found == ["part-00000.json", "part-00001.json"]
    assert [user.user_id for user in users(tags, f"{parts}/day=*")] == ["day=1/part-00000.json"]
    assert len(users(tags, f"{parts.parent}/**/*.json")) == 3


def test_a_pattern_without_a_match_is_named(tmp_path):
    with pytest.raises(InputError, match="no file matches"):
        input_files([f"{tmp_path}/*.jsonl"])


def test_a_file_whose_name_is_a_pattern_is_that_file(tags, tmp_path):
    for name in ("a[1].jsonl", "a1.jsonl", "b#?* c.jsonl"):
        (tmp_path / name).write_text(ROW % name)
    assert [user.user_id for user in users(tags, tmp_path / "a[1].jsonl")] == ["a[1].jsonl"]
    assert [user.user_id for user in users(tags, tmp_path / "b#?* c.jsonl")] == ["b#?* c.jsonl"]


def test_what_several_entries_name_is_read_once(tags, parts):
    (parts.parent / "link").symlink_to(parts / "part-00000.json")
    found = users(tags, parts / "part-00001.json", f"{parts}/*.json", parts, parts.parent / "link")
    assert sorted(user.user_id for user in found) == ["day=1/part-00000.json", "part-00000.json", "part-00001.json"]


def test_an_entry_that_is_given_twice_is_an_error(parts):
    with pytest.raises(InputError, match="twice"):
        input_files([str(parts), str(parts)])
