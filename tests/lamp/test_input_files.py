"""Which files `lamp.users_files` names."""

from pathlib import Path

import pytest
from own_files import users

from hydra_ray.errors import ConfigError, InputError
from hydra_ray.lamp.input_files import input_files
from hydra_ray.lamp.users import input_fingerprint

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


@pytest.mark.parametrize("name", ["README.md", "dataset_info.json", "state.json", "Thumbs.db", "LICENSE"])
def test_what_describes_a_folder_is_no_part_of_it(tags, parts, name):
    (parts / name).write_text('{\n  "features": {}\n}')
    assert len(users(tags, parts)) == 3


def test_folders_named_by_a_column_give_it_to_rows_that_lack_it(tags, tmp_path):
    for day in ("date=1970-01-02", "date=1970-01-03", "date=__HIVE_DEFAULT_PARTITION__"):
        for user in ("user_id=a%2Fb", "user_id=c"):
            folder = tmp_path / "in" / day / "is_new=false" / user / "year=1970"
            folder.mkdir(parents=True)
            (folder / "part-0.csv").write_text("input,output\na,comedy\n")
    found = users(tags, tmp_path / "in")
    assert sorted(user.user_id for user in found) == ["a/b", "c"]
    assert [(record.date, user.is_new) for user in found for record in user.history] == 2 * [
        (86400, False), (None, False)
    ]  # fmt: skip
    assert [query.query_id for user in found for query in user.queries] == ["1", "1"]


def test_a_column_of_a_row_counts_before_its_folders_name(tags, tmp_path):
    (tmp_path / "user_id=bob").mkdir()
    (tmp_path / "user_id=bob" / "part.jsonl").write_text(ROW % "ann")
    assert [user.user_id for user in users(tags, tmp_path)] == ["ann"]


def test_a_folder_of_another_column_value_is_another_input(make_config, tmp_path):
    def prints(folder: str) -> list[str]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part.jsonl").write_text(ROW % "ann")
        return input_fingerprint(make_config({"task": "LaMP_2M", "users_files": str(tmp_path / folder)}).lamp)

    assert prints("a") == prints("b") != prints("date=1970-01-02")


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


def test_links_in_a_circle_and_to_nothing_are_no_matches(tags, parts):
    (parts / "circle").symlink_to(parts)
    (parts / "nothing.json").symlink_to(parts / "no-such-file")
    assert len(users(tags, f"{parts}/**")) == 3


@pytest.mark.parametrize("path", ["/a\0b", "/\ud83d", "s3://bucket/\ud83d", "/*\0"])
def test_what_can_be_no_path_is_an_error_that_can_be_printed(path):
    with pytest.raises(ConfigError, match="as no path can") as caught:
        input_files([path])
    assert str(caught.value).isprintable()


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
