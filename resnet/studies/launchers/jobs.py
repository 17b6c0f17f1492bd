"""A study on this machine by several jobs at once, each a process with its share of the processors.

Nets that are too small for the machine gain by it: two jobs of one core each do more than one job of two.
As on a cluster, a job works on an arm. Where arms are fewer than jobs, several work on one: each takes a
learning rate, or a group of seeds, that no other is at.
"""

import collections
import contextlib
import dataclasses
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any

from absl import logging

from resnet.errors import first_of
from resnet.files import make_folder
from resnet.processors import shares
from resnet.runtime.logs import log_to_stderr
from resnet.runtime.machine import prepare
from resnet.runtime.signals import STOPS, RunStopped, may_end_process
from resnet.studies.folder import StudyFolder, order_of_work, states
from resnet.studies.runner import Piece, log_progress, pieces_of_work, run_piece
from resnet.studies.stored import load_folder

LOOK_SECONDS = 30.0  # between looks for work that jobs have opened
LOG = "log.txt"
"""In the folder of an arm: what its jobs say."""


def share_devices() -> None:
    """Lets this process and those that it starts take memory of a GPU as they need it.

    To be called before JAX starts, which by default takes three quarters of it for the first process.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def run_in_jobs(
    folder: StudyFolder, only: tuple[str, ...], seeds_together: int | None, jobs: int, command: str
) -> dict[str, Any]:
    """Trains the runs that are left, by so many `jobs` at once; returns how many runs are in which state.

    `only` names arms; by default all take part. A stop is passed on once, so that every job saves, and raised
    as RunStopped when all have ended; a second one ends them at once. RunStopped names the jobs that failed,
    too, after the others have ended.
    """
    names = list(order_of_work(folder, only))
    with _Jobs(folder, jobs, command) as running:
        while True:
            log_progress(folder, names, jobs)
            running.start(pieces_of_work(folder, only, seeds_together))
            if not running.processes:
                break
            while not running.wait():  # a job may have chosen a learning rate, whose seeds others may train
                running.start(pieces_of_work(folder, only, seeds_together))
    if running.stopped is not None:
        name = signal.Signals(running.stopped).name
        message = f"stopped by {name}; the same command resumes the study"
        raise RunStopped(message, exit_code=128 + running.stopped)
    if running.failed:
        ends = [f"{piece} ended {how}" for piece, how in running.failed.items()]
        raise RunStopped(f"{first_of(ends)}; the same command tries again", exit_code=1)
    return states(folder) | {"workdir": str(folder.workdir)}


_Group = tuple[float | None, tuple[int, ...]]
"""A learning rate, and seeds that are trained as one program."""


@dataclasses.dataclass(frozen=True)
class _Job:
    """The work of one process."""

    piece: Piece
    cores: set[int]
    open_before: set[_Group]
    """The groups of the piece that were not over when the job began."""


class _Jobs:
    """The jobs that run. While this is entered, signals to stop reach them through it."""

    def __init__(self, folder: StudyFolder, jobs: int, command: str):
        self.folder, self.command = folder, command
        self.free = shares(jobs)
        self.processes: dict[SpawnProcess, _Job] = {}
        self.failed: dict[Piece, str] = {}
        """How the jobs of these ended."""
        self.held: dict[Piece, set[_Group]] = {}
        """The open groups of pieces in which a job found nothing to do, as other processes train them."""
        self.stopped: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "_Jobs":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._stop) for number in STOPS}
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def start(self, left: list[Piece]) -> None:
        """Gives each free share of the processors the piece that fewest jobs are at and that has room."""
        groups = {piece: _open(self.folder, piece) for piece in left if piece not in self.failed}
        left = [piece for piece in groups if groups[piece] != self.held.get(piece)]
        while self.free and self.stopped is None:
            at = collections.Counter(job.piece for job in self.processes.values())
            room = [piece for piece in left if at[piece] < len(groups[piece])]
            if not room:
                return
            piece = min(room, key=lambda piece: at[piece])
            self._start(_Job(piece, self.free.pop(0), groups[piece]))

    def _start(self, job: _Job) -> None:
        arguments = (self.folder.workdir, job.piece, self.command)
        process = multiprocessing.get_context("spawn").Process(target=_work, args=arguments)
        with _inherited(job.cores):
            process.start()
        self.processes[process] = job
        if self.stopped is not None:  # meanwhile
            process.terminate()
        logging.info("%s: process %d > %s", job.piece, process.pid, _log(self.folder, job.piece.arm))

    def wait(self) -> bool:
        """Waits until a job ends, or for LOOK_SECONDS; whether one has ended."""
        sentinels = [process.sentinel for process in self.processes]
        multiprocessing.connection.wait(sentinels, timeout=LOOK_SECONDS)
        ended = [process for process in self.processes if not process.is_alive()]
        for process in ended:
            job = self.processes.pop(process)
            self.free.append(job.cores)
            if process.exitcode and self.stopped is None:
                self.failed[job.piece] = _end(process.exitcode, _log(self.folder, job.piece.arm))
            elif _open(self.folder, job.piece) == job.open_before:
                self.held[job.piece] = job.open_before
        return bool(ended)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        for process in self.processes:
            process.terminate() if self.stopped is None else process.kill()
        self.stopped = number


def _open(folder: StudyFolder, piece: Piece) -> set[_Group]:
    """Groups of seeds, of each learning rate, that are not over: what jobs can be at side by side."""
    tried = [runs for runs in folder.grid(piece.arm).values() if not all(run.over for run in runs)]
    return {
        (run.learning_rate, group)
        for runs in tried or [folder.runs(piece.arm)]
        for group in piece.groups
        for run in runs
        if run.seed in group and not run.over
    }


def _end(code: int, log: Path) -> str:
    """How a job ended, by its exit code."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"by {name}" + (", as for lack of memory" if name == "SIGKILL" else "") + f" (log: {log})"
    return f"with an error, which stands in {log}"


def _log(folder: StudyFolder, arm: str) -> Path:
    return folder.workdir / arm / LOG


@contextlib.contextmanager
def _inherited(cores: set[int]) -> Iterator[None]:
    """A process that is started while this is entered may use these processors; all, where there are none."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _work(workdir: Path, piece: Piece, command: str) -> None:
    """What a job does: a piece, as far as no other job is at it."""
    os.setsid()  # so that Ctrl-C reaches the first process alone, which passes it on
    folder = load_folder(workdir)
    make_folder(_log(folder, piece.arm).parent)
    with _log(folder, piece.arm).open("ab") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    log_to_stderr()
    may_end_process()
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    prepare(folder.arms[piece.arm].config)
    try:
        run_piece(folder, piece, command)
    except RunStopped as stopped:
        logging.info("%s", stopped)
        sys.exit(stopped.exit_code)


def _end_with_the_first() -> None:
    """Stops this job when the process that started it has ended, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
