"""Forgetting users of finished runs under one root: one of a closed task, one that is cross-fitted on texts, and one
that adds users to the first."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import in_process
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from builders import run_config
from bytes_below import files_below, mentions

from hydra_ray.cli import main
from hydra_ray.commands.update import update_config
from hydra_ray.forget.file_kinds import Kind, artefacts
from hydra_ray.forget.receipts import Receipt
from hydra_ray.rows import from_dict
from hydra_ray.runs.root import pseudonym, receipt_location, root_key
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.run import personalize

pytestmark = [
    pytest.mark.ray,
    # Third parties: what imports Ray and torch uses what others have deprecated.
    pytest.mark.filterwarnings("default"),
]

NAMES = [
    f"{name}q{place}z" for place, name in enumerate(["ada", "ben", "cyd", "dan", "eve", "fay", "gus", "hal", "ivy"])
]
FORGOTTEN = "ivyq8z"
"""New in the closed run, a training user in one fold of the cross-fitted one. Every word of a user has the user's name
in it, and so has everything that the generator makes of such words."""


ADDED = "janq9z"
GONE = {FORGOTTEN, ADDED}


def users_file(path: Path, labels: tuple[str, ...] | None, names: Sequence[str]) -> str:
    """A file of users."""
    chance = random.Random(0)

    def words(name: str) -> str:
        return " ".join(f"{name}{letter}" for letter in chance.sample("abcdefghij", 5))

    def output(name: str) -> str:
        return chance.choice(labels) if labels else words(name)

    def row(name: str) -> dict[str, Any]:
        history = [{"id": f"{name}r{each}", "input": words(name), "output": output(name)} for each in range(5)]
        queries = [{"id": f"{name}s{each}", "input": words(name), "target": output(name)} for each in range(2)]
        return {"user_id": name, "is_new": int(name[-2]) > 5, "history": history, "queries": queries}

    path.write_text("".join(json.dumps(row(name)) + "\n" for name in names))
    return str(path)


def came_back(name: str, label: str) -> dict[str, Any]:
    """What is new of a user who is there already."""
    texts = [f"{name}{letter} {name}z" for letter in "kl"]
    history = [{"id": f"{name}r9", "input": texts[0], "output": label}]
    return {"user_id": name, "history": history, "queries": [{"id": f"{name}s9", "input": texts[1], "target": label}]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def plans(root: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    """Finished runs; the user to be forgotten comes twice, so that one row is rejected."""
    twice = [*NAMES, FORGOTTEN]
    folder = tmp_path_factory.mktemp("users")
    untrained = {"base": {**run_config().reranker.base.model_dump(), "num_epochs": 0}}
    users = {"max_rejected_fraction": 0.5, "bucket_key": None}
    labels = ("comedy", "romance", "fantasy")
    topics = {"name": "topics", "kind": "classification", "instruction": "Which topic?", "labels": labels}
    titles = {"name": "titles", "kind": "text", "instruction": "Write a title."}
    closed = run_config(
        root,
        lamp={"task": topics, "planted": None, "users_files": [users_file(folder / "topics.jsonl", labels, twice)]},
        users=users,
        reranker=untrained,
        adapter=untrained,
    )
    texts = run_config(
        root,
        lamp={"task": titles, "planted": None, "users_files": [users_file(folder / "titles.jsonl", None, twice)]},
        users={**users, "num_folds": 2},
        reranker=untrained,
        adapter=untrained,
    )
    added = users_file(folder / "more.jsonl", labels, [ADDED, "kayq9y"])
    with Path(added).open("a") as file:
        file.write(json.dumps(came_back(FORGOTTEN, labels[0])))
    with pytest.MonkeyPatch.context() as patch:
        in_process.install(patch)
        found = {
            name: personalize(config.model_copy(update={"run": name}))
            for name, config in (("closed", closed), ("texts", texts))
        }
        return found | {"added": personalize(update_config(found["closed"].run_folder, [added]))}


@pytest.fixture(scope="module")
def before(root: str, plans: dict[str, Plan]) -> dict[str, bytes]:
    """Content of all files before anybody was forgotten."""
    assert all(plan.is_complete() for plan in plans.values())
    return {name: path.read_bytes() for name, path in files_below(root).items()}


@pytest.fixture(scope="module")
def status(root: str, before: dict[str, bytes]) -> int:
    """Exit status of the command that forgets."""
    assert mentions(root, FORGOTTEN)
    assert mentions(root, ADDED)
    return main(["forget", FORGOTTEN, ADDED, "--run", f"{root}/runs/closed"])


def receipt_of(root: str, user_id: str) -> Receipt:
    location = receipt_location(root, pseudonym(user_id, root_key(root)))
    return from_dict(json.loads(Path(location).read_text()), Receipt)


def test_every_kind_of_artefact_held_the_user_where_it_can(root: str, before: dict[str, bytes], status: int):
    held = {each.kind for each in receipt_of(root, FORGOTTEN).removed}
    assert held == {Kind.TABLE, Kind.ANSWERS, Kind.REJECTED, Kind.PREDICTIONS, Kind.REPORT}
    assert {each.kind for each in artefacts(root)} == {*held, Kind.PAGE, Kind.LEARNED, Kind.RECORD}


def test_no_byte_of_any_file_tells_of_the_user_any_more(root: str, status: int):
    assert status == 0
    assert mentions(root, *GONE) == {}


def test_what_others_have_is_unchanged_value_for_value(root: str, before: dict[str, bytes], status: int):
    after = files_below(root)
    assert set(before) <= set(after)
    assert {name.split("/")[0] for name in set(after) - set(before)} == {"forgotten"}
    num_tables = 0
    key = root_key(root)
    owners = {"completions": ("user", [pseudonym(each, key) for each in GONE])}
    for name, content in before.items():
        if name.endswith(".parquet"):
            old, new = pq.read_table(pa.BufferReader(content)), pq.read_table(after[name])
            owner, gone = owners.get(name.split("/")[0], ("sample_id" if "/rejected/" in name else "user_id", [*GONE]))
            assert new.equals(old.filter(~pc.field(owner).isin(gone)), check_metadata=True)
            num_tables += 1
        elif name.endswith("predictions.json"):
            old, new = json.loads(content), json.loads(after[name].read_text())
            assert new == {**old, "golds": [each for each in old["golds"] if each["id"].split("/")[0] not in GONE]}
            assert len(new["golds"]) < len(old["golds"])
        elif name.endswith(("manifest.json", "files.json")):
            old, new = (
                {key: value for key, value in json.loads(each).items() if key not in ("files", "checksum")}
                for each in (content, after[name].read_bytes())
            )
            assert new == old
        elif not name.endswith(("metrics.json", "report.html")):
            assert after[name].read_bytes() == content
    assert num_tables > 50


def test_reports_lose_the_user_and_keep_their_averages(root: str, before: dict[str, bytes], status: int):
    for run in ("closed", "texts"):
        old, new = (
            json.loads(content)
            for content in (before[f"runs/{run}/metrics.json"], Path(root, f"runs/{run}/metrics.json").read_bytes())
        )
        place = old["users"]["user_id"].index(FORGOTTEN)
        assert new["users"]["user_id"] == [each for each in old["users"]["user_id"] if each != FORGOTTEN]
        for system, values in old["users"]["quality"].items():
            assert new["users"]["quality"][system] == values[:place] + values[place + 1 :]
        assert {name for name in old if old[name] != new[name]} <= {"users", "examples", "gate"}


def test_the_run_still_loads_and_is_reported(root: str, status: int, capsys: pytest.CaptureFixture[str]):
    for run in ("closed", "texts", "closed+more"):
        assert main(["status", f"{root}/runs/{run}"]) == 0
        assert main(["report", f"{root}/runs/{run}"]) == 0
    assert "Ladder" in capsys.readouterr().out


def test_the_receipt_names_the_user_by_pseudonym_and_what_was_learned_from_the_user(
    root: str, before: dict[str, bytes], status: int
):
    receipt = receipt_of(root, FORGOTTEN)
    assert receipt.user == pseudonym(FORGOTTEN, root_key(root))
    assert receipt.finished_at is not None
    learned = {each.path.split("/")[-1] if "labeller" not in each.path else "labeller" for each in receipt.learned}
    users = [pq.read_table(pa.BufferReader(before[name])) for name in before if "/users/bucket" in name]
    (fold,) = {row["fold"] for rows in users for row in rows.to_pylist() if row["user_id"] == FORGOTTEN} - {None}
    # Untrained bases standardize plain features over all training users; in the closed run the user was none.
    assert learned == {"labeller", "base", f"population-{1 - fold}"}
    assert {each.num_users for each in receipt.learned} == {len(NAMES)}
    # Who came after a run was finished taught nothing.
    assert receipt_of(root, ADDED).learned == ()


def test_a_second_time_nothing_is_left(root: str, status: int, capsys: pytest.CaptureFixture[str]):
    content = {name: path.read_bytes() for name, path in files_below(root).items()}
    assert main(["forget", FORGOTTEN, "--run", f"{root}/runs/texts"]) == 0
    assert "nothing is left" in capsys.readouterr().out
    assert {name: path.read_bytes() for name, path in files_below(root).items()} == content


def test_a_later_run_on_the_same_files_goes_on_without_the_user(root: str, plans: dict[str, Plan], status: int):
    config = plans["closed"].config
    changed = config.model_copy(update={"run": "later", "users": config.users.model_copy(update={"num_buckets": 3})})
    personalize(changed, until="users")
    assert mentions(root, FORGOTTEN) == {}
    assert mentions(f"{root}/stages/users", NAMES[0])
