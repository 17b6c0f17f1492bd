"""Signals to real processes: how they end, how soon, and what is on disk then."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from jax.errors import JaxRuntimeError
from test_training_disk import assert_like, at_steps
from test_training_loop import tiny, train

from resnet.config import replaced, save_config
from resnet.data.batches import padded_batches
from resnet.runs.checkpoints import checkpoint
from resnet.runs.metrics.records import read_metrics
from resnet.runtime import signals
from resnet.runtime.signals import RunStopped, StopSignals
from resnet.training import evaluation, loop, trainer

ROOT = Path(__file__).parents[1]

# Half a minute in C, where no Python handler runs.
BUSY = """
import hashlib, threading
from resnet.runs.metrics.records import read_metrics
from resnet.runtime.signals import StopSignals, may_end_process
may_end_process()
with StopSignals() as stops:
    stops.nothing_to_lose = NOTHING
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 30_000_000)
"""


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("nothing_to_lose", "numbers_sent", "code", "message"),
    [
        (True, (signal.SIGTERM,), 143, "stopped by SIGTERM before its first step"),
        (True, (signal.SIGINT,), 130, "stopped by SIGINT before its first step"),
        (False, (signal.SIGINT, signal.SIGINT), 130, "stopped by SIGINT a second time"),
        (False, (signal.SIGTERM, signal.SIGINT, signal.SIGINT), 130, "stopped by SIGINT a second time"),
    ],
)
def test_leaving_at_once_whatever_the_main_thread_is_at(nothing_to_lose, numbers_sent, code, message):
    command = [sys.executable, "-c", BUSY.replace("NOTHING", str(nothing_to_lose))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        begun = time.monotonic()
        for number in numbers_sent:
            process.send_signal(number)
            time.sleep(0.1)
        assert process.wait() == code
        assert time.monotonic() - begun < 5
        assert message in process.stderr.read()


def test_the_first_stop_is_noted_and_everything_given_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    with StopSignals() as stops:
        stops.nothing_to_lose = False
        signal.raise_signal(signal.SIGUSR1)
        assert stops.waiting and stops.received is None
        assert stops.take_save_request() and not stops.waiting
        signal.raise_signal(signal.SIGTERM)
        assert stops.received == signal.SIGTERM
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    assert signal.set_wakeup_fd(-1) == -1


@pytest.fixture
def library(monkeypatch):
    """As in a notebook: no script has said that the process is its own."""
    monkeypatch.setattr(signals, "_MAY_END_PROCESS", threading.Event())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_where_the_process_is_not_the_runs_own_a_stop_is_raised(library, number):
    with pytest.raises(RunStopped, match="before its first step; nothing is lost") as stop, StopSignals():
        signal.raise_signal(number)
    assert stop.value.exit_code == 128 + number
    with pytest.raises(KeyboardInterrupt), StopSignals() as stops:
        stops.nothing_to_lose = False
        signal.raise_signal(signal.SIGINT)
        assert stops.received == signal.SIGINT
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("several", [False, True])
def test_in_another_thread_the_handlers_of_the_caller_stay(monkeypatch, several):
    monkeypatch.setattr(signals.processes, "several", lambda: several)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}

    def run():
        with StopSignals():
            return {number: signal.getsignal(number) for number in before}

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result() == before


def test_a_compiler_that_the_stop_ended_too_is_no_error_of_its_own():
    told = "stopped by SIGTERM while compiling; the same command"
    with pytest.raises(RunStopped, match=told) as stopped, StopSignals() as stops:
        stops.nothing_to_lose = False
        signal.raise_signal(signal.SIGTERM)
        raise JaxRuntimeError("INTERNAL: ptxas exited with non-zero error code 15")
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    with pytest.raises(JaxRuntimeError), StopSignals():
        raise JaxRuntimeError("INTERNAL: ptxas exited with non-zero error code 255")


def test_a_notebook_whose_run_is_interrupted_while_it_compiles_goes_on(library, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "make_trainer", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(RunStopped, match="stopped by SIGINT before its first step"):
        train(tiny(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, train(tiny(), workdir)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("evaluations", "step"),
    [(1, 4), *(pytest.param(*case, marks=pytest.mark.thorough) for case in ((2, 8), (3, 9)))],
)
def test_a_stop_during_an_evaluation_ends_it_and_resumes_with_it(
    undisturbed, tmp_path, monkeypatch, evaluations, step
):
    """At steps 4 and 8 on validation, after 9 on the test split; each of more than two batches."""
    begun = []

    def stopping(split, batch_size, pace):
        begun.append(0)
        for batch in padded_batches(split, batch_size, pace):
            begun[-1] += 1
            if len(begun) == evaluations and begun[-1] == 2:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch, pytest.raises(RunStopped, match=f"at step {step};") as stop:
        patch.setattr(evaluation, "padded_batches", stopping)
        train(tiny(), tmp_path)
    assert stop.value.exit_code == 143 and begun[-1] == 2
    assert checkpoint.steps_on_disk(tmp_path)[0] == step
    assert_like(undisturbed, tmp_path, train(tiny(), tmp_path))
    assert checkpoint.steps_on_disk(tmp_path) == checkpoint.steps_on_disk(undisturbed[0])


@pytest.mark.thorough
def test_the_best_is_kept_though_a_stop_came_before_its_score(tmp_path, monkeypatch):
    """Step 2 is the best; its checkpoint, written before the score was known, stays as it is."""
    config = replaced(tiny(), {"train.duration": "8 steps", "train.evaluate_every": "2 steps"})
    config = replaced(config, {"checkpoint.every": "2 steps", "checkpoint.keep": 1})
    found = iter([0.9, 0.5, 0.4, 0.3])
    evaluate = trainer.Trainer.evaluate

    def scored(self, variables, split, halt):
        metrics = evaluate(self, variables, split, halt)
        return [{**each, "top1": next(found, 0.1)} for each in metrics]

    def stopping(self, variables, split, halt):
        signal.raise_signal(signal.SIGTERM)
        return evaluate(self, variables, split, halt)

    with monkeypatch.context() as patch, pytest.raises(RunStopped, match="at step 2;"):
        patch.setattr(trainer.Trainer, "evaluate", stopping)
        train(config, tmp_path)
    written = (tmp_path / "checkpoints" / "2" / "manifest.json").read_bytes()
    monkeypatch.setattr(trainer.Trainer, "evaluate", scored)
    train(config, tmp_path)
    assert checkpoint.steps_on_disk(tmp_path) == [8, 2]
    assert (tmp_path / "checkpoints" / "2" / "manifest.json").read_bytes() == written


@pytest.mark.thorough
def test_a_save_on_demand_changes_nothing(undisturbed, tmp_path, monkeypatch):
    at_steps(monkeypatch, {2: lambda: signal.raise_signal(signal.SIGUSR1)})
    result = train(tiny(), tmp_path)
    assert 3 in checkpoint.steps_on_disk(tmp_path)
    assert_like(undisturbed, tmp_path, result)


@contextlib.contextmanager
def started(config_file, workdir, environment=None):
    command = [sys.executable, "scripts/train.py", f"--config={config_file}", f"--workdir={workdir}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(process, condition):
    for _ in range(4800):
        if condition():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError("it did not come to pass in four minutes")


CONFIG = """
import dataclasses
from resnet.config import Config, config_from_dict

