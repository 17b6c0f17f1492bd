"""The soak in short: a few faults, and the same end to the last bit."""

import json

import pytest
from test_scripts import script


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "bitflip"])
def test_a_few_faults(fault, tmp_path):
    folders = f"--workdir={tmp_path}", f"--record={tmp_path / 'rows'}"
    arguments = f"--fault={fault}", "--count=2", "--minutes=3", *folders
    done = script("soak", *arguments)
    assert done.returncode == 0, done.stderr
    tally = json.loads(done.stdout)
    assert tally["losses"] == 0 and tally["tries"] == sum(tally["phases"].values()) == 2
    done = script("reliability", f"--rows={tmp_path / 'rows'}")
    assert json.loads(done.stdout)["tries"] == 2
    assert "SIGKILL" in (tmp_path / "rows.md").read_text()
