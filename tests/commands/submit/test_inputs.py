"""Which of the users' files a cluster is given, and from where."""

from pathlib import Path

import pytest

from hydra_ray.commands.submit.inputs import copy_there, place_files, place_folder
from hydra_ray.errors import ConfigError, InputError


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of users in the working directory."""
    folder = tmp_path / "laptop"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "june.jsonl").write_text('{"user_id": "ann"}\n')
    return folder / "june.jsonl"


def test_a_file_of_this_machine_alone_is_refused_with_what_to_type(users: Path):
    with pytest.raises(InputError) as told:
        place_files(["june.jsonl"], "lamp.users_files", None)
    for words in ("lamp.users_files names june.jsonl", "--upload s3://", "aws s3 cp june.jsonl s3://"):
        assert words in str(told.value)


@pytest.mark.parametrize("location", ["s3://bucket/june.jsonl", "/of/the/cluster/june.jsonl"])
def test_a_location_of_the_cluster_stays_as_it_is(users: Path, location: str):
    placed = place_files([location], "lamp.users_files", "s3://bucket/inputs")
    assert (placed.locations, placed.copies, placed.notes) == ((location,), {}, ())


def test_an_absolute_path_that_is_here_too_is_the_clusters_unless_there_is_an_upload(users: Path, tmp_path: Path):
    placed = place_files([str(users)], "lamp.users_files", None)
    assert placed.locations == (str(users),)
    assert "looked for on the cluster" in placed.notes[0]
    assert place_files([str(users)], "lamp.users_files", str(tmp_path)).copies.keys() == {users}


def test_folders_and_patterns_are_copied_file_by_file(users: Path, tmp_path: Path):
    parts = users.parent / "parts"
    for name in ("b/part-0.jsonl", "a/part-0.jsonl", "_SUCCESS"):
        (parts / name).parent.mkdir(parents=True, exist_ok=True)
        (parts / name).write_text(f'{{"user_id": "{name}"}}\n')
    upload = str(tmp_path / "inputs")
    for entry in ("parts", str(parts), "parts/*/part-*"):
        placed = place_files([entry], "lamp.users_files", upload)
        assert [path.parent.name for path in placed.copies] == ["a", "b"]
        assert placed.locations == tuple(placed.copies.values())
        assert len(set(placed.locations)) == 2
    with pytest.raises(InputError, match="Add `--upload"):
        place_files(["parts"], "lamp.users_files", None)
    with pytest.raises(InputError, match="no such file here"):
        place_files(["none/*.jsonl"], "lamp.users_files", upload)


def test_a_copy_is_named_by_its_content_and_made_once(users: Path, tmp_path: Path):
    upload = str(tmp_path / "inputs")
    placed = place_files(["june.jsonl"], "--users", upload)
    (location,) = placed.locations
    assert not Path(location).exists()
    note = copy_there(*next(iter(placed.copies.items())))
    assert Path(location).read_bytes() == users.read_bytes()
    assert "outside storage.root" in note
    changed = Path(location).stat().st_mtime_ns
    copy_there(users, location)
    assert Path(location).stat().st_mtime_ns == changed
    users.write_text('{"user_id": "bob"}\n')
    assert place_files(["june.jsonl"], "--users", upload).locations != placed.locations


def test_a_file_that_is_not_there_is_told_before_anything_is_copied(users: Path):
    with pytest.raises(InputError, match="no such file here"):
        place_files(["june.jsonl", "july.jsonl"], "--users", "s3://bucket/inputs")


def test_an_upload_to_a_relative_folder_is_refused(users: Path):
    with pytest.raises(ConfigError, match="--upload is the relative path"):
        place_files(["june.jsonl"], "--users", "inputs")


def test_of_a_lamp_folder_the_files_of_its_splits_are_copied(users: Path, tmp_path: Path):
    folder = tmp_path / "laptop" / "LaMP"
    folder.mkdir()
    for name in ("train_questions", "train_outputs", "dev_questions", "other_questions"):
        (folder / f"{name}.json").write_text(name)
    with pytest.raises(InputError, match="--upload"):
        place_folder({"root": "LaMP"}, None)
    placed = place_folder({"root": "LaMP"}, str(tmp_path / "inputs"))
    names = ["dev_questions.json", "train_outputs.json", "train_questions.json"]
    assert sorted(path.name for path in placed.copies) == names
    assert {str(Path(each).parent) for each in placed.copies.values()} == set(placed.locations)
    with pytest.raises(InputError, match="no file of its splits"):
        place_folder({"root": "LaMP", "train_split": None, "new_split": "test"}, str(tmp_path / "inputs"))
