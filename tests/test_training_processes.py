"""One run by two processes: the losses of one with two devices, one writer, and an end in common."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl import logging

from resnet.config import load_config
from resnet.errors import InputError
from resnet.runs.checkpoints import checkpoint
from resnet.runs.lock import WorkdirHeld, holding
from resnet.runtime import meeting, processes
from resnet.runtime.devices import make_mesh
from resnet.training import loop
from tests.processes_cases import CONFIG, free_port, in_mpi, lines, losses, wait_for_steps
from tests.stream_cases import STATISTICS, one_tar
from tests.studies_slurm import missing, slurm
from tests.tally import record

ROOT = Path(__file__).parents[1]
RUN = "run [0.1]"  # which each process has a link of its own to
SAME = "the same losses of 4 steps and final weights, bit for bit"


@pytest.fixture
def train(tmp_path):
    """Starts the processes of one run; the workdir is tmp_path / RUN."""
    started = []

    def start(
        processes: int, duration: str = "4 steps", last: tuple[str, ...] = (), by_mpi: bool = False
    ) -> list[subprocess.Popen]:
        """`last` are options of the last process only; `by_mpi`, they find each other as Open MPI's do."""
        (tmp_path / "config.py").write_text(CONFIG.format(duration=duration))
        command = [sys.executable, "scripts/train.py", f"--config={tmp_path}/config.py"]
        command += [f"--workdir={tmp_path / RUN}", "--config.parallel.host_devices=1"]
        port = free_port()
        meeting = [f"--coordinator=127.0.0.1:{port}", f"--processes={processes}"]
        for index in range(processes):
            own, environment = [*meeting, f"--process={index}"] if processes > 1 else [], dict(os.environ)
            if by_mpi:
                own = ["--coordinator=auto"]
                environment |= in_mpi(index, processes) | {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}"}
            own += last if index == processes - 1 else ()
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
            started.append(subprocess.Popen([*command, *own], env=environment, **pipes))
        return started[-processes:]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(runs: list[subprocess.Popen], code: int = 0) -> list[str]:
    outputs = [run.communicate(timeout=600) for run in runs]
    for run, (_, errors) in zip(runs, outputs, strict=True):
        assert run.returncode == code, errors
    # Gloo reports its connections on standard output too.
    return [output.splitlines()[-1] for output, _ in outputs]


def alone(folder: Path, workdir: Path) -> dict:
    """The result of the same run in this process, with two devices."""
    config = load_config(folder / "config.py")
    config.parallel.host_devices = 1
    return loop.train(config, workdir, mesh=make_mesh(2))


