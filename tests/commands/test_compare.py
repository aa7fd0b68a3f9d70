"""Comparing the folders of two finished runs; what a comparison says is specified with `hydra_ray.evaluate`."""

from pathlib import Path

import pytest
from synthetic import CLASSIFICATION, TEXT, Pairs, synthetic_answers, synthetic_config

from hydra_ray.cli import main
from hydra_ray.commands.compare import compare_folders
from hydra_ray.config import Task
from hydra_ray.errors import InputError
from hydra_ray.evaluate.comparison import compare_answers, evaluate_run
from hydra_ray.evaluate.metrics_file import read_report
from hydra_ray.evaluate.report import build_report
from hydra_ray.rows import AnsweredUser, User, to_table
from hydra_ray.runs.run_folder import record_stages, run_folder_of
from hydra_ray.runs.stage import Stage, bucket_of
from hydra_ray.storage import join, write_json, write_part

KEY = "test"


def finished(root: Path, run: str, pairs: Pairs, task: Task = CLASSIFICATION, num_buckets: int = 3) -> str:
    """The folder of a run that has as much of a finished one as a comparison reads."""
    users = {"num_buckets": num_buckets, "bucket_key": KEY}
    config = synthetic_config(task, run, storage={"root": str(root)}, users=users)
    stages = [
        Stage(name=name, fingerprint=f"{run}{name}".encode().hex()[:16], root=str(root), num_buckets=num_buckets)
        for name in ("users", "answers")
    ]
    for bucket in range(num_buckets):
        mine = [pair for pair in pairs if bucket_of(pair[0].user_id, num_buckets, KEY) == bucket]
        for place, (stage, row_type) in enumerate(zip(stages, (User, AnsweredUser), strict=True)):
            write_part(stage.part(stage.name, bucket), to_table([pair[place] for pair in mine], row_type))
    folder = run_folder_of(str(root), run)
    write_json(join(folder, "config.json"), config.model_dump(mode="json"))
    write_json(join(folder, "metrics.json"), build_report(task, pairs, [], config))
    record_stages(folder, stages)
    return folder


def test_runs_are_compared_by_their_tables_wherever_they_are(tmp_path: Path):
    pairs = [synthetic_answers(CLASSIFICATION, 30), synthetic_answers(CLASSIFICATION, 30)[:20]]
    folders = [
        finished(tmp_path / "one", "before", pairs[0]),
        finished(tmp_path / "two", "after", pairs[1], num_buckets=2),
    ]
    found = compare_folders(*folders)
    runs = [
        evaluate_run(CLASSIFICATION, read_report(folder), {"users": run, "answers": run}, each)
        for folder, run, each in zip(folders, ("before", "after"), pairs, strict=True)
    ]
    expected = compare_answers(CLASSIFICATION, *runs)
    assert found["num_users"] == 20
    # Users are read bucket by bucket, and resamples are drawn by the order of users.
    for system, figures in expected["systems"].items():
        for name in ("titles", "users", "queries", "test"):
            assert found["systems"][system][name] == figures[name]
        for metric, values in figures["metrics"].items():
            assert found["systems"][system]["metrics"][metric]["values"] == pytest.approx(values["values"])
    for name in ("runs", "alone", "settings", "stages", "totals"):
        assert found[name] == expected[name]


def test_the_command_prints_the_comparison_and_writes_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pairs = synthetic_answers(CLASSIFICATION, 12)
    folders = [finished(tmp_path, run, pairs) for run in ("before", "after")]
    page = tmp_path / "page.html"
    assert main(["compare", *folders, "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "No difference can be shown between HYDRA in before and in after" in printed
    assert printed.splitlines()[-1] == str(page)
    assert page.read_text().startswith("<!doctype html>")


def test_runs_of_other_tasks_and_unfinished_ones_are_refused(tmp_path: Path):
    first = finished(tmp_path, "topics", synthetic_answers(CLASSIFICATION, 6))
    second = finished(tmp_path, "titles", synthetic_answers(TEXT, 6), TEXT)
    with pytest.raises(InputError, match=r"topics \(classification, 4 labels\) and titles \(text\)"):
        compare_folders(first, second)
    Path(first, "stages.json").unlink()
    with pytest.raises(InputError, match="is not finished"):
        compare_folders(first, first)
    with pytest.raises(InputError, match="no report at"):
        compare_folders(str(tmp_path / "nothing"), second)
