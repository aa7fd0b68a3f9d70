import subprocess
import sys
from pathlib import Path

import pytest

from hydra_ray.cli import main

DEMO = str(Path(__file__).parents[1] / "jobs" / "configs" / "demo.yaml")


@pytest.mark.parametrize("arguments", [["run", "--help"], ["--version"]])
def test_help_and_version_import_no_heavy_library(arguments: list[str]):
    code = (
        "import sys\nfrom hydra_ray.cli import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('ray', 'torch', 'vllm', 'pyarrow', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "/no/such.yaml"], "cannot read the configuration /no/such.yaml"),
        (["run", DEMO, "drafts.num_sample=3"], "drafts.num_sample: there is no such setting; did you mean drafts"),
        (["run", DEMO, "drafts"], "not of the form section.key=value"),
        (["run", DEMO, "lamp.task=LaMP_9"], "lamp.task is 'LaMP_9'; built in are LaMP_1"),
        (["run", DEMO, "lamp.planted=null", "lamp.root=/no/such"], "/no/such/train_questions.json"),
        (["status", "/no/such/run"], "no run at /no/such/run"),
        (["report", "/no/such/run"], "no report at /no/such/run/metrics.json"),
    ],
)
def test_a_mistake_is_one_message_and_no_traceback(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    if arguments[0] == "run":
        arguments = [*arguments, f"storage.root={tmp_path}"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


def test_a_submitted_job_refuses_a_relative_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert main(["run", DEMO]) == 2
    assert "storage.root is the relative path 'outputs'" in capsys.readouterr().err


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [0, 2, 1]])
def test_overrides_may_stand_before_and_after_options(order: list[int], tmp_path: Path):
    pieces = [["--until", "users"], [f"storage.root={tmp_path}"], ["users.num_buckets=2"]]
    arguments = [argument for place in order for argument in pieces[place]]
    assert main(["run", DEMO, *arguments]) == 0
    assert len(list(tmp_path.glob("stages/users/*/users/*.parquet"))) == 2


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["run", DEMO, "--untill", "users"])
    assert "unrecognized arguments" in capsys.readouterr().err


def test_doctor_tells_whether_a_run_fits_on_nodes_that_are_not_there(capsys: pytest.CaptureFixture[str]):
    nodes = str(Path(DEMO).parents[2] / "ray_cluster.yaml")
    assert main(["doctor", "--cluster", DEMO, "--nodes", nodes]) == 0
    assert main(["doctor", "--cluster", DEMO, "--nodes", nodes, "placement.generator_gpus=8"]) == 1
    assert "needs 8 GPU on one node; the largest has 4" in capsys.readouterr().out


def test_a_log_format_that_is_unknown_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("HYDRA_LOG_FORMAT", "xml")
    with pytest.raises(SystemExit):
        main(["doctor"])
    assert "HYDRA_LOG_FORMAT is 'xml'; expected one of text, json" in capsys.readouterr().err
