"""What is said at the end of a run."""

from pathlib import Path

from builders import run_config

from hydra_ray.commands.ending import ending_lines
from hydra_ray.generate.failures import failures_text
from hydra_ray.stages.plan import plan_run


def test_failures_are_told_by_stage_with_their_commonest_reason(tmp_path: Path):
    plan = plan_run(run_config(str(tmp_path)))
    plan.users.complete(1.0, {"rows": 10})
    plan.probes.complete(1.0, {"answers": 200, "failed": 12, "failed.unparsable": 9, "failed.timeout": 3})
    said = list(ending_lines(plan, "probes"))
    assert said == [
        "test: every stage up to probes is complete",
        "probes: 12 of 200 answers failed, 9 of them because they were none to the task (docs/parsing.md)",
        f"run: {plan.run_folder}",
    ]


def test_a_stage_without_failures_has_nothing_to_tell():
    assert failures_text({"answers": 5, "failed": 0, "failed.timeout": 0}) == ""
    assert failures_text({}) == ""
    told = failures_text({"requests": 4, "failed": 2, "failed.timeout": 2})
    assert told.startswith("2 of 4 answers failed, all of them because none came in time")
