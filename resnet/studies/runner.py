"""The work of a study: each arm's grid, then its seeds; what is finished is never repeated."""

import dataclasses
import datetime
import time
from typing import Any

from absl import logging

from resnet.studies.folder import StudyFolder, StudyRun, order_of_work, states
from resnet.training.lock import WorkdirHeld
from resnet.training.loop import train_seeds


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
    """What is left of the arms, all or those in `only`, cut into pieces that need not wait for each other.

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

    A run that fails is recorded with its reason, and the others go on; so they do where another process
    is at some of the runs. RunStopped, from a signal,
    ends the study, which the same command resumes.
    """
    progress = Progress(folder, list(dict.fromkeys(piece.arm for piece in pieces)))
    for piece in pieces:
        run_piece(folder, piece, command, progress)
    return states(folder) | {"workdir": str(folder.workdir)}


def run_piece(folder: StudyFolder, piece: Piece, command: str, progress: "Progress | None" = None) -> None:
    """Tries the arm's learning rates, if it has a grid, and then runs its seeds at the chosen one."""
    for runs in folder.grid(piece.arm).values():
        _run(folder, runs, piece.groups, command, progress)
    _run(folder, folder.runs(piece.arm), piece.groups, command, progress)


def _run(
    folder: StudyFolder,
    runs: list[StudyRun],
    groups: tuple[tuple[int, ...], ...],
    command: str,
    progress: "Progress | None",
) -> None:
    """Trains those of one config's seeds that are not over, group by group."""
    for group in groups:
        left = {run.seed: run for run in runs if run.seed in group and not run.over}
        if not left:
            continue
        first = next(iter(left.values()))
        config = folder.arms[first.arm].at(first.seed, first.learning_rate)
        logging.info("%s: seeds %s", first.workdir.parent, ", ".join(map(str, left)))
        try:
            outcomes = train_seeds(config, {seed: run.workdir for seed, run in left.items()}, command)
        except WorkdirHeld as held:
            logging.warning("%s; these seeds are left to it", held)
            continue
        for seed, outcome in outcomes.items():
            if "failed" in outcome:
                logging.warning("%s failed: %s", left[seed].workdir, outcome["failed"])
        if progress:
            progress.show()


class Progress:
    """How far the study is. The ETA takes a run's time to grow with its net's multiply-accumulates."""

    def __init__(self, folder: StudyFolder, names: list[str]):
        self.folder, self.names = folder, names
        self.started, self.before = time.monotonic(), self._work_done()
        self.show()

    def _work_done(self) -> float:
        arms = self.folder.arms
        return sum(arms[n].macs * sum(run.over for run in self.folder.all_runs(n)) for n in self.names)

    def show(self) -> None:
        """One line in the log; nothing where there is nothing to do."""
        folder, done = self.folder, self._work_done()
        whole = sum(folder.arms[name].macs * folder.expected(name) for name in self.names)
        over = sum(run.over for name in self.names for run in folder.all_runs(name))
        expected = sum(folder.expected(name) for name in self.names)
        eta = "?"
        if not expected:
            return
        if done > self.before:
            seconds = (time.monotonic() - self.started) * (whole - done) / (done - self.before)
            eta = str(datetime.timedelta(seconds=round(seconds)))
        logging.info("study: %d of %d runs, %.0f %% of the work, ETA %s", over, expected,
                     100 * done / whole, eta)  # fmt: skip
