"""One writer per run: who is refused, who takes over, and what is left behind."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys

import pytest
from test_training_loop import tiny

from resnet.errors import InputError
from resnet.runs import lock
from resnet.runs.lock import WorkdirHeld, holding
from resnet.training import loop

HOLDER = """
import sys, time
from pathlib import Path
from resnet.runs.lock import holding
with holding(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds tmp_path / "run"."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def stale(workdir, **changes):
    """The text of a holder that was killed."""
    workdir.mkdir(exist_ok=True)
    (workdir / lock.FILE).write_text(json.dumps(lock._myself() | {"pid": 2**22 + 1} | changes))


def test_a_second_process_is_refused_and_a_killed_one_followed(other, tmp_path, caplog):
    workdir = tmp_path / "run"
    with pytest.raises(WorkdirHeld, match=rf"in use by process {other.pid} on \S+ since 20\d\d-"):
        loop.train(tiny(), workdir)
    assert os.listdir(workdir) == [lock.FILE]
    other.send_signal(signal.SIGKILL)
    other.wait()
    with holding(workdir):
        assert json.loads((workdir / lock.FILE).read_text())["pid"] == os.getpid()
    assert f"taking over from process {other.pid}" in caplog.text
    assert os.listdir(workdir) == []


def test_seeds_in_one_folder_are_held_one_by_one(other, tmp_path):
    folders = {0: tmp_path / "free", 1: tmp_path / "run"}
    with pytest.raises(WorkdirHeld, match="run is in use by"):
        loop.train(tiny(), folders)
    assert not folders[0].exists()


def test_the_same_process_cannot_hold_a_folder_twice(tmp_path):
    with holding(tmp_path), pytest.raises(WorkdirHeld, match=f"process {os.getpid()}"), holding(tmp_path):
        pass


def test_folders_made_for_nothing_are_removed_others_stay(tmp_path):
    with holding(tmp_path / "a" / "b"):
        pass
    assert os.listdir(tmp_path) == []
    with holding(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "result").touch()
    assert os.listdir(tmp_path / "a" / "b") == ["result"]


def test_the_text_speaks_for_another_machine(tmp_path):
    stale(tmp_path, host="elsewhere", boot="another")
    message = r"on elsewhere .* if that process is gone, remove"
    with pytest.raises(WorkdirHeld, match=message), holding(tmp_path):
        pass
    assert (tmp_path / lock.FILE).exists()


def test_a_job_started_again_by_slurm_takes_over_from_another_machine(tmp_path, monkeypatch):
    stale(tmp_path, host="elsewhere", boot="another", job="17", start=0)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with pytest.raises(WorkdirHeld), holding(tmp_path):
        pass
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with holding(tmp_path):
        pass


def test_where_the_file_system_has_no_locks_the_text_decides(tmp_path, monkeypatch):
    def without(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with holding(tmp_path), pytest.raises(WorkdirHeld, match="if that process is gone"), holding(tmp_path):
        pass
    stale(tmp_path)
    with holding(tmp_path):
        pass


def test_no_holder_outlives_a_restart_of_its_machine(tmp_path, monkeypatch):
    """The process number of the holder may belong to another process by then."""
    stale(tmp_path, pid=os.getpid())
    assert lock.is_held(tmp_path)
    stale(tmp_path, pid=os.getpid(), boot="another")
    assert not lock.is_held(tmp_path)


def test_a_workdir_that_cannot_be_written_is_named_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write to the workdir '.*file/run': Not a directory"):
        loop.train(tiny(), tmp_path / "file" / "run")
