from pathlib import Path

import pytest
from configuration_files import generated

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_a_generated_file_is_what_the_code_makes_now(path: Path):
    is_current = path.exists() and path.read_text(encoding="utf-8") == generated()[path]
    assert is_current, f"{path.relative_to(ROOT)} is not what the settings are now: run `make docs` and commit it"
