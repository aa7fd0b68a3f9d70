"""Completion: what shells offer is what there is."""

import shutil
import subprocess

import pytest

from hydra_ray.cli import main
from hydra_ray.commands.arguments import make_parser
from hydra_ray.commands.completion import completion_script
from hydra_ray.shipped import shipped_names


def offered(*words: str) -> set[str]:
    """What bash offers for the last of the words."""
    script = completion_script("bash", make_parser(""), shipped_names())
    typed = " ".join(f"'{word}'" for word in ("hydra-ray", *words))
    asking = f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _hydra_ray; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", f"{script}\n{asking}"], capture_output=True, text=True, check=True)
    return {*done.stdout.split()}


def test_commands_are_offered_by_their_beginning():
    assert {"refresh", "run", "runs", "report", "retry"} == offered("r")
    assert {"feedback", "fit-users", "forget"} == offered("f")


def test_options_choices_and_shipped_configurations_are_offered_after_a_command():
    assert offered("run", "--un") == {"--until"}
    assert {"users", "drafts", "report"} <= offered("run", "tour", "--until", "")
    assert {*shipped_names()} <= offered("run", "")
    assert "--json" in offered("--log-format=text", "status", "--")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_such_of_their_shells(shell: str, capsys: pytest.CaptureFixture[str]):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "fit-users" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)
