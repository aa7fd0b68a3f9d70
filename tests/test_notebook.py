"""The notebook in the repository runs from its first cell to its last on any finished run."""

import os
from pathlib import Path

import nbformat
import pytest

from hydra_ray.stages.plan import Plan

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "demo.ipynb"


def test_it_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 5
    assert not any(cell.outputs or cell.execution_count for cell in cells)


# Third parties: what runs a kernel leaves sockets to the interpreter's end.
@pytest.mark.filterwarnings("default")
@pytest.mark.ray
def test_every_cell_runs_and_tells_one_users_story(small_run: Plan, monkeypatch: pytest.MonkeyPatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("HYDRA_RUN", os.environ.get("HYDRA_NOTEBOOK_RUN", small_run.run_folder))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": NOTEBOOK.parent}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "users gain" in printed
    assert "query: " in printed
    assert "answer: " in printed
    assert any("image/png" in output.get("data", {}) for output in outputs)
