"""Users stage of a child run."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hydra_ray.config import RunConfig, Task
from hydra_ray.errors import InputError
from hydra_ray.lamp.users import ingest, input_fingerprint
from hydra_ray.rows import User, arrow_schema, from_table
from hydra_ray.runs.stage import Stage, bucket_of
from hydra_ray.storage import read_part

NUM_BUCKETS = 16


@pytest.fixture
def known(stage: Stage) -> Stage:
    """Users stage of the parent run."""
    return replace(stage, num_buckets=NUM_BUCKETS)


@pytest.fixture
def added(known: Stage) -> Stage:
    """Users stage of the child run."""
    return replace(known, fingerprint="1" * 16)


@pytest.fixture
def files_of(tmp_path: Path, make_config: Any, tags: Task):
    """A configuration that reads these users, of whom each row may say something of its own."""

    def make(name: str, ids: Iterable[str], *, taught_by: str | None = None, **row: Any) -> RunConfig:
        path = tmp_path / f"{name}.jsonl"
        rows = [{"user_id": each, "history": [], "queries": [], **row} for each in ids]
        path.write_text("\n".join(map(json.dumps, rows)))
        lamp = {"task": tags.model_dump(), "users_files": [str(path)]}
        config = make_config(lamp, num_buckets=NUM_BUCKETS, bucket_key="test")
        return config.model_copy(update={"taught_by": taught_by})

    return make


def users_of(stage: Stage) -> list[User]:
    locations = [stage.part("users", bucket) for bucket in stage.committed_buckets("users")]
    return [user for location in locations for user in from_table(read_part(location, arrow_schema(User)), User)]


def counts_of(stage: Stage) -> dict[int, int]:
    """Users in each bucket that has a part."""
    parts = {bucket: stage.part("users", bucket) for bucket in stage.committed_buckets("users")}
    return {bucket: read_part(location).num_rows for bucket, location in parts.items()}


@pytest.fixture(autouse=True)
def parent(known: Stage, files_of: Any) -> None:
    """Fill the users of the parent run."""
    path = Path(files_of("taught", "abc").lamp.users_files[0])
    path.write_text(path.read_text() + '\n{"user_id": "t", "is_new": false, "history": [], "queries": []}')
    config = files_of("new", "")
    ingest(config.model_copy(update={"lamp": config.lamp.model_copy(update={"users_files": (str(path),)})}), known)


@pytest.mark.parametrize("is_new", [True, False])
def test_added_users_are_new_whatever_their_file_says(known: Stage, added: Stage, files_of: Any, is_new: bool):
    config = files_of("june", "xy", taught_by="test", is_new=is_new)
    counters = ingest(config, added, known)
    assert [(user.is_new, user.fold) for user in users_of(added)] == [(True, None)] * 2
    assert (counters["users"], counters["new_users"], counters["train_users"]) == (2, 2, 0)


def test_only_buckets_of_added_users_get_parts(known: Stage, added: Stage, files_of: Any):
    ids = [f"user {n}" for n in range(5)]
    ingest(files_of("june", ids, taught_by="test"), added, known)
    expected = Counter(bucket_of(each, NUM_BUCKETS, "test") for each in ids)
    assert counts_of(added) == dict(expected)


def test_an_ingest_that_was_killed_is_finished_alike(known: Stage, added: Stage, files_of: Any):
    config = files_of("june", [f"user {n}" for n in range(5)], taught_by="test")
    counters = ingest(config, added, known)
    before = counts_of(added)
    Path(added.part("users", min(before))).unlink()
    assert ingest(config, added, known) == counters
    assert counts_of(added) == before


def test_users_whom_the_parent_has_are_named_and_nothing_is_written(known: Stage, added: Stage, files_of: Any):
    with pytest.raises(InputError, match="the run test has 2 of these users already: ") as caught:
        ingest(files_of("june", "xct", taught_by="test"), added, known)
    assert "'c'" in str(caught.value)
    assert "'t'" in str(caught.value)
    assert "'x'" not in str(caught.value)
    assert not Path(added.folder).exists()


def test_nobody_to_add_is_said(known: Stage, added: Stage, files_of: Any):
    with pytest.raises(InputError, match="holds no row"):
        ingest(files_of("june", "", taught_by="test"), added, known)


def test_of_a_lamp_folder_only_the_new_split_is_read(
    known: Stage, added: Stage, make_config: Any, tags: Task, write_split: Any, sample_of: Any
):
    root = write_split("dev", [sample_of(1), sample_of(2)], [(1, "comedy"), (2, "romance")])
    lamp = {"task": tags.model_dump(), "root": root, "train_split": None}
    config = make_config(lamp, num_buckets=NUM_BUCKETS, bucket_key="test").model_copy(update={"taught_by": "test"})
    assert len(input_fingerprint(config.lamp)) == 3
    ingest(config, added, known)
    found = {user.user_id: user.queries[0].target for user in users_of(added)}
    assert found == {"dev:1": "comedy", "dev:2": "romance"}
