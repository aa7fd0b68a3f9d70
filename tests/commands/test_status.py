from pathlib import Path

import pytest
from builders import run_config

from hydra_ray import storage
from hydra_ray.commands.status import status_lines
from hydra_ray.errors import InputError
from hydra_ray.stages.outline import write_outline
from hydra_ray.stages.plan import Plan, plan_run

SCORER = {"base": run_config().adapter.base.model_dump()}


def started(root: Path, num_folds: int) -> Plan:
    """A run of which nothing is done yet; its bases are trained."""
    plan = plan_run(run_config(str(root), users={"num_folds": num_folds}, adapter=SCORER, reranker=SCORER))
    storage.write_json(storage.join(plan.run_folder, "config.json"), plan.config.model_dump(mode="json"))
    write_outline(plan)
    return plan


def states(plan: Plan) -> dict[str, str]:
    """What is said of each stage."""
    _, *lines, _ = status_lines(plan.run_folder)
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}


def test_no_run_is_an_error_that_says_where_runs_are(tmp_path: Path):
    with pytest.raises(InputError, match=r"<storage\.root>/runs/<run>"):
        list(status_lines(str(tmp_path)))


def test_a_run_started_before_outlines_were_kept_is_told_all_the_same(tmp_path: Path):
    plan = started(tmp_path, 3)
    plan.users.complete(12.34, {"rows": 10})
    kept = list(status_lines(plan.run_folder))
    storage.remove_file(storage.join(plan.run_folder, "outline.json"))
    assert list(status_lines(plan.run_folder)) == kept


@pytest.mark.parametrize("num_folds", [1, 3])
def test_before_anything_is_done_all_parts_of_all_folds_are_to_come(tmp_path: Path, num_folds: int):
    plan = started(tmp_path, num_folds)
    found = states(plan)
    assert list(found) == [stage.name for stage in plan.stages()]
    of_folds = {f"{scorer}.{step}" for scorer in ("reranker", "adapter") for step in ("features", "heads")}
    without_parts = {"reranker.base", "adapter.base", "adapter.labeller", "adapter.own", "report"}
    for name, state in found.items():
        # Own heads are a table beside what they make of queries.
        num_parts = 2 * num_folds if name in of_folds else 4 if name == "adapter.codes" else 2
        assert state == ("waiting or running" if name in without_parts else f"0 of {num_parts} parts")


def test_committed_parts_are_counted_and_finished_stages_told_with_their_costs(tmp_path: Path):
    plan = started(tmp_path, 3)
    for location in (
        plan.probes.part("probes", 1),
        plan.reranker.features.part("features/base-0", 0),
        plan.reranker.features.part("features/base-2", 1),
        plan.reranker.heads.part("scores/fold-1", 0),
    ):
        storage.write_bytes(location, b"")
    plan.users.complete(12.34, {"rows": 10, "leaking_users": 1, "failed": 2})
    found = states(plan)
    assert found["probes"] == "1 of 2 parts"
    assert found["reranker.features"] == "2 of 6 parts"
    assert found["reranker.heads"] == "1 of 6 parts"
    assert " ".join(found["users"].split()) == "complete 12.3 s, 10 rows, 2 failed"


def test_the_report_is_named_once_it_is_there(tmp_path: Path):
    plan = started(tmp_path, 1)
    assert list(status_lines(plan.run_folder))[-1].startswith("report: not yet")
    storage.write_bytes(storage.join(plan.run_folder, "report.html"), b"")
    assert list(status_lines(plan.run_folder))[-1] == f"report: {plan.run_folder}/report.html"
