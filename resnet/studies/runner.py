"""The work of a study: each arm's grid, then its seeds; what is finished is never repeated."""

import datetime
import time
from typing import Any

from absl import logging

from resnet.studies.folder import StudyFolder, StudyRun, order_of_work, states
from resnet.training.loop import train_seeds


def run_arms(folder: StudyFolder, only: tuple[str, ...] = (), command: str = "") -> dict[str, Any]:
    """Runs what is left of the arms, all or those in `only`, one after the other; counts the states.

    A run that fails is recorded with its reason, and the others go on. RunStopped, from a signal,
    ends the study, which the same command resumes.
    """
    names = list(order_of_work(folder, only))
    progress = Progress(folder, names)
    for name in names:
        run_arm(folder, name, command, progress)
    return states(folder) | {"workdir": str(folder.workdir)}


def run_arm(folder: StudyFolder, name: str, command: str, progress: "Progress | None" = None) -> None:
    """Tries the arm's learning rates, if it has a grid, and then runs its seeds at the chosen one."""
    for runs in folder.grid(name).values():
        _run(folder, runs, command, progress)
    _run(folder, folder.runs(name), command, progress)


def _run(folder: StudyFolder, runs: list[StudyRun], command: str, progress: "Progress | None") -> None:
    """Trains those of one config's seeds that are not over."""
    left = {run.seed: run for run in runs if not run.over}
    if not left:
        return
    first = next(iter(left.values()))
    config = folder.arms[first.arm].at(first.seed, first.learning_rate)
    logging.info("%s: seeds %s", first.workdir.parent, ", ".join(map(str, left)))
    outcomes = train_seeds(config, {seed: run.workdir for seed, run in left.items()}, command)
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
        """One line in the log."""
        folder, done = self.folder, self._work_done()
        whole = sum(folder.arms[name].macs * folder.expected(name) for name in self.names)
        over = sum(run.over for name in self.names for run in folder.all_runs(name))
        expected = sum(folder.expected(name) for name in self.names)
        eta = "?"
        if done > self.before:
            seconds = (time.monotonic() - self.started) * (whole - done) / (done - self.before)
            eta = str(datetime.timedelta(seconds=round(seconds)))
        logging.info("study: %d of %d runs, %.0f %% of the work, ETA %s", over, expected,
                     100 * done / whole, eta)  # fmt: skip
