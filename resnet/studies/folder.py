"""A study's folder: its definition in study.json, a run's folder for each arm and seed, and their states.

S/study.json             what is asked: arms with whole configs, seeds, references
S/<arm>/seed0/           an ordinary run: config.json, metrics.jsonl, checkpoints, result.json
S/<arm>/lr0.05/seed0/    the same where the arm chooses its learning rate
S/<arm>/log.txt          what the jobs of this machine said
S/slurm/                 jobs of a cluster and their logs
…/failed.json            why a run came to no result
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnet.config import CONFIG_FILE
from resnet.data.config import DataConfig
from resnet.errors import InputError
from resnet.files import read_object
from resnet.runs.changes import what_decides
from resnet.runs.metrics.records import RESULT, read_metrics
from resnet.runs.open_run import FAILURE_FILE
from resnet.runs.task import FILE as TASK
from resnet.runs.task import load_task
from resnet.studies.grid import Score, best, further, score_of
from resnet.studies.study import Origin, ResolvedArm, rate_folder

# What to do about a damaged file: its run goes on from the last checkpoint, or the study begins it anew.
_AGAIN = "delete it and start the study again: the run goes on from its last checkpoint"
# Columns of runs.csv that are those of result.json under other names.
_TEST, _VALIDATION = ("top1", "top5", "mae", "loss", "n"), ("top1", "mae", "loss")
_OWN = ("step", "seconds", "seeds_together")
FINISHED, FAILURE, UNFINISHED, NOT_STARTED = "finished", "failed", "unfinished", "not started"


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """One run of a study, as its folder says."""

    arm: str
    seed: int
    learning_rate: float | None
    """None where the arm has no grid."""
    workdir: Path
    state: str
    """finished, failed, unfinished (resumed by the next start) or not started."""
    result: dict[str, Any]
    """result.json of a finished run, else {}."""
    reason: str = ""
    """Why it failed."""
    kept: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Its row of runs.csv, where no more of it is kept."""

    @property
    def over(self) -> bool:
        """Whether the run has ended, with a result or a failure."""
        return self.state in (FINISHED, FAILURE)


