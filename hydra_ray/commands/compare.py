"""Comparison of two finished runs: their reports, stages and answers, read from their folders."""

from dataclasses import replace
from typing import Any

from hydra_ray.evaluate.comparison import EvaluatedRun, compare_answers, evaluate_run, require_same_task
from hydra_ray.evaluate.metrics_file import read_report
from hydra_ray.evaluate.phrases import Report
from hydra_ray.lamp.tasks import task_of
from hydra_ray.runs.run_folder import read_config, recorded_stages
from hydra_ray.runs.user_answers import answered_users


def compare_folders(first: str, second: str) -> dict[str, Any]:
    """Return the comparison (see `hydra_ray.evaluate.comparison`) of the runs in two folders, possibly below different
    roots.

    Raises:
        InputError: one of them is not finished or has no report, or they have different tasks or no common query.
    """
    folders = first, second
    reports = [read_report(folder) for folder in folders]
    require_same_task(*reports)
    runs = [_judged(*each) for each in zip(folders, reports, strict=True)]
    return compare_answers(task_of(read_config(second).lamp), *runs)


def _judged(folder: str, report: Report) -> EvaluatedRun:
    config = read_config(folder)
    stages = recorded_stages(folder, config)
    users, answers = stages["users"], stages["answers"]
    if config.taught_by is not None:
        # Added users are only in some of the buckets.
        answers = replace(answers, only_buckets=tuple(answers.committed_buckets("answers")))
    fingerprints = {name: stage.fingerprint for name, stage in stages.items()}
    return evaluate_run(task_of(config.lamp), report, fingerprints, answered_users(users, answers))
