"""What becomes of a typed command: the words that the cluster runs, and the files that go with them."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from builders import run_config

from hydra_ray.cli import main
from hydra_ray.commands.submit.job import (
    config_job,
    forgetting_job,
    job_environment,
    other_source,
    run_job,
    update_job,
)
from hydra_ray.errors import ConfigError, HydraError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a configuration, its users, and a sweep of it."""
    monkeypatch.chdir(tmp_path)
    settings = run_config("/shared/hydra").model_dump(mode="json")
    settings["lamp"] = {"task": "planted", "users_files": ["june.jsonl", "s3://bucket/may.jsonl"]}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "june.jsonl").write_text("{}\n")
    (tmp_path / "sweeps").mkdir()
    sweep = {"sweep": "mine", "base": "../my.yaml", "space": {"drafts.num_records": [1, 2]}}
    (tmp_path / "sweeps" / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    return tmp_path


def test_a_submitted_run_has_its_configuration_and_its_users_copied_location(folder: Path):
    words = ["drafts.num_samples=2", "--until", "drafts"]
    job = config_job("run", "my.yaml", words[:1], words, "/shared/inputs", has_page=True)
    assert job.words[:5] == ("run", "my.yaml", *words)
    ((path, location),) = job.copies.items()
    assert path.name == "june.jsonl"
    name, _, value = job.words[5].partition("=")
    assert (name, yaml.safe_load(value)) == ("lamp.users_files", [location, "s3://bucket/may.jsonl"])
    assert job.files == {"my.yaml": (folder / "my.yaml").read_bytes()}
    assert job.result == "/shared/hydra/runs/test/report.html"
    assert shlex.split(job.entrypoint)[:3] == ["python", "-m", "hydra_ray.cli"]


@pytest.mark.parametrize(("command", "name"), [("run", "tour"), ("check", "demo"), ("sweep", "sweep")])
def test_a_shipped_configuration_is_submitted_by_its_name(folder: Path, command: str, name: str):
    words = ["storage.root=s3://bucket/hydra"]
    job = config_job(command, name, words, words, None, has_page=False)
    assert job.words == (command, f"{name}.yaml", *words)
    assert f"{name}.yaml" in job.files


@pytest.mark.parametrize(
    "setting", ["lamp.users_files=[gs://b/x.jsonl]", "generator.model=abfs://b/m", "reranker.base.encoder=./model"]
)
def test_what_no_cluster_could_find_is_refused_before_it_is_asked(folder: Path, setting: str):
    with pytest.raises(
        HydraError, match=r"only be fetched from S3|a store that is not supported|expected an absolute folder"
    ):
        config_job("run", "my.yaml", [setting], [setting], "/shared/inputs", has_page=True)


def test_users_that_the_cluster_has_need_no_setting(folder: Path):
    words = ["lamp.users_files=[s3://bucket/may.jsonl]"]
    job = config_job("plan", "my.yaml", words, words, None, has_page=False)
    assert (job.words, job.copies, job.result) == (("plan", "my.yaml", *words), {}, "")


def test_a_sweep_goes_with_the_configuration_that_it_names(folder: Path, tmp_path: Path):
    job = config_job("sweep", "sweeps/sweep.yaml", [], [], "/shared/inputs", has_page=True)
    sent = tmp_path / "sent"
    sent.mkdir()
    for name, content in job.files.items():
        (sent / name).write_bytes(content)
    from hydra_ray.sweep.config import load_sweep

    there, here = load_sweep(sent / job.words[1], [job.words[2]]), load_sweep("sweeps/sweep.yaml")
    assert there.config.space == here.config.space
    assert there.base["lamp"]["users_files"] == [*job.copies.values(), "s3://bucket/may.jsonl"]
    assert {**there.base, "lamp": None} == {**here.base, "lamp": None}
    assert job.result == "/shared/hydra/sweeps/mine/sweep.html"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lamp=5", "the section lamp is 5; expected a mapping"),
        ("lamp.root=[a]", r"lamp\.root is a list; expected text"),
        ("lamp.users_files=5", r"lamp\.users_files is 5; expected text"),
        ("lamp.users_files=[5]", r"lamp\.users_files is a list; expected text"),
        ("storage=5", r"add storage\.root=FOLDER"),
    ],
)
def test_a_sweep_whose_base_names_no_users_is_refused_in_words(folder: Path, override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        config_job("sweep", "sweeps/sweep.yaml", [override], [override], None, has_page=True)


def test_added_users_keep_their_files_names_because_the_addition_is_named_after_it(folder: Path):
    job = update_job(
        "update", "/shared/hydra/runs/test", ["june.jsonl"], None, ["placement.train_threads=1"], "/inputs"
    )
    assert job.words[:3] == ("update", "/shared/hydra/runs/test", "placement.train_threads=1")
    assert Path(job.words[-1]).name == "june.jsonl"


def test_feedback_is_submitted_with_its_own_option():
    job = update_job("feedback", "/shared/hydra/runs/test", ["s3://bucket/said.csv"], "monday", [], None)
    assert job.words == ("feedback", "/shared/hydra/runs/test", "--file", "s3://bucket/said.csv", "--name", "monday")


def test_ids_to_be_forgotten_go_with_no_job(folder: Path):
    for user_ids, users_file in ((["ann"], None), ([], "ids.txt"), ([], None)):
        with pytest.raises(ConfigError, match="Ray keeps and shows"):
            forgetting_job("/shared/hydra/runs/test", user_ids, users_file)
    job = forgetting_job("/shared/hydra/runs/test", [], "s3://bucket/ids.txt")
    assert job.words == ("forget", "--run", "/shared/hydra/runs/test", "--users-file", "s3://bucket/ids.txt")


def test_a_relative_run_folder_is_refused():
    with pytest.raises(ConfigError, match="the run's folder is the relative path"):
        run_job("retry", "outputs/runs/test", [])


def test_a_cluster_with_another_source_says_so(monkeypatch: pytest.MonkeyPatch):
    for name, value in job_environment("hydra-ray submit my.yaml").items():
        monkeypatch.setenv(name, value)
    assert other_source() is None
    monkeypatch.setenv("HYDRA_CLIENT_SOURCE", "00000000")
    assert "source 00000000" in str(other_source())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["my.yaml"], "lamp.users_files names june.jsonl"),
        (["my.yaml", "storage.root=outputs", "--upload", "/x"], "storage.root is the relative path"),
        (["my.yaml", "drafts.num_sample=3"], "did you mean drafts"),
        (["no.yaml"], "cannot read the configuration no.yaml"),
        (["my.yaml", "--upload", "/x"], "no cluster to submit to"),
        (["my.yaml", "--upload", "/x", "--address", "head:6379"], "is not an address to submit jobs to"),
        (["my.yaml", "--upload", "/x", "--address", "http://127.0.0.1:9"], "nobody listens at http://127.0.0.1:9"),
        (["/r/runs/x", "ann", "--command", "forget"], "Ray keeps and shows"),
    ],
)
def test_what_cannot_be_submitted_is_one_sentence(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert main(["submit", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


def test_an_option_that_the_command_does_not_have_is_refused_here(folder: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["submit", "my.yaml", "--untill", "users"])
    assert "unrecognized arguments: --untill users" in capsys.readouterr().err


def test_a_laptop_needs_no_library_that_computes(folder: Path):
    """What the base install has is enough, whichever command is submitted."""
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "vllm", "deepspeed", "transformers", "sklearn"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
from hydra_ray.cli import main
for arguments in (["my.yaml"], ["sweeps/sweep.yaml", "--command", "sweep"], ["/r/runs/x", "--command", "retry"]):
    assert main(["submit", *arguments, "--upload", "/x", "--address", "http://127.0.0.1:9"]) == 2
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("nobody listens") == 3
