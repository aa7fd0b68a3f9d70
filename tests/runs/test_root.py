from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from builders import run_config

from hydra_ray import storage
from hydra_ray.errors import StorageError
from hydra_ray.runs.root import (
    bucket_key_name,
    bucket_key_of,
    forgetting,
    forgotten_pseudonyms,
    known_root_key,
    pseudonym,
    receipt_location,
    root_key,
)
from hydra_ray.runs.run_folder import write_config
from hydra_ray.runs.stage import Stage


def test_a_root_has_one_key_for_ever_and_every_root_another(tmp_path: Path):
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert root_key(first) == root_key(first) != root_key(second)
    assert len(root_key(first)) == 32


def test_writers_at_the_same_time_agree_on_one_key(tmp_path: Path):
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(root_key, [str(tmp_path)] * 64))
    assert keys == {Path(tmp_path, "key").read_text()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "key.check"]


def test_buckets_are_divided_by_the_setting_or_else_by_the_roots_key(tmp_path: Path):
    given = run_config(str(tmp_path), users={"bucket_key": "public"})
    assert bucket_key_of(given) == bucket_key_name(given) == "public"
    assert not storage.exists(f"{tmp_path}/key")
    secret = run_config(str(tmp_path), users={"bucket_key": None})
    assert bucket_key_of(secret) == root_key(str(tmp_path))
    assert root_key(str(tmp_path)) not in bucket_key_name(secret)


def test_a_pseudonym_needs_the_key(tmp_path: Path):
    assert pseudonym("ann", "key") == pseudonym("ann", "key")
    assert len({pseudonym("ann", "key"), pseudonym("ann", "other"), pseudonym("bob", "key")}) == 3


def test_who_has_a_receipt_is_forgotten(tmp_path: Path):
    root = str(tmp_path)
    assert not forgetting(root)("ann")
    assert not storage.exists(f"{root}/key")
    ann = pseudonym("ann", root_key(root))
    storage.write_json(receipt_location(root, ann), {})
    assert forgotten_pseudonyms(root) == {ann}
    assert [forgetting(root)(each) for each in ("ann", "bob")] == [True, False]


def forgetting_root(tmp_path: Path) -> str:
    """A root under which ann was forgotten."""
    root = str(tmp_path)
    storage.write_json(receipt_location(root, pseudonym("ann", root_key(root))), {})
    return root


@pytest.mark.parametrize(
    "content",
    [None, b"", b" \n", b"0" * 32, b"0" * 31, b"\xff" * 32, b"f" * 100, "ключ".encode(), b"\x00"],
)
def test_a_key_that_was_lost_or_changed_lets_nobody_back_in(tmp_path: Path, content: bytes | None):
    root = forgetting_root(tmp_path)
    set_file(tmp_path / "key", content)
    with pytest.raises(StorageError, match=rf"the key {root}/key .*Restore it from a backup"):
        forgetting(root)
    assert (tmp_path / "key").exists() == (content is not None)


@pytest.mark.parametrize("content", [None, b"", b" \n", b"0" * 32, b"0" * 31, b"\xff" * 32, b"f" * 100])
def test_a_key_without_its_check_value_is_known_by_the_buckets_named_with_it(tmp_path: Path, content: bytes | None):
    root, name = str(tmp_path), bucket_key_name(run_config(str(tmp_path), users={"bucket_key": None}))
    record_users(root, name)
    (tmp_path / "key.check").unlink()
    assert root_key(root) == (tmp_path / "key").read_text()  # of an earlier version: the value is written again
    (tmp_path / "key.check").unlink()
    set_file(tmp_path / "key", content)
    with pytest.raises(StorageError, match=rf"the key {root}/key .*Restore it from a backup"):
        root_key(root)


@pytest.mark.parametrize("what", [f"completions/{'1' * 16}/bucket-00000/drafts.parquet", f"forgotten/{'1' * 32}.json"])
def test_a_key_is_not_made_anew_where_something_was_made_with_it(tmp_path: Path, what: str):
    storage.write_bytes(f"{tmp_path}/{what}", b"")
    with pytest.raises(StorageError, match=r"key is missing.*start with a new storage\.root"):
        root_key(str(tmp_path))
    assert not (tmp_path / "key").exists()


def test_runs_with_a_bucket_key_of_their_own_say_nothing_of_the_roots(tmp_path: Path):
    root, own = str(tmp_path), "0123456789abcdef" * 2
    record_users(root, own)
    write_config(f"{root}/runs/test", run_config(root, users={"bucket_key": own}))
    storage.write_bytes(f"{root}/completions/{'1' * 16}/bucket-00000/lease.json", b"")
    assert known_root_key(root) is None
    assert len(root_key(root)) == 32


def test_a_flipped_check_value_is_refused_and_can_be_removed(tmp_path: Path):
    root = forgetting_root(tmp_path)
    key, check = root_key(root), tmp_path / "key.check"
    check.write_bytes(bytes([check.read_bytes()[0] ^ 1]) + check.read_bytes()[1:])
    with pytest.raises(StorageError, match=r"one of the two was changed.*If key\.check alone is damaged, remove"):
        root_key(root)
    check.unlink()
    assert root_key(root) == key


def test_a_key_with_a_line_break_is_the_same_key(tmp_path: Path):
    root = forgetting_root(tmp_path)
    key = root_key(root)
    (tmp_path / "key").write_text(f"{key}\n")
    assert root_key(root) == key
    assert forgetting(root)("ann")


def set_file(path: Path, content: bytes | None) -> None:
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def record_users(root: str, bucket_key: str) -> None:
    """Write the manifest of a users stage."""
    settings = {"users": {"bucket_key": bucket_key}}
    Stage(name="users", fingerprint="1" * 16, root=root, num_buckets=1, settings=settings).complete(0, {})


def test_a_key_of_another_root_with_its_check_value_lets_nobody_back_in(tmp_path: Path):
    root, other = forgetting_root(tmp_path / "root"), forgetting_root(tmp_path / "other")
    assert forgetting(root)("ann")  # which writes the receipts' own check value
    for name in ("key", "key.check"):
        (tmp_path / "root" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(StorageError, match=r"is not the key that forgotten/key\.check was made of"):
        forgetting(root)
    assert forgetting(other)("ann")


def test_a_changed_key_without_its_check_value_is_told_by_the_receipts(tmp_path: Path):
    root = forgetting_root(tmp_path)
    assert forgetting(root)("ann")
    (tmp_path / "key.check").unlink()
    (tmp_path / "key").write_text("0" * 32)
    with pytest.raises(StorageError, match=r"is not the key that forgotten/key\.check was made of"):
        forgetting(root)
