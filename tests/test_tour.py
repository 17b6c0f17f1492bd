"""The tour: it runs from a clone, and the notebook that is committed is the source with its outputs."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the kernel, which runs elsewhere
    for package in ("jupytext", "nbclient", "ipykernel"):
        pytest.importorskip(package)
    from scripts import tour

    return tour


@pytest.mark.thorough
@pytest.mark.filterwarnings("default:::(jupyter_client|nbclient|zmq|tornado|traitlets|jupyter_core)")
def test_the_tour_runs(script, tmp_path):
    ran = script.execute(script.as_notebook(), tmp_path)
    printed = "".join(o.text for cell in ran.cells for o in cell.get("outputs", ()) if "text" in o)
    assert "the stem is the same, bit for bit: True" in printed
    accuracy = float(printed.split("test accuracy on 0 to 4: ")[1].split()[0])
    assert accuracy > 0.9
    assert (tmp_path / "runs/tour/tuned/result.json").exists()


def test_the_notebook_is_the_source_with_its_outputs(script):
    import nbformat

    written = nbformat.read(script.NOTEBOOK, as_version=4)
    source = script.as_notebook()
    remedy = "run python scripts/tour.py again"
    assert [cell.source for cell in written.cells] == [cell.source for cell in source.cells], remedy
    code = [cell for cell in written.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
