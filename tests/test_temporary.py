"""Temporary folders: they end with their owners, whatever ends these."""

import errno
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hydra_ray.errors import StorageError
from hydra_ray.temporary import PREFIX, remove_leftovers, temporary_folder

HOLDER = """
import sys
from pathlib import Path
from typing import Any
from hydra_ray.temporary import temporary_folder
with temporary_folder("users") as folder:
    Path(folder, "samples").write_text("a text of a user")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own for temporary ones."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.mark.integration
def test_a_folder_outlasts_no_kill_and_is_kept_while_its_owner_lives():
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().strip())
        assert remove_leftovers().num_in_use == 1
        assert (folder / "samples").exists()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    found = remove_leftovers()
    assert (found.num_removed, found.num_in_use, found.num_kept) == (1, 0, 0)
    assert not folder.parent.exists()


def test_a_folder_is_removed_after_its_block_and_after_errors(place: Path):
    with suppress(KeyError), temporary_folder("users") as folder:
        Path(folder, "file").write_text("text")
        raise KeyError
    assert list(place.iterdir()) == []


def test_the_next_folder_is_made_where_no_leftover_is(place: Path):
    left = place / f"{PREFIX}users-abc"
    left.mkdir()
    (left / ".owner").touch()
    (left / "samples-00000.jsonl").write_text("a text of a user")
    with temporary_folder("upload") as folder:
        assert list(place.iterdir()) == [Path(folder).parent]
        assert list(Path(folder).iterdir()) == []


def test_what_is_not_ours_is_left_alone(place: Path, monkeypatch: pytest.MonkeyPatch):
    target = place / "of-somebody"
    (target / "inner").mkdir(parents=True)
    (place / f"{PREFIX}link").symlink_to(target)
    (place / f"{PREFIX}file").write_text("text")
    (place / f"{PREFIX}full").mkdir()
    (place / f"{PREFIX}full" / "unlocked").write_text("text")
    (place / f"{PREFIX}users-left").mkdir()
    (place / f"{PREFIX}users-left" / ".owner").touch()
    before = sorted(path.name for path in place.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)
        assert remove_leftovers().num_kept == 2
    assert sorted(path.name for path in place.iterdir()) == before
    found = remove_leftovers()
    assert (found.num_removed, found.num_kept) == (1, 1)
    assert sorted(path.name for path in place.iterdir()) == [each for each in before if "left" not in each]
    assert (target / "inner").exists()


def test_a_folder_that_was_found_before_it_was_locked_is_made_again(place: Path, monkeypatch: pytest.MonkeyPatch):
    make, made = tempfile.mkdtemp, list[str]()

    def made_and_found(**given: str) -> str:
        made.append(make(**given))
        if len(made) == 1:
            assert remove_leftovers().num_removed == 1
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", made_and_found)
    with temporary_folder("users") as folder:
        assert Path(folder).parent == Path(made[1])
        assert remove_leftovers().num_in_use == 1


def test_a_place_that_cannot_be_listed_holds_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hydra_ray.temporary.temporary_place", lambda: "/nowhere")
    assert str(remove_leftovers()).startswith("/nowhere (TMPDIR) on ")


def test_temporary_folders_are_made_in_one_module():
    package = Path(__file__).parents[1] / "hydra_ray"
    users = [path for path in package.rglob("*.py") if re.search(r"^\s*(import|from) tempfile", path.read_text(), re.M)]
    assert users == [package / "temporary.py"]


def test_the_lock_of_a_folder_is_removed_last_as_a_kill_may_come_in_between(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    assert tempfile.gettempdir() == str(place)  # which tries it with a file
    remove, seen = os.unlink, list[str]()

    def noted(path: str, **given: Any) -> None:
        seen.append(os.path.basename(path))
        remove(path, **given)

    monkeypatch.setattr(os, "unlink", noted)
    for number in range(2):
        with temporary_folder("users") as folder:
            for name in ("a", "b", "zz"):
                Path(folder, name).touch()
            left = place / f"{PREFIX}users-{number}"
            (left / "files").mkdir(parents=True)
            (left / ".owner").touch()
            (left / "files" / "samples").touch()
        remove_leftovers()
    assert [number for number, name in enumerate(seen) if name == ".owner"] == [3, 5, 9, 11]


def test_a_place_without_file_locks_is_named(place: Path, monkeypatch: pytest.MonkeyPatch):
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("hydra_ray.temporary.fcntl.flock", unsupported)
    with pytest.raises(StorageError, match=f"{place} .*Set TMPDIR"), temporary_folder("users"):
        pass
    assert list(place.iterdir()) == []


def test_a_place_that_was_removed_or_is_full_is_named(place: Path, monkeypatch: pytest.MonkeyPatch):
    assert tempfile.gettempdir() == str(place)
    place.rmdir()
    with pytest.raises(StorageError, match=r"No such file or directory\). Set TMPDIR"), temporary_folder("users"):
        pass