def go_back(workdir: Path) -> None:
    """Leaves a run as it was when step 2 had been saved."""
    (workdir / "result.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / "4")


@pytest.mark.thorough
@pytest.mark.parametrize("by_mpi", (False, pytest.param(True, marks=pytest.mark.slow)))
def test_two_processes_equal_one_with_two_devices(train, tmp_path, by_mpi):
    first, second = finish(train(2, by_mpi=by_mpi))
    result, workdir = json.loads(first), tmp_path / RUN
    assert not second.startswith("{") and result == json.loads((workdir / "result.json").read_text())
    assert [line["step"] for line in lines(workdir) if line["split"] == "train"] == [1, 2, 3, 4]
    assert len(json.loads((workdir / "run.json").read_text())["sessions"]) == 1
    assert result["sha256"] == alone(tmp_path, tmp_path / "alone")["sha256"]
    assert losses(workdir) == losses(tmp_path / "alone")
    record("processes", "two processes for one with two devices", SAME, 1)


@pytest.mark.slow
def test_saved_by_two_taken_up_by_one_and_back(train, tmp_path):
    result, workdir = json.loads(finish(train(2))[0]), tmp_path / RUN
    expected = losses(workdir)
    go_back(workdir)
    assert alone(tmp_path, workdir)["sha256"] == result["sha256"] and losses(workdir) == expected
    go_back(workdir)
    assert json.loads(finish(train(2))[0])["sha256"] == result["sha256"] and losses(workdir) == expected
    record("hand_over", "saved by two processes, taken up by one, and back", SAME, 2)


@pytest.mark.slow
def test_two_processes_share_the_decoding_of_a_stream(train, tmp_path, monkeypatch):
    """Killed in mid-epoch, taken up by one process, and the same bits as one process that never stopped."""
    root = one_tar(tmp_path / "data")
    fields = {"name": "image_folder", "dir": str(root), "image_size": 8, "random_resized_crop": 0.3}
    lines = [f"    config.data.{name} = {value!r}\n" for name, value in (fields | STATISTICS).items()]
    streamed = CONFIG.replace('"digits", 64, 1\n', '"digits", 0, 1\n' + "".join(lines))
    monkeypatch.setitem(globals(), "CONFIG", streamed)
    runs = train(2, "40 steps")
    end = time.monotonic() + 600
    # Until the latest checkpoint is none of the end of an epoch of three steps.
    while max(checkpoint.steps_on_disk(tmp_path / RUN), default=0) % 3 == 0:
        assert time.monotonic() < end and all(run.poll() is None for run in runs)
        time.sleep(0.05)
    for run in runs:
        run.kill()
        run.communicate()
    assert max(checkpoint.steps_on_disk(tmp_path / RUN)) % 3
    result = alone(tmp_path, tmp_path / RUN)
    assert result["sha256"] == alone(tmp_path, tmp_path / "alone")["sha256"]
    assert losses(tmp_path / RUN) == losses(tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing() or "there is Slurm")
def test_two_tasks_of_slurm_equal_one_process(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG.format(duration="4 steps"))
    command = ["srun", "--ntasks=2", "--kill-on-bad-exit=1", sys.executable, "scripts/train.py"]
    command += [
        f"--config={tmp_path}/config.py",
        f"--workdir={tmp_path / RUN}",
        "--config.parallel.host_devices=1",
    ]
    # The one node of this Slurm has no name that the network knows.
    environment = os.environ | {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}"}
    with slurm(tmp_path):
        environment |= {"SLURM_CONF": os.environ["SLURM_CONF"]}
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "process 1 of 2" in done.stderr
    result = json.loads((tmp_path / RUN / "result.json").read_text())
    assert result["sha256"] == alone(tmp_path, tmp_path / "alone")["sha256"]
    record("srun", "two tasks of Slurm for one process with two devices", "the same weights, bit for bit", 1)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "number", (signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)), ids=("TERM", "INT")
)
def test_a_signal_to_one_stops_all_at_the_same_step(train, tmp_path, number):
    runs = train(2, duration="100000 steps")
    wait_for_steps(tmp_path / RUN, 3, runs)
    runs[1].send_signal(number)
    errors = [run.communicate(timeout=600)[1] for run in runs]
    assert [run.returncode for run in runs] == [143, 143], errors
    said = {line for text in errors for line in text.splitlines() if "stopped by SIGTERM at step" in line}
    assert len(said) == 1
    step = int(said.pop().split("at step ")[1].split(";")[0])
    assert (tmp_path / RUN / "checkpoints" / str(step)).is_dir()
    happens = "both save after the same step and exit with 143"
    name = "signal_to_one" if number == signal.SIGTERM else "interrupt_to_one"
    record(name, f"{number.name} to one process of two", happens, 1)


@pytest.mark.slow
def test_a_second_interrupt_ends_the_process_at_once(train, tmp_path):
    runs = train(2, duration="100000 steps")
    wait_for_steps(tmp_path / RUN, 3, runs)
    for _ in range(2):
        runs[1].send_signal(signal.SIGINT)
        time.sleep(0.05)
    _, errors = runs[1].communicate(timeout=10)
    assert runs[1].returncode == 130 and "stopped by SIGINT a second time" in errors


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.slow
def test_the_death_of_one_ends_the_other_within_a_minute(train, tmp_path, victim):
    runs = train(2, duration="100000 steps")
    wait_for_steps(tmp_path / RUN, 3, runs)
    runs[victim].kill()
    began = time.monotonic()
    _, errors = runs[1 - victim].communicate(timeout=240)
    seconds = time.monotonic() - began
    assert runs[1 - victim].returncode != 0 and seconds < 60
    assert "another task died" in errors
    assert f"{victim} on {socket.gethostname()}" in errors
    assert (
        "the leader task was" if victim == 0 else "unhealthy (stopped sending heartbeats):\n1\n"
    ) in errors
    happens = f"the other ended after {seconds:.0f} s, saying that another task died"
    record(f"death_of_process_{victim}", f"process {victim} of two is killed", happens, 1)


