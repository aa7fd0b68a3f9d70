"""A process that is killed while it reads users leaves none of their texts to the next command."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from builders import run_config
from bytes_below import mentions

from hydra_ray import storage
from hydra_ray.cli import main

READING = """
import sys
from hydra_ray.config import check_config
from hydra_ray.lamp import users
from hydra_ray.stages.plan import plan_run
from hydra_ray.storage import read_json

def wait(config, task, stage, bucket, spill, line, features):
    list(spill.rows("samples", bucket))
    print("read", flush=True)
    sys.stdin.read()

users._commit_bucket = wait
config = check_config(read_json(sys.argv[1]), source="test")
users.ingest(config, plan_run(config).users)
"""


@pytest.mark.integration
def test_a_kill_while_users_are_read_leaves_nothing_to_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    place, users = tmp_path / "tmp", tmp_path / "users.jsonl"
    place.mkdir()
    pair = {"input": "a secret", "output": "b"}
    users.write_text(json.dumps({"user_id": "ann", "is_new": True, "history": [pair], "queries": [{"input": "c"}]}))
    lamp = {"task": "LaMP_4", "planted": None, "users_files": [str(users)]}
    storage.write_json(
        str(tmp_path / "run.json"), run_config(str(tmp_path / "root"), lamp=lamp).model_dump(mode="json")
    )
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", None)
    with subprocess.Popen(
        [sys.executable, "-c", READING, str(tmp_path / "run.json")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reading:
        assert reading.stdout is not None
        assert reading.stdout.readline() == b"read\n"
        assert len(mentions(str(place), "a secret")) == 1
        reading.send_signal(signal.SIGKILL)
        reading.wait()
    assert len(mentions(str(place), "a secret")) == 1
    assert main(["status", str(tmp_path / "root" / "runs" / "none")]) == 2
    assert "no run at" in capsys.readouterr().err
    assert list(place.iterdir()) == []
