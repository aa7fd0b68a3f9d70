"""The token of a cluster that `ray up` starts: how it is made, who has it, and what happens without."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ray_up import (
    TOKEN,
    TOKEN_PLACE,
    Commands,
    Started,
    bootstrapped,
    made_token,
    prepared,
    read_ray_up,
    set_up,
    start_head,
)

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MAKES_THE_TOKEN = re.compile(r"^[# ]*(\(umask 077 && ray get-auth-token .*\))$", re.MULTILINE)


def test_the_token_goes_to_the_head_and_from_there_to_workers(started: Started):
    copied = f"/tmp/ray_tmp_mount/hydra{TOKEN_PLACE}"
    assert started.commands.copied[copied] == TOKEN
    assert set(started.on_head["file_mounts"]) == {TOKEN_PLACE}
    assert set_up(started, "cpu").copied == {copied: TOKEN}
    # With times and modes, as rsync's archives are: the file stays its owner's alone.
    (copy,) = [call for call in started.commands.calls if call[0] == "rsync" and call[-1].endswith("auth_token")]
    assert "-avz" in copy


def test_without_a_token_ray_up_stops_and_names_the_file(aws: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    config = {**bootstrapped(read_ray_up()), "cluster_name": "no-token"}
    monkeypatch.setenv("HOME", str(tmp_path))
    config["file_mounts"] = prepared(read_ray_up())["file_mounts"]
    with pytest.raises(FileNotFoundError, match=r"\.ray/auth_token"):
        start_head(config, Commands())


def test_another_token_is_another_content_of_the_mounts(started: Started):
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    path = Path(started.on_head["file_mounts"][TOKEN_PLACE])
    before = AutoscalingConfig(started.on_head).file_mounts_contents_hash
    made_token(path.parents[1], "another")
    try:
        assert AutoscalingConfig(started.on_head).file_mounts_contents_hash != before
    finally:
        made_token(path.parents[1])
    assert AutoscalingConfig(started.on_head).file_mounts_contents_hash == before
    path.rename(path.with_suffix(".away"))
    with pytest.raises(FileNotFoundError, match="auth_token"):
        AutoscalingConfig(started.on_head)
    path.with_suffix(".away").rename(path)


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "there and open to all"])
def test_the_token_that_the_documents_make_is_its_owners_alone(tmp_path: Path, is_there: bool):
    texts = [(ROOT / name).read_text() for name in ("ray_cluster.yaml", "docs/cluster.md")]
    (command,) = {command for text in texts for command in MAKES_THE_TOKEN.findall(text)}
    assert all(MAKES_THE_TOKEN.search(text) for text in texts)
    path = tmp_path / ".ray" / "auth_token"
    if is_there:
        made_token(tmp_path).chmod(0o644)
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"HOME": str(tmp_path), "PATH": tools, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text()) == (16 if is_there else 64)
    assert path.read_text() not in done.stdout + done.stderr
    # It is where the file for `ray up` takes it from.
    assert read_ray_up()["file_mounts"] == {TOKEN_PLACE: "~/.ray/auth_token"}
