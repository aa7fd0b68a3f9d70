"""The documents as a site: the strict builder finds no dead link, no missing anchor and no name without a docstring."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.integration


def test_the_site_is_built_without_a_warning(tmp_path: Path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    home, reference = ((tmp_path / name).read_text(encoding="utf-8") for name in ("index.html", "api.html"))
    assert 'src="gains.svg"' in home
    assert all(f'id="hydra_ray.api.{name}"' in reference for name in ("run", "load_run", "Run", "Run.story"))
    assert "Raises:" in reference
    assert not list(tmp_path.glob("*.py"))