@pytest.mark.thorough
def test_a_workdir_in_use_is_refused_by_all(train, tmp_path):
    with holding(tmp_path / RUN):
        runs = train(2)
        errors = [run.communicate(timeout=600)[1] for run in runs]
    assert [run.returncode for run in runs] == [2, 2], errors
    assert all("is in use by process" in text and "Traceback" not in text for text in errors)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("model.blocks=2", "`model.blocks`; got [1] in process 0 and [2] in process 1"),
        ("model.depht=20", "unknown field `model.depht`; did you mean `model.depth`"),
        pytest.param("seed=1", "`seed`; got 0 in process 0 and 1 in process 1", marks=pytest.mark.slow),
        pytest.param(
            "parallel.host_devices=2", "`parallel.host_devices`; got 1 in process 0 and 2 in process 1",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_all_refuse_what_they_were_not_given_alike(train, tmp_path, option, said):
    runs = train(2, last=(f"--config.{option}",))
    errors = [run.communicate(timeout=600)[1] for run in runs]
    assert [run.returncode for run in runs] == [2, 2], errors
    assert all(re.search(said.replace("[", r"\["), text) and "Traceback" not in text for text in errors), (
        errors
    )
    assert not (tmp_path / RUN).exists()


def others_say(monkeypatch, *texts: str) -> None:
    """As if other processes said these texts."""
    monkeypatch.setattr(processes._SELF, "count", 1 + len(texts))
    monkeypatch.setattr(processes, "_gathered", lambda text: [text, *texts])


def test_the_log_begins_with_the_host_of_each_process(monkeypatch, caplog):
    monkeypatch.setattr(processes, "_SELF", processes._Self(index=1, count=3))
    monkeypatch.setattr(processes, "_tell", lambda occasion, text: None)
    monkeypatch.setattr(processes, "_told", lambda occasion, index, seconds: f"3 {'abb'[index]}")
    logging.set_verbosity(logging.INFO)  # which scripts may have lowered
    seen = []
    monkeypatch.setattr(processes, "see_all_devices", lambda alone: seen.append(alone))
    with caplog.at_level("INFO"):
        processes._introduce()
    assert "process 1 of 3 (0 on a, 1 on b, 2 on b)" in caplog.text
    processes._SELF.index = 0
    processes._introduce()
    assert seen == [False, True]


@pytest.mark.parametrize(
    ("visible", "alone", "all_seen"),
    [("0,1", False, False), ("3", False, True), ("0,1", True, True), ("", False, False), ("", True, True)],
)
def test_a_process_uses_the_gpus_that_it_sees(monkeypatch, visible, alone, all_seen):
    """Unless several see several: there JAX takes the one of the process's number on its host."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    told = []
    monkeypatch.setattr(meeting.jax.config, "update", lambda *pair: told.append(pair))
    meeting.see_all_devices(alone)
    kinds = ("cuda", "rocm") if all_seen else ()
    assert told == [(f"jax_{kind}_visible_devices", "all") for kind in kinds]


def test_the_name_of_what_differs_is_said(monkeypatch):
    others_say(monkeypatch, '{"a": 1, "b": [2]}', '{"a": 1, "b": [3]}')
    with pytest.raises(InputError, match=r"the same `b`; got \[2\] in process 0 and \[3\] in process 2"):
        processes.agree(lambda: {"a": 1, "b": (2,)})
    with pytest.raises(
        InputError, match=r"the same `c`; got '[0-9a-f]{12}' in process 0 and None in process 1"
    ):
        processes.agree(lambda: {"a": 1, "b": (2,), "c": np.zeros(9)})


def test_an_error_of_one_is_one_of_all(monkeypatch):
    def refuse():
        raise InputError("no data here")

    others_say(monkeypatch, '["WorkdirHeld", "no data there"]')
    with pytest.raises(WorkdirHeld, match="no data there"):
        processes.in_all(lambda: 3)
    with pytest.raises(InputError, match="no data here"):
        processes.in_all(refuse)
    others_say(monkeypatch, "null")
    assert processes.in_all(lambda: 3) == 3


def test_one_process_needs_no_word():
    with processes.together():
        assert not processes.several() and processes.index_of_this() == 0
        assert processes.first_says(lambda: {"a": (1,)}) == {"a": (1,)} and not processes.asked_to_stop(1)
