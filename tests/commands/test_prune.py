import os
import time
from pathlib import Path

import pyarrow as pa
import pytest
from builders import ENCODER, run_config
from forgettable import completion_of

from hydra_ray import storage
from hydra_ray.cli import main
from hydra_ray.commands.prune import prune, unneeded_files
from hydra_ray.config import RunConfig
from hydra_ray.errors import InputError
from hydra_ray.generate.completion_store import asker_of
from hydra_ray.runs.run_folder import record_stages
from hydra_ray.stages.item_vectors import VECTORS
from hydra_ray.stages.plan import Plan, plan_run

DAYS = 86_400


def start(root: Path, name: str, **sections: dict[str, object]) -> Plan:
    """A run that was started and has asked something."""
    config = run_config(str(root), **sections).model_copy(update={"run": name})
    plan = plan_run(config)
    storage.write_json(storage.join(plan.run_folder, "config.json"), config.model_dump(mode="json"))
    ask(plan, asker_of(plan.probes.name, plan.probes.fingerprint), f"user of {name}")
    return plan


def finish(plan: Plan) -> None:
    record_stages(plan.run_folder, plan.stages())


def ask(plan: Plan, asker: str, user_id: str) -> None:
    plan.completions.write(0, asker, [completion_of(user_id)])


def files(root: Path) -> set[str]:
    return {str(path) for path in (root / "completions").rglob("*.parquet")}


def age(root: Path, days: float) -> None:
    """Let everything be written so long ago."""
    for path in files(root):
        os.utime(path, (time.time() - days * DAYS,) * 2)


def test_what_runs_asked_is_kept(tmp_path: Path):
    finish(start(tmp_path, "finished"))
    start(tmp_path, "under-way", generator={"seed": 1})
    assert len(files(tmp_path)) == 2
    assert unneeded_files(str(tmp_path)) == []


def test_what_was_asked_by_runs_that_are_no_more_goes(tmp_path: Path):
    plan = start(tmp_path, "finished")
    kept = files(tmp_path)
    ask(plan, f"drafts-{'0' * 16}", "somebody")
    (gone,) = files(tmp_path) - kept
    finish(plan)
    (found,) = prune(str(tmp_path))
    assert (found.location, found.num_bytes > 0) == (gone, True)
    assert files(tmp_path) == kept


def test_what_another_generator_answered_for_runs_that_are_no_more_goes(tmp_path: Path):
    other = start(tmp_path, "other", generator={"model": ENCODER})
    gone = files(tmp_path)
    finish(start(tmp_path, "finished"))
    storage.remove_folder(other.run_folder)
    assert {each.location for each in prune(str(tmp_path))} == gone


def test_answers_that_an_unfinished_run_may_use_are_kept_at_any_age(tmp_path: Path):
    plan = start(tmp_path, "under-way")
    ask(plan, f"drafts-{'0' * 16}", "somebody")
    age(tmp_path, 400)
    assert unneeded_files(str(tmp_path), older_than_days=1) == []


def test_what_finished_runs_asked_goes_when_it_is_old_and_only_where_age_counts(tmp_path: Path):
    finish(start(tmp_path, "finished"))
    age(tmp_path, 30)
    assert unneeded_files(str(tmp_path)) == []
    assert unneeded_files(str(tmp_path), older_than_days=31) == []
    before = files(tmp_path)
    assert {each.location for each in prune(str(tmp_path), older_than_days=29)} == before
    assert files(tmp_path) == set()


def test_where_it_cannot_be_told_what_a_run_would_ask_nothing_goes(tmp_path: Path):
    plan = start(tmp_path, "under-way")
    ask(plan, f"drafts-{'0' * 16}", "somebody")
    broken: RunConfig = plan.config.model_copy(update={"run": "broken", "taught_by": "nobody"})
    folder = str(tmp_path / "runs" / "broken")
    storage.write_json(f"{folder}/config.json", broken.model_dump(mode="json"))
    with pytest.raises(InputError, match=rf"{folder} is not finished"):
        prune(str(tmp_path))


def test_the_command_tells_first_and_does_it_only_when_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plan = start(tmp_path, "finished")
    ask(plan, f"drafts-{'0' * 16}", "somebody")
    finish(plan)
    assert main(["prune", plan.run_folder]) == 0
    assert "would be removed: 1 files, " in capsys.readouterr().out
    assert len(files(tmp_path)) == 2
    assert main(["prune", plan.run_folder, "--yes"]) == 0
    assert "removed: 1 files, " in capsys.readouterr().out
    assert len(files(tmp_path)) == 1


def keep_vectors(plan: Plan) -> str:
    """Vectors of a complete stage of codes, as its listing names them."""
    codes = plan.stage("adapter.codes")
    location = codes.part(VECTORS, 0)
    storage.write_part(location, pa.table({"user_id": ["somebody"]}))
    codes.complete(1.0, {})
    return location


def test_vectors_of_texts_go_with_their_runs_or_when_they_are_old(tmp_path: Path):
    plan, other = (
        start(tmp_path, "finished"),
        start(tmp_path, "other", adapter={"base": {"encoder": ENCODER, "max_text_tokens": 16}}),
    )
    kept, gone = keep_vectors(plan), keep_vectors(other)
    finish(plan)
    assert unneeded_files(str(tmp_path)) == []
    storage.remove_folder(other.run_folder)
    assert gone in {each.location for each in prune(str(tmp_path))}
    assert (storage.exists(kept), storage.exists(gone)) == (True, False)
    assert other.stage("adapter.codes").manifest()["files"] == {}
    age(tmp_path, 30)
    os.utime(kept, (time.time() - 30 * DAYS,) * 2)
    assert kept in {each.location for each in prune(str(tmp_path), older_than_days=29)}
    assert plan.stage("adapter.codes").is_complete()


def test_vectors_that_an_unfinished_run_may_use_are_kept_at_any_age(tmp_path: Path):
    location = keep_vectors(start(tmp_path, "under-way"))
    os.utime(location, (time.time() - 400 * DAYS,) * 2)
    assert location not in {each.location for each in prune(str(tmp_path), older_than_days=1)}
