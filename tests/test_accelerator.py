"""The hour with an accelerator, rehearsed: what is listed, refused, cut short and taken up again."""

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from resnet.cli.options import run
from scripts import accelerator
from tests.test_scripts import ROOT, script

STEPS = ("checks", "planned", "limits", "speed", "seeds", "he2015", "he2015_deep", "he2016")
# Starts a process of its own, as the checks do, writes its number, and waits.
STEP = """
import subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
with open(sys.argv[1], "w") as file:
    print(child.pid, file=file)
time.sleep(600)
"""


@pytest.fixture
def handlers():
    """Puts the handlers of signals back. Meanwhile SIGHUP has its default, also where nohup ignores it."""
    numbers = signal.SIGTERM, signal.SIGHUP, signal.SIGINT
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def call(*arguments):
    run(accelerator.main, accelerator.define, arguments)


def test_the_commands_are_listed_and_none_is_run(tmp_path, capsys):
    call("--dry_run", f"--workdir={tmp_path / 'w'}", f"--data={tmp_path}")
    listed = json.loads(capsys.readouterr().out)
    assert tuple(listed) == STEPS and f"--config.data.dir={tmp_path}" in listed["he2015"]
    assert not (tmp_path / "w").exists()
    call("--dry_run", "--steps=seeds,checks")
    assert [*json.loads(capsys.readouterr().out)] == ["checks", "seeds"]


@pytest.mark.parametrize(
    "argument, message",
    [("--steps=chekcs", "--steps knows checks"), ("--data=missing", "--data must be a folder")],
)
def test_what_cannot_work_is_refused(argument, message, capsys):
    with pytest.raises(SystemExit) as end:
        call(argument)
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_a_step_that_ended_well_is_not_repeated_and_no_step_begins_without_time(tmp_path, capsys, handlers):
    def ended(*arguments):
        call(f"--workdir={tmp_path}", *arguments)
        return json.loads(capsys.readouterr().out)

    for name, command in ended("--dry_run").items():
        (tmp_path / f"{name}.done").write_text(command if name == "checks" else command + " --more")
    assert ended("--steps=checks,limits", "--minutes=0") == {"checks": "done", "limits": "no time"}
    assert ended("--steps=checks", "--minutes=0", "--tiny") == {"checks": "no time"}


@dataclasses.dataclass(frozen=True)
class Waiting:
    file: Path

    def command(self):
        return [sys.executable, "-c", STEP, str(self.file)]


def runs(number: str) -> bool:
    """Whether a process is there and no zombie."""
    status = Path(f"/proc/{number}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def ends(pid: str) -> bool:
    """Whether a process that was killed is gone within seconds: its new parent has to wait for it."""
    until = time.monotonic() + 5
    while runs(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not runs(pid)


def started(file: Path) -> str:
    """The number that the step wrote."""
    until = time.monotonic() + 60
    while not file.exists() or not file.read_text().endswith("\n"):
        assert time.monotonic() < until, "the step does not begin"
        time.sleep(0.02)
    return file.read_text().strip()


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGHUP, signal.SIGINT))
def test_a_signal_ends_the_step_and_what_it_started(tmp_path, monkeypatch, handlers, number):
    file = tmp_path / "child"
    monkeypatch.setattr(accelerator, "_steps", lambda: {"checks": Waiting(file)})

    def send():
        started(file)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    with pytest.raises(SystemExit) as end:
        call(f"--workdir={tmp_path}", "--minutes=3")
    sender.join()
    assert end.value.code == 128 + number and not (tmp_path / "checks.done").exists()
    assert ends(started(file))


def test_a_step_out_of_time_is_cut_short_with_what_it_started(tmp_path, monkeypatch, handlers, capsys):
    monkeypatch.setattr(accelerator, "_steps", lambda: {"checks": Waiting(tmp_path / "child")})
    monkeypatch.setattr(accelerator, "SECONDS_TO_SAVE", 0.5)
    call(f"--workdir={tmp_path}", "--minutes=0.05")
    assert json.loads(capsys.readouterr().out) == {"checks": f"cut short (exit code {-signal.SIGTERM})"}
    assert ends(started(tmp_path / "child"))


@pytest.mark.slow
def test_a_rehearsal(tmp_path):
    """Of every step; what ended well is not repeated."""
    arguments = "--tiny", f"--workdir={tmp_path}", "--minutes=60"
    done = script("accelerator", *arguments, timeout=3600)
    folder = tmp_path / "tiny"
    logs = {log.name: log.read_text()[-1000:] for log in folder.glob("*.log")}
    assert json.loads(done.stdout) == dict.fromkeys(STEPS, "done"), logs
    found = json.loads((folder / "checks/checks.json").read_text())
    assert found["backend"] == "cpu" and found["like_the_cpu"]["found"] == 0
    assert {"resnet8"} == set(json.loads((folder / "planned.json").read_text()))
    parts = {key.split("/")[0] for key in json.loads((folder / "benchmark.json").read_text())}
    assert parts == {"limits", "training", "memory", "seeds"}
    for study in ("he2015_depth", "he2016_shortcuts"):
        assert list((folder / study).rglob("result.json"))


def test_every_step_is_a_script_with_a_rehearsal(tmp_path, capsys):
    call("--dry_run", "--tiny", f"--workdir={tmp_path}")
    tiny = json.loads(capsys.readouterr().out)
    call("--dry_run", f"--workdir={tmp_path}")
    whole = json.loads(capsys.readouterr().out)
    for name, command in tiny.items():
        assert command != whole[name] and (ROOT / "scripts" / Path(command.split()[1]).name).is_file()
