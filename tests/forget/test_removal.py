import json
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bytes_below import files_below, mentions
from forgettable import completion_of, fill, person, teach

from hydra_ray import storage
from hydra_ray.cli import main
from hydra_ray.errors import InputError, StorageError
from hydra_ray.forget import removal
from hydra_ray.forget.receipts import Receipt
from hydra_ray.forget.removal import forget_users, root_of
from hydra_ray.rows import Completion, User, from_dict, to_table
from hydra_ray.runs.lease import claim
from hydra_ray.runs.root import pseudonym, receipt_location, root_key
from hydra_ray.runs.stage import Stage
from hydra_ray.stages.plan import Plan
from hydra_ray.storage.listing_updates import digests_of

ANN, BOB, CYD = (person(name, fold=fold) for name, fold in (("ann-x", 0), ("bob-y", 1), ("cyd-z", 0)))


def root_folder(plan: Plan) -> str:
    return plan.config.storage.root


def receipt_of(plan: Plan, user_id: str) -> Receipt:
    root = root_folder(plan)
    location = receipt_location(root, pseudonym(user_id, root_key(root)))
    return from_dict(storage.read_json(location), Receipt)


def test_users_are_removed_and_only_they(planned: Plan):
    fill(planned, ANN, BOB, CYD)
    outcomes = forget_users(root_folder(planned), ["ann-x", "cyd-z", "ann-x"])
    assert [(each.user_id, each.is_removed_now) for each in outcomes] == [("ann-x", True), ("cyd-z", True)]
    assert mentions(root_folder(planned), "ann-x", "cyd-z") == {}
    assert len(mentions(root_folder(planned), "bob-y")) == 3


def test_a_receipt_says_what_was_removed_without_the_id(planned: Plan):
    fill(planned, ANN, BOB)
    (outcome,) = forget_users(root_folder(planned), ["ann-x"])
    receipt = receipt_of(planned, "ann-x")
    assert receipt == outcome.receipt
    assert {each.path.split("/")[-2]: each.count for each in receipt.removed} == {
        "users": 1,
        "answers": 1,
        "bucket-00000": 1,
    }
    assert receipt.started_at <= (receipt.finished_at or "")
    assert any(f"{tempfile.gettempdir()} (TMPDIR) on {socket.gethostname()}" in each for each in receipt.remains)
    assert "ann-x" not in storage.read_bytes(receipt_location(root_folder(planned), receipt.user)).decode()


def learned_paths(plan: Plan, user_id: str) -> set[str]:
    return {each.path.removeprefix("stages/").replace("/", ".") for each in receipt_of(plan, user_id).learned}


def part(stage: Stage, name: str) -> str:
    return f"{stage.name}.{stage.fingerprint}.{name}"


def test_what_was_learned_from_a_user_is_listed_with_its_cohort(planned: Plan):
    fill(planned, ANN, BOB, person("new-w", is_new=True))
    base, heads, labeller = planned.adapter.base, planned.adapter.heads, planned.labeller
    teach(base, "base/model.safetensors", "base-0/model.safetensors", "base-1/model.safetensors")
    teach(heads, "population-0/population.json", "population-1/population.json")
    teach(labeller, "labeller.safetensors")
    forget_users(root_folder(planned), ["ann-x", "bob-y", "new-w"])
    common = {part(base, "base"), f"{labeller.name}.{labeller.fingerprint}"}
    # Who is new in a fold teaches nothing in it; a labeller learns from everybody's records.
    assert learned_paths(planned, "ann-x") == {*common, part(base, "base-1"), part(heads, "population-1")}
    assert learned_paths(planned, "bob-y") == {*common, part(base, "base-0"), part(heads, "population-0")}
    assert learned_paths(planned, "new-w") == {f"{labeller.name}.{labeller.fingerprint}"}
    cohorts = {each.path.split("/")[2]: (each.cohort, each.num_users) for each in receipt_of(planned, "ann-x").learned}
    folder = f"stages/users/{planned.users.fingerprint}"
    assert cohorts == {"base": (folder, 2), "heads": (folder, 2), "labeller": (folder, 3)}


def test_where_no_manifest_leads_to_the_cohort_anybody_may_have_been_in_it(planned: Plan):
    fill(planned, ANN, BOB)
    teach(planned.reranker.base, "base/model.safetensors")
    Path(planned.reranker.examples.manifest_location).unlink()
    forget_users(root_folder(planned), ["ann-x"])
    (learned,) = receipt_of(planned, "ann-x").learned
    assert (learned.cohort, learned.num_users) == (None, None)


def test_what_killed_work_left_behind_is_removed(planned: Plan):
    fill(planned, ANN, BOB)
    heads = planned.reranker.heads
    Path(heads.manifest_location).unlink()
    storage.write_bytes(f"{planned.users.part('users', 1)}.{'0' * 32}.tmp", b"ann-x")
    storage.write_part(heads.part("trials/fold-0/shared", 0), to_table([completion_of("ann-x")], Completion))
    teach(heads, "population-0/population.json", "tune/heads/tuner.pkl")
    teach(planned.adapter.base, "train/checkpoint.pt", "base/model.safetensors")
    forget_users(root_folder(planned), ["ann-x"])
    assert mentions(root_folder(planned), "ann-x") == {}
    left = {name for name in files_below(root_folder(planned)) if "heads" in name or "adapter/base" in name}
    assert {name.split("/", 4)[-1] for name in left} == {"base/model.safetensors", "manifest.json"}
    assert not any(heads.fingerprint in name for name in left)


