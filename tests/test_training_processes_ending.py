"""Processes of one run that do not meet, or do not end together: each says why, and soon."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnet.errors import InputError
from resnet.runs.lock import WorkdirHeld
from resnet.runtime import meeting, processes
from tests.processes_cases import free_port
from tests.tally import record

# What a process does together with others: each part of a command line is an action.
PROGRAM = """
import os, sys, time
from resnet.cli import ending
ending.set_up()
from absl import logging
from resnet.errors import InputError
from resnet.runs.lock import WorkdirHeld
from resnet.runtime import meeting, processes
meeting.MEETING = int(os.environ.get("MEETING", meeting.MEETING))
port, count, index, *actions = sys.argv[1:]
logging.use_absl_handler()
logging.set_verbosity(logging.INFO)

def held():
    raise WorkdirHeld("the folder is in use")

with ending.in_one_line(), processes.together(f"127.0.0.1:{port}", int(count), int(index)):
    print("met", flush=True)
    for action in actions:
        if action == "fail":
            raise InputError("no such image")
        if action == "break":
            raise ZeroDivisionError
        if action == "wait":
            processes.in_all(lambda: None)
        if action == "held":
            try:
                processes.first_says(held)
            except WorkdirHeld as error:
                print(f"left to it: {error}", flush=True)
        if action == "sleep":
            time.sleep(600)
    print("done", flush=True)
"""


@pytest.fixture
def start(tmp_path):
    """Starts one of `count` processes, which does the actions in turn."""
    (tmp_path / "program.py").write_text(PROGRAM)
    started, port = [], free_port()

    def process(count: int, index: int, *actions: str) -> subprocess.Popen:
        command = [sys.executable, tmp_path / "program.py", str(port), str(count), str(index), *actions]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment, **pipes))
        return started[-1]

    yield process
    for each in started:
        each.kill()
        each.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "code", "said"),
    (("fail", 2, "error: no such image"), ("break", 1, "ZeroDivisionError")),
    ids=("refused", "bug"),
)
@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_alone_is_said_by_it_and_ends_the_other(start, failing, action, code, said):
    runs = [start(2, index, action if index == failing else "wait") for index in (0, 1)]
    began = time.monotonic()
    errors = [run.communicate(timeout=200)[1] for run in runs]
    seconds = time.monotonic() - began
    assert runs[failing].returncode == code and said in errors[failing], errors
    assert "Check failure stack trace" not in errors[failing]
    assert runs[1 - failing].returncode != 0 and "another task died" in errors[1 - failing]
    if action == "fail":
        happens = f"it says so and exits with {code}; the other ended within {seconds:.0f} s"
        record(f"error_of_process_{failing}", f"an error of process {failing} of two alone", happens, 1)


@pytest.mark.thorough
def test_what_one_refuses_all_refuse_by_the_same_kind_of_error(start):
    outputs = [run.communicate(timeout=200) for run in [start(2, index, "held") for index in (0, 1)]]
    assert [out.splitlines()[-2:] for out, _ in outputs] == [
        ["left to it: the folder is in use", "done"]
    ] * 2, outputs


@pytest.mark.thorough
def test_processes_that_were_told_different_counts(start):
    runs = [start(2, 0), start(3, 1)]
    errors = [run.communicate(timeout=200)[1] for run in runs]
    said = "must be given the same --processes; got"
    assert [run.returncode for run in runs] == [2, 2] and all(said in text for text in errors), errors


@pytest.mark.thorough
@pytest.mark.parametrize("index", [0, 1])
def test_an_interrupt_ends_the_wait_for_the_others(start, index):
    run = start(2, index)
    wait_for(run.stderr, "waiting for the other processes at 127.0.0.1")
    time.sleep(2)  # until it is in JAX
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=20)
    assert run.returncode in (-signal.SIGINT, 128 + signal.SIGINT)


@pytest.mark.thorough
def test_an_interrupt_ends_the_wait_for_one_that_is_late(start):
    runs = [start(2, 0, "wait"), start(2, 1, "sleep")]
    wait_for(runs[0].stdout, "met")
    runs[0].send_signal(signal.SIGINT)
    _, errors = runs[0].communicate(timeout=20)
    assert runs[0].returncode == 130 and "error: stopped by SIGINT" in errors


def wait_for(stream, text: str) -> None:
    for line in stream:
        if text in line:
            return
    pytest.fail(f"ended without {text!r}")


@pytest.mark.thorough
@pytest.mark.parametrize("index", [0, 1])
def test_one_that_waits_in_vain_says_so(start, index, monkeypatch):
    monkeypatch.setenv("MEETING", "3")
    run = start(2, index)
    _, errors = run.communicate(timeout=60)
    said = (
        r"error: not all processes of this run have come at 127.0.0.1:\d+ within 3 s: look at the log of each"
    )
    assert run.returncode == 2 and re.search(said, errors) and "Check failure" not in errors


def test_a_held_workdir_is_an_input_error_that_json_can_carry():
    told = json.loads(json.dumps(processes._described(WorkdirHeld("in use"))))
    assert type(processes._refusal(*told)) is WorkdirHeld and str(processes._refusal(*told)) == "in use"
    assert type(processes._refusal("Unknown", "x")) is InputError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host", 2, 0), "--coordinator=host:port, --processes=n and --process=i .* got 'host', 2 and 0"),
        (("host:1", 2, 2), "go together; got 'host:1', 2 and 2"),
        (("host:x", 2, 0), "needs a port from 1 to 65535; got 'host:x'"),
        (("host:99999", 2, 1), "needs a port from 1 to 65535; got 'host:99999'"),
        ((":9911", 2, 1), "needs a port from 1 to 65535; got ':9911'"),
        (("host:1", 0, -1), "go together"),
        (("", 2, -1), "--processes and --process need --coordinator"),
    ],
)
def test_flags_that_do_not_fit(arguments, message):
    with pytest.raises(InputError, match=message), processes.together(*arguments):
        pass


def test_tasks_of_slurm_find_each_other(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NODELIST", "n[1-2]")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert meeting.arguments_of("", 0, -1) == {}
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert set(meeting.arguments_of("", 0, -1).values()) == {30}  # seconds


def test_a_port_that_is_taken_is_named():
    """JAX itself may crash then, without a message."""
    with socket.create_server(("", 0)) as held, pytest.raises(InputError, match="choose another port"):
        meeting.arguments_of(f"localhost:{held.getsockname()[1]}", 2, 0)
