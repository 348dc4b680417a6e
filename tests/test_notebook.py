"""Tests of the notebook among the examples."""

import pytest

from tests.conftest import ROOT

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def executed():
    """Return the notebook with its outputs, after all cells have run."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    return nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()


def outputs(notebook) -> list:
    """Return what the cells have shown."""
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_notebook_shows_table_and_figure(executed):
    table, figure = outputs(executed)
    _, _, _, sgd, sam = table["data"]["text/plain"].splitlines()
    error = {line.split()[0]: float(line.split()[1]) for line in (sgd, sam)}
    assert error["SAM"] < error["SGD"] - 3
    assert "image/png" in figure["data"]


def test_committed_notebook_has_outputs(executed):
    committed = outputs(nbformat.read(NOTEBOOK, as_version=4))
    assert [output.output_type for output in committed] == [output.output_type for output in outputs(executed)]
