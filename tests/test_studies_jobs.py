"""A study by several jobs on this machine: what each takes, and what happens when one fails or is stopped."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest

from resnet.errors import InputError
from resnet.processors import processors, shares
from resnet.studies.launch import launch
from resnet.studies.launchers import jobs
from resnet.studies.runner import Piece, pieces_of_work
from resnet.studies.stored import open_folder, save_folder
from resnet.studies.study import Arm
from tests.studies_cases import tiny_study

ROOT = Path(__file__).parents[1]
STUDY = """
from tests.studies_cases import tiny_study

def get_study(scale):
    return tiny_study(seeds=(0,), learning_rates=(0.1, 0.05), **FIELDS)
"""


def finish(workdir, arm, seed, rate=None, top1=0.5):
    run = workdir / arm / ("" if rate is None else f"lr{rate}") / f"seed{seed}"
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps({"validation": {"top1": top1, "loss": 1.0}}))


def test_processors_are_shared_out_whole():
    for count in (1, 2):
        parts = shares(count)
        assert len(set.union(*parts)) == sum(map(len, parts)) == processors() // count * count
    assert shares(1000) == [set()] * 1000


class Fake:
    """Stands for a process, which ends when a test sets its exit code."""

    started: ClassVar[list["Fake"]] = []

    def __init__(self, target, args):
        self.piece, self.exitcode, self.pid, self.sentinel = args[1], None, 0, self
        self.signals = []

    def start(self):
        Fake.started.append(self)

    def is_alive(self):
        return self.exitcode is None

    def join(self):
        pass

    def terminate(self):
        self.signals.append(signal.SIGTERM)

    def kill(self):
        self.signals.append(signal.SIGKILL)


@pytest.fixture
def faked(monkeypatch):
    """Jobs that do nothing; calls what it is given for each wait."""
    monkeypatch.setattr(jobs.multiprocessing, "get_context", lambda _: type("Context", (), {"Process": Fake}))
    Fake.started = []

    def during(events):
        events = iter(events)
        monkeypatch.setattr(
            jobs.multiprocessing.connection, "wait", lambda running, timeout: next(events)(running)
        )

    return during


@pytest.mark.parametrize(
    ("code", "said"),
    [(1, "ended with an error, which stands in"), (-9, "ended by SIGKILL, as for lack of memory")],
)
def test_arms_first_then_learning_rates_and_what_no_job_can_do_is_left(tmp_path, faked, code, said):
    folder = open_folder(tiny_study(seeds=(0, 1), learning_rates=(0.1, 0.05)), tmp_path, "")
    save_folder(folder)
    both = ((0, 1),)

    def ends_with_a_rate_done(running):
        assert [process.piece for process in Fake.started] == [
            Piece("identity", both), Piece("none", both), Piece("identity", both)
        ]  # fmt: skip
        for seed in (0, 1):
            finish(tmp_path, "identity", seed, 0.1)
        Fake.started[0].exitcode = 0

    def ends_without_a_change(running):
        # One group of the identity's is open, and a job is at it: the second goes to none.
        assert [process.piece.arm for process in Fake.started[3:]] == ["none"]
        Fake.started[1].exitcode = Fake.started[3].exitcode = 0

    def fails(running):
        # A job of none's found both of its groups held by others.
        assert len(Fake.started) == 4
        Fake.started[2].exitcode = code

    faked([ends_with_a_rate_done, ends_without_a_change, fails])
    with pytest.raises(jobs.RunStopped, match=f"identity: seeds 0, 1 {said} .*identity/log.txt") as stop:
        jobs.run_in_jobs(folder, (), None, 3, "")
    assert stop.value.exit_code == 1


def test_a_free_job_takes_seeds_once_another_has_chosen_their_rate(tmp_path, faked):
    rates = {0.05: 0.3, 0.1: 0.9, 0.2: 0.4}
    study = tiny_study(seeds=(0, 1, 2), learning_rates=tuple(rates), grid_seeds=1, arms={"identity": Arm()})
    folder = open_folder(study, tmp_path, "")
    save_folder(folder)
    for rate in (0.05, 0.2):
        finish(tmp_path, "identity", 0, rate, rates[rate])

    def chooses(running):
        assert len(Fake.started) == 1  # at the last rate, while the other processors wait
        finish(tmp_path, "identity", 0, 0.1, rates[0.1])

    def both_end(running):
        assert len(Fake.started) == 2
        for seed in (1, 2):
            finish(tmp_path, "identity", seed, 0.1)
        for process in Fake.started:
            process.exitcode = 0

    faked([chooses, both_end])
    assert jobs.run_in_jobs(folder, (), 1, 2, "")["finished"] == 5


def test_a_stop_is_passed_on_once_and_a_second_one_kills(tmp_path, faked):
    folder = open_folder(tiny_study(), tmp_path, "")
    save_folder(folder)

    def stops(running):
        signal.raise_signal(signal.SIGTERM)
        assert all(process.signals == [signal.SIGTERM] for process in Fake.started)
        signal.raise_signal(signal.SIGINT)
        for process in Fake.started:
            assert process.signals[1:] == [signal.SIGKILL]
            process.exitcode = -9

    faked([stops])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(jobs.RunStopped, match="stopped by SIGINT; the same command resumes the study"):
        jobs.run_in_jobs(folder, (), 1, 3, "")
    assert len(Fake.started) == 3 and signal.getsignal(signal.SIGTERM) is before


def test_jobs_are_for_this_machine(tmp_path):
    with pytest.raises(InputError, match="`jobs` is for the launcher local; slurm takes array_parallelism"):
        launch(tiny_study(), tmp_path, launcher="slurm", jobs=2)
    with pytest.raises(InputError, match="`jobs` must be at least 1"):
        launch(tiny_study(), tmp_path, jobs=0)


def test_parameters_of_slurm_are_for_slurm(tmp_path):
    message = "`slurm` is for the launcher slurm; got time=10,mem=4G with local: choose the launcher slurm"
    with pytest.raises(InputError, match=message):
        launch(tiny_study(), tmp_path / "s", slurm={"time": "10", "mem": "4G"})
    assert not (tmp_path / "s").exists()


@pytest.mark.thorough
def test_a_study_by_two_jobs_stops_resumes_and_ends_as_by_one(tmp_path):
    study = tmp_path / "study.py"
    study.write_text(STUDY.replace("**FIELDS", "grid_seeds=1"))

    def command(name, *more):
        options = (f"--study={study}", f"--workdir={tmp_path / name}", "--study.scale=small", "--only=none")
        options += ("--config.train.duration=90 steps",)
        return [sys.executable, str(ROOT / "scripts/study.py"), *options, *more]

    process = subprocess.Popen(command("two", "--jobs=2"), stderr=subprocess.PIPE, text=True)
    log = tmp_path / "two/none/log.txt"
    end = time.monotonic() + 120
    try:
        while not (log.exists() and "step 1 of 90" in log.read_text()):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()  # whose jobs end with it
    assert process.returncode == 143 and "stopped by SIGTERM; the same command resumes the study" in said
    assert "WARNING" not in log.read_text()
    # One job with as many processors as each of two has: their number decides the bits.
    for name, cores, more in (("two", set(), ["--jobs=2"]), ("one", shares(2)[0], [])):
        with jobs._inherited(cores):
            done = subprocess.run(command(name, *more), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["unfinished"] == 0
    results = [sorted((tmp_path / name).rglob("result.json")) for name in ("one", "two")]
    one, two = ([json.loads(path.read_text())["sha256"] for path in paths] for paths in results)
    assert one and one == two


def test_pieces_of_an_arm_without_a_grid_are_taken_one_by_one(tmp_path):
    folder = open_folder(tiny_study(seeds=(0, 1)), tmp_path, "")
    finish(tmp_path, "none", 1)
    left = {str(piece): len(jobs._open(folder, piece)) for piece in pieces_of_work(folder, (), 1)}
    assert left == {"identity: seeds 0": 1, "identity: seeds 1": 1, "none: seeds 0": 1}
