from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from builders import run_config

from hydra_ray import storage
from hydra_ray.runs.root import (
    bucket_key_name,
    bucket_key_of,
    forgetting,
    forgotten_pseudonyms,
    pseudonym,
    receipt_location,
    root_key,
)


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