@pytest.mark.parametrize("victim", ["drop_from_report", "drop_predictions", "drop_rows", "_find", "close_receipt"])
def test_a_call_that_was_killed_is_finished_by_the_next(planned: Plan, victim: str, monkeypatch: pytest.MonkeyPatch):
    fill(planned, ANN, BOB)
    storage.write_bytes(
        f"{planned.answers.folder}/predictions.json", b'{"task": "t", "golds": [{"id": "ann-x/q", "output": "1"}]}'
    )
    storage.write_json(f"{planned.report.folder}/metrics.json", {"users": {"user_id": ["ann-x"]}})
    made = [planned.users, planned.answers, planned.report]
    for stage in made:
        stage.complete(0, {"users": 2, "train_users": 2})
    survives = killing(victim, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        forget_users(root_folder(planned), ["ann-x"])
    assert receipt_of(planned, "ann-x").finished_at is None
    survives()
    (outcome,) = forget_users(root_folder(planned), ["ann-x"])
    assert outcome.receipt is not None
    assert outcome.receipt.finished_at is not None
    assert mentions(root_folder(planned), "ann-x") == {}
    # Also what the first call removed is in the receipt.
    assert len(outcome.receipt.removed) == 5
    for stage in made:
        files = stage.manifest()["files"]
        assert len(files) > 0
        assert files == digests_of(stage.folder, list(files))


def killing(victim: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the second call of a function, or the only one, be the last thing that happens; returns what ends that."""
    original, calls = getattr(removal, victim), []

    def killed(*arguments: object) -> object:
        calls.append(arguments)
        if victim in ("drop_rows", "_find") and len(calls) == 1:
            return original(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(removal, victim, killed)
    return monkeypatch.undo


def test_a_run_that_writes_meanwhile_is_noticed(planned: Plan, monkeypatch: pytest.MonkeyPatch):
    fill(planned, ANN, BOB)
    original = removal.drop_rows

    def drop_and_write(*arguments: object) -> None:
        original(*arguments)  # type: ignore[arg-type]
        storage.write_part(planned.users.part("users", 1), to_table([ANN], User))

    monkeypatch.setattr(removal, "drop_rows", drop_and_write)
    with pytest.raises(StorageError, match=r"a run wrote below .*users/bucket-00001"):
        forget_users(root_folder(planned), ["ann-x"])
    assert receipt_of(planned, "ann-x").finished_at is None


def test_nobody_is_forgotten_while_a_run_is_under_way(planned: Plan):
    fill(planned, ANN, BOB)
    before = mentions(root_folder(planned), "ann-x")
    with (
        claim(planned.drafts),
        pytest.raises(StorageError, match=r"a run is active below .*stages/drafts/.*Nothing was changed"),
    ):
        forget_users(root_folder(planned), ["ann-x"])
    assert mentions(root_folder(planned), "ann-x") == before != {}
    assert forget_users(root_folder(planned), ["ann-x"])[0].is_removed_now


def test_a_run_that_is_dead_keeps_nobody_from_being_forgotten(planned: Plan):
    fill(planned, ANN, BOB)
    with claim(planned.drafts):
        left_behind = storage.read_json(planned.drafts.lease_location) | {"started": "1"}
    storage.write_json(planned.drafts.lease_location, left_behind)
    assert forget_users(root_folder(planned), ["ann-x"])[0].is_removed_now


def test_a_file_of_no_known_kind_leaves_everything_as_it_was(planned: Plan):
    fill(planned, ANN, BOB)
    Path(root_folder(planned), "notes.txt").write_text("ann-x")
    before = {name: path.read_bytes() for name, path in files_below(root_folder(planned)).items()}
    with pytest.raises(StorageError, match=r"notes\.txt"):
        forget_users(root_folder(planned), ["ann-x"])
    assert {name: path.read_bytes() for name, path in files_below(root_folder(planned)).items()} == before


def test_the_command_tells_what_became_of_each_user(planned: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fill(planned, ANN, BOB)
    teach(planned.adapter.base, "base/model.safetensors")
    ids = tmp_path / "ids.txt"
    ids.write_text("ann-x\n\n")
    assert main(["forget", "--run", planned.run_folder, "--users-file", str(ids)]) == 0
    said = capsys.readouterr().out
    assert "ann-x: forgotten: 3 rows and entries in 3 files" in said
    assert f"stages/adapter/base/{planned.adapter.base.fingerprint}/{{base}} (2 users of stages/users/" in said
    assert "users.leaves_out_forgotten=true" in said
    assert main(["forget", "ann-x", "--run", planned.run_folder]) == 0
    assert "ann-x: nothing is left" in capsys.readouterr().out
    assert main(["forget", "eve", "bob-y", "--run", planned.run_folder]) == 1
    said = capsys.readouterr().out
    assert "eve: unknown" in said
    assert "bob-y: forgotten" in said
    assert json.loads(Path(receipt_location(root_folder(planned), receipt_of(planned, "bob-y").user)).read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nobody to forget"),
        (["--users-file", "/no/such.txt"], "cannot read user ids from /no/such.txt"),
    ],
)
def test_a_mistake_of_the_command_is_one_message(
    planned: Plan, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["forget", *arguments, "--run", planned.run_folder]) == 2
    assert message in capsys.readouterr().err


def test_the_root_is_found_by_any_of_its_runs(planned: Plan, tmp_path: Path):
    assert root_of(planned.run_folder) == root_of(f"{planned.run_folder}/") == root_folder(planned)
    for wrong in (root_folder(planned), f"{planned.run_folder}s", str(tmp_path), "/"):
        with pytest.raises(InputError, match=r"<storage\.root>/runs/<run>"):
            root_of(wrong)