def get_config():
    return config_from_dict(VALUES)
"""


def write_config(config, folder):
    """Writes a config file that a command can read, and returns its path."""
    save_config(config, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.py").write_text(CONFIG.replace("VALUES", repr(values)))
    return folder / "config.py"


@pytest.mark.thorough
def test_a_process_is_stopped_at_the_start_saves_on_demand_and_leaves(tmp_path):
    config = tiny()
    config.train.duration, config.train.log_every = "1000000 steps", "1 steps"
    config.train.evaluate_every = config.checkpoint.every = "1000000 steps"
    file, workdir = write_config(config, tmp_path), tmp_path / "run"
    with started(file, workdir) as process:
        wait_until(process, (workdir / "run.json").exists)
        process.terminate()
        assert process.wait(timeout=20) == 143
        assert "stopped by SIGTERM before its first step" in process.stderr.read()
    with started(file, workdir) as process:
        wait_until(process, lambda: len(read_metrics(workdir)) > 3)
        process.send_signal(signal.SIGUSR1)
        wait_until(process, lambda: checkpoint.steps_on_disk(workdir))
        [saved] = checkpoint.steps_on_disk(workdir)
        wait_until(process, lambda: read_metrics(workdir)[-1]["step"] > saved)
        process.terminate()
        assert process.wait(timeout=60) == 143
        assert f"at step {checkpoint.steps_on_disk(workdir)[0]}; the same" in process.stderr.read()
        assert checkpoint.steps_on_disk(workdir)[0] > saved


@pytest.mark.thorough
def test_a_step_compiled_as_for_users_is_resumed_to_the_same_weights(tmp_path):
    """Without what makes compiling quick in tests/conftest.py."""
    quick = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    environment = {name: value for name, value in os.environ.items() if name not in quick}
    config = tiny()
    config.model.width, config.train.duration, config.train.log_every = 0.5, "400 steps", "1 steps"
    config.train.evaluate_every = config.checkpoint.every = "150 steps"
    file, stopped = write_config(config, tmp_path), tmp_path / "stopped"

    def result(workdir):
        with started(file, workdir, environment) as process:
            out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return json.loads(out)

    with started(file, stopped, environment) as process:
        wait_until(process, lambda: len(read_metrics(stopped)) > 3)
        process.terminate()
        assert process.wait(timeout=60) == 143
    assert 3 < checkpoint.steps_on_disk(stopped)[0] < 400
    assert result(stopped)["sha256"] == result(tmp_path / "undisturbed")["sha256"]
