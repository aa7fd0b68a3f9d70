"""README's tour of the commands does what it says: its commands are taken from the text and run, in order."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SECTION = "## A tour of the commands"
TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")

ON_A_CLUSTER = {"check", "submit"}
"""Commands that cannot be shown on one machine; README has them where it tells of clusters."""

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(SECTION not in TEXT, reason=f"README has no section {SECTION!r}"),
]


def commands() -> str:
    """The section's indented lines, as a script."""
    section = TEXT.partition(f"{SECTION}\n")[2].partition("\n## ")[0]
    return "\n".join(textwrap.dedent(line) for line in section.splitlines() if line.startswith("    "))


def test_every_command_of_the_tour_succeeds(tmp_path: Path):
    """In a folder of its own with the repository's configurations, so that `outputs` is none that matters."""
    (tmp_path / "jobs").symlink_to(REPOSITORY / "jobs")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = f"set -euxo pipefail\n{commands()}\n"
    done = subprocess.run(
        ["bash", "-c", script], check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    for written in ("outputs/runs/tour/report.html", "outputs/runs/tour+june/predictions.json", "tour.html"):
        assert (tmp_path / written).exists()
    assert "ann" not in (tmp_path / "outputs/runs/tour+june/predictions.json").read_text()


def test_readme_shows_every_command_there_is():
    helped = subprocess.run(
        [sys.executable, "-m", "hydra_ray.cli", "--help"], capture_output=True, text=True, check=True
    ).stdout
    there = set(re.findall(r"^    ([a-z-]+)(?:\s|$)", helped, flags=re.MULTILINE))
    shown = set(re.findall(r"^    hydra-ray ([a-z-]+)", TEXT, flags=re.MULTILINE))
    assert {"run", "report", "forget"} <= there
    assert shown - ON_A_CLUSTER == there - ON_A_CLUSTER
    assert all(f"hydra-ray {name}" in TEXT or f"--command {name}" in TEXT for name in ON_A_CLUSTER)
