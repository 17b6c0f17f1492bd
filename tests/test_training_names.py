"""Folders of any name that a file system takes: trained in, saved, restored, evaluated."""

import contextlib
import json
import os
import shutil
import string
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training_checkpoint import shapes_of, state_at
from test_training_loop import tiny, train

import resnet
from resnet.run import evaluate_run
from resnet.runs.checkpoints import checkpoint
from resnet.runs.checkpoints.alias import plain_path
from resnet.runs.checkpoints.saver import Saver
from tests.tally import record, tries

PUNCTUATION = string.punctuation.replace("/", "")
ODD = [
    f" {PUNCTUATION} ",
    "[!a]",
    "lr[0.1]",
    "**",
    "gs:",
    "back\\slash",
    "100%20%s",
    "line\nbreak",
    "naïve 日本 🙂",
    "no\udcffutf8",
    "x" * 200,
]
ROOT = Path(__file__).parents[1]
# Four steps of a tiny net, saved after the second and the fourth.
SCRIPT = (
    "--config.data.train_limit=64",
    "--config.model.family=chain",
    "--config.model.blocks=(1,)",
    "--config.model.width=0.25",
    "--config.train.batch_size=16",
    "--config.train.duration=4 steps",
    "--config.checkpoint.every=2 steps",
)
# What the file system takes for a name: neither / nor NUL, and at most 255 bytes.
NAMES = (
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=200)
    .filter(lambda name: len(os.fsencode(name)) <= 255)
    .filter(lambda name: name not in (".", ".."))
)


def save_and_restore(name):
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder, name, name)
        workdir.mkdir(parents=True)
        saver = Saver(workdir)
        saver.save(state_at(1), {})
        saver.close()
        assert not saver.failure
        state, _ = checkpoint.restore_latest(workdir, shapes_of(state_at(0)))
    jax.tree.map(np.testing.assert_array_equal, state, state_at(1))


def test_what_is_saved_under_any_name_is_restored():
    tried = []

    @given(NAMES)
    @settings(max_examples=tries(4))
    def drawn(name):
        tried.append(save_and_restore(name))

    for name in ODD:
        tried.append(save_and_restore(name))
    drawn()
    record("names", "a workdir of any name", "saved and restored bit for bit", len(tried))


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:Glyph")  # that a picture's font has not
def test_a_run_under_such_names_is_trained_moved_resumed_and_evaluated(tmp_path):
    begun, moved = tmp_path / PUNCTUATION / "run", tmp_path / f"lr[0.1] 日本 {PUNCTUATION}"
    result = train(tiny(), begun)
    begun.rename(moved)
    found = train(tiny(), moved)
    assert found == result | {"workdir": str(moved)}
    (moved / "result.json").unlink()
    again = train(tiny(), moved)
    assert {name: again[name] for name in ("loss", "sha256", "workdir")} == {
        name: found[name] for name in ("loss", "sha256", "workdir")
    }
    assert evaluate_run(resnet.load(moved))["loss"] == pytest.approx(result["loss"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_run_of_any_name_is_trained_resumed_and_evaluated():
    """Calls the functions that the commands call: a process for each name would take too long."""

    @given(NAMES)
    @settings(max_examples=tries(5))
    def tried(name):
        with tempfile.TemporaryDirectory() as folder:
            workdir = Path(folder, name)
            result = train(tiny(), workdir)
            (workdir / "result.json").unlink()
            shutil.rmtree(workdir / "checkpoints" / str(result["step"]))
            assert train(tiny(), workdir)["sha256"] == result["sha256"]
            assert evaluate_run(resnet.load(workdir))["loss"] == pytest.approx(result["loss"])
        counted.append(name)

    counted = []
    tried()
    record("named_runs", "a run under any name", "trained, resumed and evaluated", len(counted))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ODD, string.ascii_letters + string.digits])
def test_the_scripts_train_resume_and_evaluate_under_such_names(tmp_path, name):
    """Together the names hold every printable character but the slash."""
    workdir, fields = tmp_path / name / "run", list(SCRIPT)

    def called(script, *arguments):
        command = [sys.executable, f"scripts/{script}.py", f"--workdir={workdir}", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return json.loads(done.stdout)

    result = called("train", "--config=configs/digits.py", *fields)
    (workdir / "result.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / "4")
    again = called("train", "--config=configs/digits.py", *fields)
    assert again["sha256"] == result["sha256"] and again["step"] == 4
    assert called("evaluate")["loss"] == pytest.approx(result["loss"])
    record("names", "a workdir of any name", "saved and restored bit for bit", 1)


def test_what_cannot_be_read_back_is_no_checkpoint(tmp_path, monkeypatch):
    """The library's own fault, which `plain_path` keeps away from it, stands for any that loses arrays."""
    workdir = tmp_path / "lr[0.1]"
    workdir.mkdir()
    saver = Saver(workdir)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "plain_path", contextlib.nullcontext)
        saver.save(state_at(1), {})
        saver.wait()
    assert "the checkpoint of step 1 could not be written" in saver.failure
    assert checkpoint.steps_on_disk(workdir) == []
    saver.save(state_at(2), {})
    saver.close()
    assert checkpoint.steps_on_disk(workdir) == [2] and not saver.failure


def test_a_link_that_is_tidied_up_is_made_anew(tmp_path):
    workdir = tmp_path / "[1]"
    workdir.mkdir()
    saver = Saver(workdir)
    saver.save(state_at(1), {})
    saver.wait()
    shutil.rmtree(saver._manager.directory.parent)
    saver.save(state_at(2), {})
    assert "is gone" in saver.failure
    saver.save(state_at(3), {})
    saver.close()
    assert checkpoint.steps_on_disk(workdir) == [3, 1] and not saver.failure


def test_links_are_made_where_they_are_needed_and_go(tmp_path):
    with plain_path(tmp_path) as plain:
        assert plain == tmp_path
    odd = tmp_path / "a b[c]"
    odd.mkdir()
    with plain_path(odd) as plain:
        assert plain.samefile(odd) and "[" not in str(plain)
    assert not plain.parent.exists() and odd.exists()
