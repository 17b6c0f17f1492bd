"""A process that lives, and makes no step, ends the others, which name it."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from resnet.runtime import stall
from tests.processes_cases import CONFIG, free_port
from tests.tally import record

ROOT = Path(__file__).parents[1]
# Trains, and looks for a stall often; where "stalls" is given, the batch of the fourth step never comes.
DRIVER = """
import runpy, sys, time
from resnet.runtime import stall
from resnet.training.trainer import Trainer

stall.LOOK_SECONDS, stall.STALL_SECONDS = 1.0, 15.0
kind, batch = sys.argv.pop(1), Trainer.batch

def stalled(self, steps):
    if steps.start == 3:
        time.sleep(600)
    return batch(self, steps)

if kind == "stalls":
    Trainer.batch = stalled
sys.path.insert(0, "scripts")
sys.argv[0] = "scripts/train.py"
runpy.run_path("scripts/train.py", run_name="__main__")
"""


class Others:
    """What passes texts between processes; the others have said `steps`, and say no more."""

    def __init__(self, **steps: int):
        self.said = {f"resnet/steps/{name[1:]}": f"{count} far" for name, count in steps.items()}

    def key_value_set(self, key: str, text: str, allow_overwrite: bool) -> None:
        self.said[key] = text

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        return list(self.said.items())


@pytest.mark.parametrize(
    ("others", "named"),
    (
        ({"_1": 4, "_2": 5}, "process 1 on far"),
        ({"_1": 4, "_2": 3}, "process 1 on far, process 2 on far"),
        ({"_1": 6, "_2": 6}, ""),
        ({"_1": 5, "_2": 5}, ""),
    ),
    ids=("one", "two", "this process alone", "all wait"),
)
def test_who_has_begun_fewer_steps_is_named(others, named, monkeypatch, capfd):
    codes: list[int] = []
    ended = threading.Event()
    monkeypatch.setattr(stall, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(stall, "STALL_SECONDS", 0.05)
    monkeypatch.setattr(os, "_exit", lambda code: (codes.append(code), ended.set()))
    with stall.watching(Others(**others), 0, lambda: 5):
        ended.wait(60 if named else 0.3)
    assert set(codes) == ({1} if named else set())
    said = set(capfd.readouterr().err.splitlines())
    start = f"error: {named} begins no step for 0.05 s, and this one waits for it: look at its log and at "
    assert len(said) == bool(named)
    assert all(
        line.startswith(start) and line.endswith("the same command in all processes resumes") for line in said
    )


def test_steps_that_go_on_end_nothing(monkeypatch):
    monkeypatch.setattr(stall, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(stall, "STALL_SECONDS", 0.05)
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("ended"))
    begin = time.monotonic()
    with stall.watching(Others(_1=0), 0, lambda: int(100 * (time.monotonic() - begin))):
        time.sleep(0.3)


@pytest.mark.slow
def test_a_process_that_stalls_ends_the_other(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG.format(duration="100000 steps"))
    meeting = [f"--coordinator=127.0.0.1:{free_port()}", "--processes=2"]
    runs = []
    for index, kind in enumerate(("goes on", "stalls")):
        command = [sys.executable, "-c", DRIVER, kind, f"--config={tmp_path}/config.py", *meeting]
        command += [f"--process={index}", f"--workdir={tmp_path / 'run'}", "--config.parallel.host_devices=1"]
        runs.append(
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    try:
        errors = runs[0].communicate(timeout=300)[1]
        assert runs[0].returncode == 1, errors
        assert f"error: process 1 on {socket.gethostname()} begins no step for 15 s" in errors
        assert runs[1].wait(60) != 0, "the one that stalls ends too, as the first is gone"
    finally:
        for run in runs:
            run.kill()
            run.communicate()
    record("stall", "process 1 of two makes no step", "the other ends, and names it", 1)
