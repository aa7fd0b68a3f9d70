"""The notebooks in the repository run from the first cell to the last: the demo's on any finished run, the others on
what they plant themselves."""

import os
import sys
from pathlib import Path

import nbformat
import pytest

from hydra_ray.stages.plan import Plan

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_they_are_kept_without_outputs(path: Path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert len(cells) > 2
    assert not any(cell.outputs or cell.execution_count for cell in cells)


def executed(name: str) -> tuple[nbformat.NotebookNode, str]:
    """The notebook with its outputs, none of them an error, and what its cells and their commands printed."""
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": NOTEBOOKS}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    return notebook, "".join(output.text for output in outputs if output.get("name") == "stdout")


def shown(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """What the cells display in one form, in order."""
    found = (output.get("data", {}).get(kind) for cell in notebook.cells for output in cell.get("outputs", ()))
    return [each for each in found if each]


# Third parties: what runs a kernel leaves sockets to the interpreter's end.
@pytest.mark.filterwarnings("default")
@pytest.mark.ray
def test_every_cell_of_the_demos_runs_and_tells_one_users_story(small_run: Plan, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HYDRA_RUN", os.environ.get("HYDRA_NOTEBOOK_RUN", small_run.run_folder))
    notebook, printed = executed("demo")
    assert "users gain" in printed
    assert "query: " in printed
    assert "answer: " in printed
    assert shown(notebook, "image/png")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`hydra-ray` is that of the environment of the tests; what the notebooks write goes to a folder of the test."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # the paths of its sockets must be short
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.filterwarnings("default")
@pytest.mark.ray
@pytest.mark.usefixtures("commands")
def test_a_table_of_ones_own_becomes_answers_and_a_report():
    notebook, printed = executed("own_data")
    assert "PERSONAL: expect accuracy" in printed
    assert "written: tickets.yaml" in printed
    assert "HYDRA answers better than" in printed
    assert "Records, no generator" in "".join(shown(notebook, "text/plain"))


@pytest.mark.filterwarnings("default")
@pytest.mark.ray
@pytest.mark.usefixtures("commands")
def test_preferences_are_learned_and_choose_among_new_candidates():
    notebook, _ = executed("preferences")
    *_, answers = shown(notebook, "text/plain")
    assert "bees are simple" in answers
    assert "To understand bees" in answers