@dataclasses.dataclass(frozen=True)
class StudyFolder:
    """A study as its folder holds it, for reports and for jobs on other machines."""

    workdir: Path
    title: str
    paper: str
    table: str
    note: str
    seeds: tuple[int, ...]
    grid_seeds: int
    arms: dict[str, ResolvedArm]
    origin: Origin | None
    """File, scale and changes that the configs come from; None for a study made in Python."""
    sessions: tuple[dict[str, Any], ...]
    """When it was started, by which command, at which commit, on which versions."""
    rows: dict[Path, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Rows of runs.csv for runs whose folders are gone, by the folder of each run."""
    again: frozenset[Path] = frozenset()
    """Folders of failed runs that are trained again and do not count as over. study.json lists none."""
    told: tuple[tuple[str, str], ...] = ()
    """How these came about, as their page had it: ("Command", "python …") and the like."""
    gone: tuple[str, ...] = ()
    """Arms that ran, and that the study has no more."""

    def runs(self, name: str) -> list[StudyRun]:
        """The runs that the table counts: each seed, at the chosen rate; none before a rate is chosen.

        Where none can be chosen, those of the grid: the arm has no others.
        """
        arm = self.arms[name]
        if not arm.learning_rates:
            return [self.run(name, seed, None) for seed in self.seeds]
        rate = self.chosen_rate(name)
        if rate is not None:
            return [self.run(name, seed, rate) for seed in self.seeds]
        return self._tried(name) if self.has_no_rate(name) else []

    def grid(self, name: str) -> dict[float, list[StudyRun]]:
        """For each learning rate of an arm, the runs that it is chosen by.

        The rates are those of the study and, where the best of them is an end, further ones beyond it.
        """
        seeds, given = self.seeds[: self.grid_seeds], self.arms[name].learning_rates
        rates, grid = list(given), {}
        for rate in rates:
            grid[rate] = [self.run(name, seed, rate) for seed in seeds]
            if len(grid) == len(rates) and _over(grid) and (beyond := further(_scores(grid), given)):
                rates.append(beyond)
        return grid

    def all_runs(self, name: str) -> list[StudyRun]:
        """The runs of the table and of the grid, each once."""
        return list({run.workdir: run for run in self._tried(name) + self.runs(name)}.values())

    def _tried(self, name: str) -> list[StudyRun]:
        """The runs of the grid, one learning rate after the other."""
        return [run for runs in self.grid(name).values() for run in runs]

    def expected(self, name: str) -> int:
        """How many runs an arm takes in all."""
        rates = len(self.grid(name))
        tried = len(self.seeds[: self.grid_seeds])
        if self.has_no_rate(name):
            return rates * tried
        return len(self.seeds) + max(rates - 1, 0) * tried

    def has_no_rate(self, name: str) -> bool:
        """Whether the whole grid of an arm was tried and there is nothing to choose: at each rate a run
        failed, or has no score on validation."""
        tried = self._tried(name)
        return bool(tried) and all(run.over for run in tried) and self.chosen_rate(name) is None

    def chosen_rate(self, name: str) -> float | None:
        """The rate of best mean score on validation; None before the whole grid has been tried.

        None, too, where no rate has a score (`has_no_rate`): what diverged is no choice.
        """
        grid = self.grid(name)
        return best(_scores(grid)) if grid and _over(grid) else None

    def place(self, name: str, seed: int, rate: float | None) -> Path:
        """The folder of one run."""
        return self.workdir / name / ("" if rate is None else rate_folder(rate)) / f"seed{seed}"

    def run(self, name: str, seed: int, rate: float | None) -> StudyRun:
        """One run, in the state that its folder is in."""
        workdir = self.place(name, seed, rate)
        if workdir in self.rows and not (workdir / CONFIG_FILE).exists():
            return run_of_row(self.rows[workdir], workdir, rate)
        state, result, reason = NOT_STARTED, {}, ""
        if (workdir / RESULT).exists():
            state, result = FINISHED, read_object(workdir / RESULT, remedy=_AGAIN)
        elif (workdir / FAILURE_FILE).exists() and workdir not in self.again:
            told = read_object(workdir / FAILURE_FILE, "failed", remedy=_AGAIN)
            state, reason = FAILURE, str(told["failed"])
        elif (workdir / CONFIG_FILE).exists():
            state = UNFINISHED
        return StudyRun(name, seed, rate, workdir, state, result, reason)


def run_of_row(row: dict[str, Any], workdir: Path, rate: float | None) -> StudyRun:
    """Makes a run from its row of runs.csv. Without a score on test images, it has the one on validation."""
    tested = any(row[f"test_{name}"] is not None for name in ("top1", "mae"))  # a loss may be no number
    split = "test" if tested else "validation"
    result = {name: row.get(f"{split}_{name}") for name in _TEST} | {name: row.get(name) for name in _OWN}
    result |= {"split": split}
    validation = {name: row[f"validation_{name}"] for name in _VALIDATION}
    result = _without_none(result) | {"validation": _without_none(validation)}
    return StudyRun(row["arm"], row["seed"], rate, workdir, row["state"], result, row["reason"], row)


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _over(grid: dict[float, list[StudyRun]]) -> bool:
    """Whether every rate has been tried."""
    return all(run.over for runs in grid.values() for run in runs)


def _scores(grid: dict[float, list[StudyRun]]) -> dict[float, Score]:
    return {rate: score_of([run.result for run in runs]) for rate, runs in grid.items()}


def curve(run: StudyRun, split: str, metric: str) -> dict[float, float]:
    """A metric by epoch, without values that are missing or not finite."""
    records = read_metrics(run.workdir)
    return {r["epoch"]: r[metric] for r in records if r["split"] == split and r.get(metric) is not None}


def no_rate(name: str) -> str:
    """The message about an arm none of whose learning rates can be chosen."""
    return (
        f"No learning rate is chosen for arm {name}: at each one a run failed, or has no score on "
        "validation, so its other seeds are not trained."
    )


def images_of(run: StudyRun, split: str) -> str:
    """The fingerprint of the images that a run had in a split; empty if the run did not record it."""
    if run.kept:
        return run.kept.get("test_images", "") if split == "test" else ""
    return load_task(run.workdir).fingerprint.get(split, "") if (run.workdir / TASK).exists() else ""


def test_images(folder: StudyFolder, name: str) -> frozenset[str]:
    """The fingerprints of the test images of all runs that began, in this arm and arms with the same data."""

    def data(arm: str) -> DataConfig:
        return dataclasses.replace(what_decides(folder.arms[arm].config).data, dir="")

    own = data(name)
    alike = [run for other in folder.arms if data(other) == own for run in folder.all_runs(other)]
    return frozenset(images_of(run, "test") for run in alike) - {""}


def states(folder: StudyFolder) -> dict[str, int]:
    """How many runs are in each state."""
    runs = [run for name in folder.arms for run in folder.all_runs(name)]
    counts = {state: sum(run.state == state for run in runs) for state in (FINISHED, FAILURE, UNFINISHED)}
    waiting = sum(map(folder.expected, folder.arms)) - sum(counts.values())
    return counts | {NOT_STARTED: waiting}


def order_of_work(folder: StudyFolder, only: tuple[str, ...]) -> Iterator[str]:
    """The arms to run: all, or those named; InputError for an unknown name."""
    unknown = [name for name in only if name not in folder.arms]
    if unknown:
        raise InputError(f"--only: no arm is called {unknown[0]!r}; the arms are {', '.join(folder.arms)}")
    yield from (name for name in folder.arms if not only or name in only)
