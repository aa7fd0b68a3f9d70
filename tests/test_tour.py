"""The tour of the commands in docs/start.md does what it says: its commands are run from the text, in order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_blocks import blocks_of

REPOSITORY = Path(__file__).parents[1]
SECTION = "## A tour of the commands"
START = (REPOSITORY / "docs" / "start.md").read_text(encoding="utf-8")
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

ON_A_CLUSTER = {"check", "submit"}
"""Commands that cannot be shown on one machine; the pages have them where they tell of clusters."""

pytestmark = pytest.mark.ray


def commands() -> str:
    """The section's blocks of commands, as a script."""
    section = START.partition(f"{SECTION}\n")[2].partition("\n## ")[0]
    found = [block.text for block in blocks_of(section) if block.language == "sh"]
    assert len(found) > 5
    return "\n".join(found)


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


def test_the_pages_show_every_command_there_is():
    helped = subprocess.run(
        [sys.executable, "-m", "hydra_ray.cli", "--help"], capture_output=True, text=True, check=True
    ).stdout
    there = set(re.findall(r"^    ([a-z-]+)(?:\s|$)", helped, flags=re.MULTILINE))
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    typed = "\n".join(block.text for text in texts for block in blocks_of(text) if block.language == "sh")
    shown = set(re.findall(r"^hydra-ray ([a-z-]+)", typed, flags=re.MULTILINE))
    assert {"run", "report", "forget"} <= there
    assert shown - ON_A_CLUSTER == there - ON_A_CLUSTER
    assert all(re.search(rf"hydra-ray {name}|--command {name}", typed) for name in ON_A_CLUSTER)
