"""Runs docs/tour.py as a notebook: python scripts/tour.py

Writes docs/tour.ipynb with what the cells printed and drew; the text is never edited there. What the tour
trains lies in --folder, and is not trained again. Needs requirements-dev.txt. Prints the file and its
cells as one JSON object.
"""

from pathlib import Path
from typing import Any

import cli

from resnet.errors import check_installed

cli.define_path("folder", ".", "Where the cells run; the tour's runs are in runs/tour of it.")

SOURCE = Path(__file__).resolve().parents[1] / "docs" / "tour.py"
NOTEBOOK = SOURCE.with_suffix(".ipynb")
LIMIT = 600  # seconds that one cell may take


def main(overrides: list[str]) -> dict:
    """Executes the cells, and writes the notebook if none failed."""
    cli.refuse_overrides(overrides, "the tour has its own configs")
    check_installed(("jupytext", "nbformat", "nbclient", "ipykernel"), "pip install -r requirements-dev.txt")
    import nbformat

    from resnet.files import creating

    notebook = execute(as_notebook(), cli.FLAGS.folder)
    with creating(NOTEBOOK) as temporary:
        nbformat.write(notebook, temporary)
    return {"notebook": str(NOTEBOOK), "cells": len(notebook.cells)}


def as_notebook() -> Any:
    """The cells of the source, not run."""
    import jupytext

    notebook = jupytext.read(SOURCE)
    notebook.metadata.pop("jupytext", None)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell{i}"  # the same in every run
    return notebook


def execute(notebook: Any, folder: Path) -> Any:
    """The notebook with the outputs of its cells, run in `folder`; CellExecutionError if one fails."""
    from nbclient import NotebookClient

    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=LIMIT, kernel_name="python3", resources=resources, record_timing=False
    )
    return client.execute()


if __name__ == "__main__":
    cli.run(main)
