"""Disks that are full, read-only or gone, and come back: training goes on, and nothing is lost."""

import errno
import io
import os
import pathlib
import shutil
import subprocess

import jax
import numpy as np
import pytest
from test_training_loop import final_state, numbers, tiny, train

from resnet.cli.ending import in_one_line
from resnet.data.order import batch_indices
from resnet.errors import InputError
from resnet.runs.checkpoints import checkpoint
from resnet.runs.metrics import records
from resnet.runs.metrics.records import Lines
from resnet.runs.metrics.tensorboard import SplitFiles
from resnet.runtime.signals import RunStopped
from resnet.training import trainer


def at_steps(monkeypatch, actions):
    """Calls actions[step]() before the batch of `step` is drawn."""

    def drawing(seed, step, n, batch, repeats):
        actions.get(step, lambda: None)()
        return batch_indices(seed, step, n, batch, repeats)

    monkeypatch.setattr(trainer, "batch_indices", drawing)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; skips where it may not be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, train(tiny(), workdir)


def assert_like(undisturbed, workdir, result):
    expected, known = undisturbed
    names = ("loss", "top1", "n", "step", "validation", "without_ema")
    assert {name: result[name] for name in names} == {name: known[name] for name in names}
    assert numbers(workdir) == numbers(expected)
    states = [final_state(tiny(), folder, 9) for folder in (workdir, expected)]
    jax.tree.map(np.testing.assert_array_equal, *states)


def fill(folder):
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC


@pytest.mark.thorough
def test_a_disk_that_was_full_for_a_while(undisturbed, small_disk, monkeypatch, caplog):
    workdir = small_disk / "run"
    seen = []

    def empty():
        seen.append((checkpoint.steps_on_disk(workdir), len(numbers(workdir))))
        (small_disk / "filler").unlink()

    # Full at the lines of steps 4 and 8, and at the checkpoints of 4 and 5.
    at_steps(monkeypatch, {2: lambda: fill(small_disk), 8: empty})
    result = train(tiny(), workdir)
    assert seen == [([], 0)]
    assert "of step 4 could not be written" in caplog.text
    assert "metrics.jsonl cannot be written; its lines are kept" in caplog.text
    assert not list((workdir / "checkpoints").glob("*tmp*"))
    assert_like(undisturbed, workdir, result)


@pytest.mark.thorough
def test_a_disk_full_to_the_end_fails_and_resumes(undisturbed, small_disk, monkeypatch):
    workdir = small_disk / "run"
    at_steps(monkeypatch, {6: lambda: fill(small_disk)})
    with pytest.raises(RunStopped, match="checkpoint of step 9 could not be written") as stop:
        train(tiny(), workdir)
    assert stop.value.exit_code == 1 and not (workdir / "result.json").exists()
    assert checkpoint.steps_on_disk(workdir)[0] in (4, 5)  # that of 5 may have been on its way
    (small_disk / "filler").unlink()
    monkeypatch.undo()
    assert_like(undisturbed, workdir, train(tiny(), workdir))


@pytest.mark.thorough
def test_a_workdir_that_is_away_for_a_while(undisturbed, tmp_path, monkeypatch, caplog):
    workdir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    actions = {3: lambda: workdir.rename(elsewhere), 7: lambda: elsewhere.rename(workdir)}
    at_steps(monkeypatch, actions)
    result = train(tiny(), workdir)
    assert "of step 4 could not be written" in caplog.text
    assert_like(undisturbed, workdir, result)


def test_a_read_only_disk_is_named_at_the_start(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(InputError, match="cannot write to the workdir '.*': Read-only file system"):
        train(tiny(), small_disk / "run")


def test_a_full_disk_at_the_start_is_named(tmp_path, monkeypatch):
    def refusing(path, text, encoding):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pathlib.Path, "write_text", refusing)
    with pytest.raises(InputError, match="cannot write to the workdir .*: No space left on device"):
        train(tiny(), tmp_path / "run")


def test_lines_wait_in_order_and_torn_ones_are_mended(tmp_path, monkeypatch, caplog):
    """A line of which only four bytes find room."""
    path, room = tmp_path / "lines", [10]

    class Full(io.FileIO):
        def write(self, data):
            if not room[0]:
                raise OSError(errno.ENOSPC, "full")
            written = super().write(bytes(data[: room[0]]))
            room[0] -= written
            return written

    lines = Lines(path)
    monkeypatch.setattr(pathlib.Path, "open", lambda path, *_, **__: Full(path, "r+"))
    for line in ("first", "second", "third"):
        lines.add(line)
    assert path.read_bytes() == b"first\nseco" and caplog.text.count("cannot be written") == 1
    os.truncate(path, 12)  # as if a crash had left more than was said to be written
    room[0] = 100
    assert lines.flush() and path.read_bytes() == b"first\nsecond\nthird\n"


def test_boards_go_on_in_another_file(tmp_path, monkeypatch):
    monkeypatch.setattr("resnet.runs.metrics.tensorboard.FLUSH_SECONDS", 0.0)
    board = SplitFiles(tmp_path / "boards" / "train", 0)
    board.add(1, {"loss": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        board.add(2, {"loss": 2.0})
    board.add(3, {"loss": 3.0})
    board.close()
    files = sorted((tmp_path / "boards" / "train").iterdir())
    assert len(files) == 2 and b"loss" in files[1].read_bytes()


@pytest.mark.thorough
def test_a_result_that_cannot_be_written(tmp_path, monkeypatch):
    original = records.write_json

    def refusing(path, value):
        if str(path).endswith("result.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, value)

    monkeypatch.setattr("resnet.runs.open_run.write_json", refusing)
    with pytest.raises(
        RunStopped, match=r"result.json could not be written \(.*No space.*\): {'split': 'test'"
    ):
        train(tiny(), tmp_path / "run")
    monkeypatch.undo()
    assert train(tiny(), tmp_path / "run")["step"] == 9


@pytest.mark.thorough
@pytest.mark.parametrize("policy", ["stop", "rollback"])
def test_a_disk_that_is_full_where_a_run_diverges(policy, small_disk, monkeypatch):
    """Nothing but what is said on stderr holds the reason; with room again, the run diverges there again."""
    workdir, config = small_disk / "run", tiny()
    config.schedule.name, config.schedule.learning_rate = "constant", 1e30
    config.train.on_divergence, config.train.rollbacks = policy, 1
    config.checkpoint.every = config.train.log_every = "1 steps"
    at_steps(monkeypatch, {1: lambda: fill(small_disk)})
    with pytest.raises((RunStopped, OSError), match="No space left on device") as end:
        train(config, workdir)
    assert not (workdir / "failed.json").exists() and not (workdir / "rollbacks.json").exists()
    with pytest.raises(SystemExit) as code, in_one_line():
        raise end.value
    assert code.value.code == 1
    (small_disk / "filler").unlink()
    monkeypatch.undo()
    with pytest.raises(RunStopped, match="not finite|is nan|is inf"):
        train(config, workdir)
    assert (workdir / "failed.json").exists()
