"""A finished study of which runs.csv and the page are kept, as a study's folder: it can be judged anew."""

import ast
import csv
import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

from resnet import recipes
from resnet.config import config_hash, replaced
from resnet.errors import InputError
from resnet.files import local_path
from resnet.studies.folder import FILE, StudyFolder, StudyRun, load_folder, texts_of
from resnet.studies.study import ResolvedArm, load_study, resolve, with_base

CSV, PAGE = "runs.csv", "report.md"
STUDIES = recipes.HOME / recipes.FOLDERS["study"]
# Columns of runs.csv that are those of result.json under other names.
_TEST, _VALIDATION = ("top1", "top5", "mae", "loss", "n"), ("top1", "mae", "loss")
_OWN = ("step", "seconds", "seeds_together")


@dataclasses.dataclass(frozen=True)
class Kept(StudyFolder):
    """A study's folder whose runs are rows of a file."""

    rows: dict[Path, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """By the folder that the run had."""
    told: tuple[tuple[str, str], ...] = ()
    """How the numbers came about, as the page had it: ("Command", "python …") and the like."""

    def runs(self, name: str) -> list[StudyRun]:
        return [run for run in self.all_runs(name) if run.kept["in_table"]]

    def grid(self, name: str) -> dict[float, list[StudyRun]]:
        """The rates that were tried, by as many seeds as tried them all."""
        if not self.arms[name].learning_rates:
            return {}
        seeds, runs = self.seeds[: self.grid_seeds], self.all_runs(name)
        rates = dict.fromkeys(run.learning_rate for run in runs if run.learning_rate is not None)
        return {rate: [r for r in runs if r.learning_rate == rate and r.seed in seeds] for rate in rates}

    def chosen_rate(self, name: str) -> float | None:
        """That of the table, by the rule of its time."""
        return next((run.learning_rate for run in self.runs(name)), None)

    def all_runs(self, name: str) -> list[StudyRun]:
        grid = bool(self.arms[name].learning_rates)
        return [
            StudyRun(name, row["seed"], row["learning_rate"] if grid else None, workdir, row["state"],
                     _result(row), row["reason"], row)
            for workdir, row in self.rows.items()
            if row["arm"] == name
        ]  # fmt: skip


def open_study(workdir: str | Path) -> StudyFolder:
    """Opens a study from its folder. Of a kept study, the folder holds little more than runs.csv.

    The arms of a kept study are those that it ran of the file in configs/studies with the folder's name, at
    small scale.
    """
    folder = local_path(workdir)
    if (folder / FILE).exists() or not (folder / CSV).exists():
        return load_folder(folder)
    return load_kept(folder, STUDIES / f"{folder.resolve().name}.py", "small")


def load_kept(folder: Path, file: Path, scale: str) -> Kept:
    """The study in `file`, as the page's last command had it, with the runs of the folder's runs.csv.

    Arms that the file has gained since are left out. InputError where it has lost one, or changed a config.
    """
    told = _told(folder / PAGE)
    study = load_study(file, scale)
    try:
        with (folder / CSV).open(newline="") as lines:
            rows = [{name: _value(name, text) for name, text in row.items()} for row in csv.DictReader(lines)]
    except OSError as error:
        raise InputError(
            f"{folder / CSV} cannot be read: {error}; name a folder of results/studies"
        ) from None
    ran = {row["arm"] for row in rows}
    if lost := sorted(ran - study.arms.keys()):
        raise InputError(
            f"{folder / CSV} has runs of {lost[0]!r}, which is no arm of {file}; train the study anew"
        )
    study = dataclasses.replace(study, arms={name: arm for name, arm in study.arms.items() if name in ran})
    starts = [with_base(study, replaced(study.base, changes)) for changes in _overrides(told)]
    arms = [resolve(start) for start in starts]
    kept = Kept(
        workdir=folder,
        **texts_of(study),
        seeds=tuple(dict.fromkeys(row["seed"] for row in rows)),
        grid_seeds=_tried_all(rows),
        arms=arms[-1],
        origin=starts[-1].origin,
        sessions=(),
        rows={folder / row["workdir"]: row for row in rows},
        told=told,
    )
    _check(kept, arms)
    return kept


def _check(kept: Kept, starts: list[dict[str, ResolvedArm]]) -> None:
    """Raises InputError unless each run had the config that one of the study's starts gives it."""
    for name in kept.arms:
        for run in kept.all_runs(name):
            now = [config_hash(arms[name].at(run.seed, run.learning_rate)) for arms in starts]
            if run.kept["config_hash"] not in now:
                raise InputError(
                    f"{kept.workdir / CSV}: arm {name!r}, seed {run.seed} had config "
                    f"{run.kept['config_hash']}, and the study's file has {now[-1]} now; train the study anew"
                )


def _tried_all(rows: list[dict[str, Any]]) -> int:
    """The seeds that have a run outside of the table, which is one at a rate that was not chosen."""
    return len({row["seed"] for row in rows if not row["in_table"]})


def _told(page: Path) -> tuple[tuple[str, str], ...]:
    """The pairs of "- Command: `python …`" and the other lines on how the numbers came about."""
    lines = page.read_text().splitlines() if page.exists() else []
    found = [re.fullmatch(r"- (Command|Commit|Machine|Versions): (.*)", line) for line in lines]
    return tuple((match[1], match[2].strip("` ")) for match in found if match)


def _value(name: str, text: str) -> Any:
    """A cell of runs.csv: a number where it is one, None where it is empty."""
    if name in ("arm", "state", "reason", "config_hash", "commit", "workdir", "test_images"):
        return text
    if name == "in_table":
        return text == "True"
    return (int(text) if re.fullmatch(r"\d+", text) else float(text)) if text else None


def _result(row: dict[str, Any]) -> dict[str, Any]:
    """result.json as far as the row tells."""
    result = {name: row[f"test_{name}"] for name in _TEST} | {name: row.get(name) for name in _OWN}
    validation = {name: row[f"validation_{name}"] for name in _VALIDATION}
    return _without_none(result) | {"validation": _without_none(validation)}


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _overrides(told: tuple[tuple[str, str], ...]) -> list[dict[str, Any]]:
    """The fields that the commands of a page set, for each command, such as {"train.steps_per_call": 20}.

    They follow the order of the commands, without repetitions. A page without a command gives [{}].
    """
    sets = [_set_by(text) for label, text in told if label == "Command"] or [{}]
    return [each for i, each in enumerate(sets) if each not in sets[i + 1 :]]


def _set_by(command: str) -> dict[str, Any]:
    found = {}
    for word in shlex.split(command):
        if match := re.fullmatch(r"--config\.([\w.]+)=(.*)", word):
            try:
                found[match[1]] = ast.literal_eval(match[2])
            except (SyntaxError, ValueError):
                found[match[1]] = match[2]
    return found
