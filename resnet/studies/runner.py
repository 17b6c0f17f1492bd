"""The work of a study: each arm's grid, then its seeds; what is finished is never repeated."""

import contextlib
import dataclasses
import datetime
import logging as python_logging
from collections.abc import Iterator
from typing import Any

from absl import logging

from resnet.config import Config
from resnet.durations import parse_duration
from resnet.runs.lock import WorkdirHeld, is_held
from resnet.runs.metrics import records
from resnet.runtime.processes import first_says
from resnet.studies.folder import StudyFolder, StudyRun, no_rate, order_of_work, states, test_images
from resnet.training.loop import check_packages, train


@dataclasses.dataclass(frozen=True)
class Piece:
    """What one process does from beginning to end: seeds of an arm."""

    arm: str
    groups: tuple[tuple[int, ...], ...]
    """Seeds; those of a group are trained as one program."""

    def __str__(self) -> str:
        return f"{self.arm}: seeds {', '.join(str(seed) for group in self.groups for seed in group)}"


def pieces_of_work(
    folder: StudyFolder, only: tuple[str, ...] = (), seeds_together: int | None = None
) -> list[Piece]:
    """Cuts the runs that are left of all arms, or of those in `only`, into pieces independent of each other.

    An arm that chooses its learning rate is one piece, because all its seeds wait for the choice;
    elsewhere each group of `seeds_together` seeds, all by default, is one.
    """
    size, pieces = seeds_together or len(folder.seeds), []
    for name in order_of_work(folder, only):
        if sum(run.over for run in folder.all_runs(name)) == folder.expected(name):
            continue
        groups = tuple(folder.seeds[i : i + size] for i in range(0, len(folder.seeds), size))
        if folder.arms[name].learning_rates:
            pieces.append(Piece(name, groups))
            continue
        left = {run.seed for run in folder.runs(name) if not run.over}
        pieces += [Piece(name, (group,)) for group in groups if left & set(group)]
    return pieces


def run_pieces(folder: StudyFolder, pieces: list[Piece], command: str = "") -> dict[str, Any]:
    """Runs the pieces one after the other; counts the states.

    A run that fails is recorded with its reason, and the others go on. Runs that another process trains are
    left to it. RunStopped, from a signal, ends the study; the same command resumes it.
    """
    names = list(dict.fromkeys(piece.arm for piece in pieces))
    for name in names:
        check_packages(folder.arms[name].config)
    for piece in pieces:
        log_progress(folder, names)
        run_piece(folder, piece, command)
    if pieces:
        log_progress(folder, names)
    return states(folder) | {"workdir": str(folder.workdir)}


def run_piece(folder: StudyFolder, piece: Piece, command: str) -> None:
    """Tries the arm's learning rates, if it has a grid, and then runs its seeds at the chosen one."""
    tried = 0
    while len(grid := list(folder.grid(piece.arm).values())) > tried:  # it grows where its end wins
        for runs in grid[tried:]:
            _run(folder, runs, piece.groups, command)
        tried = len(grid)
    if folder.has_no_rate(piece.arm):
        logging.warning("%s", no_rate(piece.arm))
    _run(folder, folder.runs(piece.arm), piece.groups, command)


def _run(
    folder: StudyFolder, runs: list[StudyRun], groups: tuple[tuple[int, ...], ...], command: str
) -> None:
    """Trains the unfinished seeds of one config, group by group."""
    for group in groups:
        # As they are now: another process may have ended some since `runs` was read.
        now = (folder.run(run.arm, run.seed, run.learning_rate) for run in runs if run.seed in group)
        left = {run.seed: run for run in now if not run.over}
        outcomes = _train(folder, left, command, len(group))
        # Other processes of a run go on once the first has written what the next choice is made by.
        first_says(lambda: None)
        for seed, outcome in outcomes.items():
            if "failed" in outcome:
                logging.warning("%s failed: %s", left[seed].workdir, outcome["failed"])


def _train(folder: StudyFolder, left: dict[int, StudyRun], command: str, began: int) -> dict[int, Any]:
    """Trains seeds of one config together; returns the outcomes of those that no other process trains.

    They are what is left of `began` seeds.
    """
    while left:
        first = next(iter(left.values()))
        config = folder.arms[first.arm].at(first.seed, first.learning_rate)
        logging.info("%s: seeds %s", first.workdir.parent, ", ".join(map(str, left)))
        try:
            with _without_metrics():
                return train(
                    config,
                    {seed: run.workdir for seed, run in left.items()},
                    command,
                    began=began,
                    test_images=test_images(folder, first.arm),
                )
        except WorkdirHeld as held:
            taken = _held(left)
            logging.warning("%s; seeds %s are left to it", held, ", ".join(map(str, taken)))
            left = {seed: run for seed, run in left.items() if seed not in taken}
    return {}


def _held(runs: dict[int, StudyRun]) -> list[int]:
    """Returns the seeds that other processes train; all seeds if no such process can be seen any more."""
    return first_says(lambda: [seed for seed, run in runs.items() if is_held(run.workdir)]) or list(runs)


def log_progress(folder: StudyFolder, names: list[str], jobs: int = 1) -> None:
    """How far the study is, with so many jobs at work.

    The ETA takes a run's time to grow with its net's multiply-accumulates and with its images; those of
    durations in epochs, among others in steps, are not compared. Kept runs, which may be another machine's,
    say nothing of this one's speed.
    """
    work = {name: folder.arms[name].macs * _amount(folder.arms[name].config) for name in names}
    runs = [run for name in names for run in folder.all_runs(name)]
    expected = sum(map(folder.expected, names))
    whole = sum(work[name] * folder.expected(name) for name in names)
    done = sum(work[run.arm] for run in runs if run.over)
    timed = [run for run in runs if "seconds" in run.result and not run.kept]
    seconds = sum(run.result["seconds"] / run.result.get("seeds_together", 1) for run in timed)
    eta = "?"
    if measured := sum(work[run.arm] for run in timed):
        eta = str(datetime.timedelta(seconds=round(seconds / measured * (whole - done) / jobs)))
    over, share = sum(run.over for run in runs), 100 * done / whole if whole else 100
    logging.info("study: %d of %d runs, %.0f %% of the work, ETA %s", over, expected, share, eta)


def _amount(config: Config) -> float:
    """Returns how many images a training takes, or how many epochs if its duration is in epochs."""
    duration = parse_duration("train.duration", config.train.duration)
    return duration.amount * (config.train.batch_size if duration.unit == "steps" else 1)


@contextlib.contextmanager
def _without_metrics() -> Iterator[None]:
    """Keeps the metrics of single runs, which metrics.jsonl has, out of the log; warnings stay."""

    def is_other(record: python_logging.LogRecord) -> bool:
        return record.levelno > python_logging.INFO or record.pathname != records.__file__

    handler = logging.get_absl_handler()
    handler.addFilter(is_other)
    try:
        yield
    finally:
        handler.removeFilter(is_other)
