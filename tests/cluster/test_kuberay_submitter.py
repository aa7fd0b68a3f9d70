"""How the pod that submits a RayJob gets its token, and what its shell does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kuberay_pods import TOKEN_KEY, child_cluster_name, submit_command, submitter_pod
from manifests import GONE, RAY_JOB, changed, cluster_spec, pods, read

RECORDER = """#!{python}
import json, os, sys
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit(sys.argv[1:3] == ["job", "status"] and os.environ["IS_SUBMITTED"] == "no")
"""
HEALTHY = "#!/bin/sh\nexit 0\n"


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    """The variables of the first container, each of which must stand there once."""
    names = [each["name"] for each in pod["spec"]["containers"][0]["env"]]
    assert len(set(names)) == len(names), names
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in pod["spec"]["containers"][0]["env"]}


def test_the_submitter_gets_the_token_of_the_jobs_own_cluster():
    job = read(RAY_JOB)
    found = environment(submitter_pod(job))
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_AUTH_TOKEN"] == {"secretKeyRef": {"name": child_cluster_name(job), "key": TOKEN_KEY}}
    assert child_cluster_name(job).startswith(f"{job['metadata']['name']}-")


def test_the_submitter_gets_the_token_of_a_secret_that_is_named():
    job = changed(read(RAY_JOB), {("spec", "rayClusterSpec", "authOptions", "secretName"): "ours"})
    assert environment(submitter_pod(job))["RAY_AUTH_TOKEN"] == {"secretKeyRef": {"name": "ours", "key": TOKEN_KEY}}


def test_a_submitter_of_a_cluster_without_authentication_has_no_token():
    job = changed(read(RAY_JOB), {("spec", "rayClusterSpec", "authOptions"): GONE})
    assert "RAY_AUTH_TOKEN" not in environment(submitter_pod(job))


def test_the_submitter_runs_the_operators_command_in_the_image_of_the_head():
    job = read(RAY_JOB)
    (template,) = [each for name, each in pods(job) if name == "submitter"]
    (container,) = template["spec"]["containers"]
    assert "command" not in container
    assert "args" not in container
    (head,) = cluster_spec(job)["headGroupSpec"]["template"]["spec"]["containers"]
    assert container["image"] == head["image"]


@pytest.mark.parametrize("is_submitted", ["no", "yes"])
def test_the_submitters_shell_hands_the_entrypoint_over_whole_and_once(tmp_path: Path, is_submitted: str):
    for name, text in (("ray", RECORDER.format(python=sys.executable)), ("python", HEALTHY)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = read(RAY_JOB)
    variables = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    subprocess.run(
        ["/bin/bash", "-ce", "--", submit_command(job)], env={**variables, "IS_SUBMITTED": is_submitted}, check=True
    )
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert [call[1] for call in calls] == (["status", "submit", "logs"] if is_submitted == "no" else ["status", "logs"])
    if is_submitted == "no":
        shell, option, script = calls[1][calls[1].index("--") + 1 :]
        assert (shell, option) == ("bash", "-c")
        assert script.split(" && ")[0] == "cd /opt/hydra_ray"
        steps = [step.split() for step in script.split(" && ")[1:]]
        assert [step[1] for step in steps] == ["cluster/check.py", "jobs/personalize.py"]
        # Both get the same configuration and overrides.
        assert steps[0][2:] == steps[1][2:]
        assert all((Path(__file__).parents[2] / each).exists() for step in steps for each in step[1:3])
