"""Reads a study back from its page and runs.csv, to judge it anew or to continue it."""

import ast
import collections
import csv
import dataclasses
import io
import math
import re
import shlex
from pathlib import Path
from typing import Any

from resnet import recipes
from resnet.config import Config, as_tuples, config_hash, field_types, field_values, replaced
from resnet.errors import InputError
from resnet.fields import present_name, unknown_field
from resnet.files import local_path
from resnet.runs.changes import may_differ_elsewhere
from resnet.studies.folder import (
    FAILURE,
    FINISHED,
    NOT_STARTED,
    UNFINISHED,
    StudyFolder,
    StudyRun,
    run_of_row,
)
from resnet.studies.stored import FILE, load_folder, texts_of
from resnet.studies.study import ResolvedArm, Study, load_study, resolve, with_base

CSV, PAGE = "runs.csv", "report.md"
STUDIES = recipes.HOME / recipes.FOLDERS["study"]
_AGAIN = "take the file from version control again, or from where the study was trained"
# What the columns of runs.csv hold: text, a number or one of some values.
_COLUMNS: dict[str, Any] = {
    **dict.fromkeys(("arm", "reason", "config_hash", "commit", "workdir"), str),
    **dict.fromkeys(("seed", "test_n", "step", "parameters", "macs", "seeds_together"), int),
    **dict.fromkeys(("learning_rate", "epoch", "seconds", "seconds_per_step_and_seed"), float),
    **dict.fromkeys(("test_top1", "test_top5", "test_mae", "test_loss"), float),
    **dict.fromkeys(("validation_top1", "validation_mae", "validation_loss"), float),
    "in_table": (True, False),
    "state": (FINISHED, FAILURE, UNFINISHED, NOT_STARTED),
}
_ADDED: dict[str, Any] = {"test_images": str}  # which older files do not have
_NEEDED = ("seed", "learning_rate", "parameters", "macs")  # numbers that every run has
_Arms = dict[str, ResolvedArm]


@dataclasses.dataclass(frozen=True)
class Kept(StudyFolder):
    """A study's folder whose runs are rows of a file."""

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
        """The learning rate of the table's runs; None where there are several, as none was chosen."""
        rates = {run.learning_rate for run in self.runs(name)}
        return rates.pop() if len(rates) == 1 else None

    def all_runs(self, name: str) -> list[StudyRun]:
        grid = bool(self.arms[name].learning_rates)
        return [
            run_of_row(row, workdir, row["learning_rate"] if grid else None)
            for workdir, row in self.rows.items()
            if row["arm"] == name
        ]


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
    told, rows = _told(folder / PAGE), _rows(folder / CSV)
    study = load_study(file, scale)
    ran = {row["arm"] for row in rows}
    if lost := sorted(ran - study.arms.keys()):
        raise InputError(
            f"{folder / CSV} has runs of {lost[0]!r}, which is no arm of {file}; train the study anew"
        )
    study = dataclasses.replace(study, arms={name: arm for name, arm in study.arms.items() if name in ran})
    overrides = _overrides(told, folder / PAGE)
    last = with_base(study, replaced(study.base, overrides[-1]))
    arms = resolve(last)
    kept = Kept(
        workdir=folder,
        **texts_of(study),
        seeds=tuple(dict.fromkeys(row["seed"] for row in rows)),
        grid_seeds=_tried_all(rows),
        arms=arms,
        origin=last.origin,
        sessions=(),
        rows={folder / row["workdir"]: row for row in rows},
        told=told,
    )
    starts = [_as_started(arms, last, replaced(study.base, each), decisive=True) for each in overrides]
    _check(kept, starts, folder / CSV, "train the study anew")
    return kept


def with_kept(folder: StudyFolder, study: Study, page: Path | None) -> StudyFolder:
    """The folder with the runs that ended on a kept page of this study, and those of pages given earlier.

    The seeds of its table become seeds of the study, as if an earlier start had named them: the first of them
    choose the learning rates, unless the folder was begun without them. A run that the folder has itself
    stays. InputError for an arm on the page that the study does not have, and for a run whose config would
    give other numbers.
    """
    if page is not None:
        told, rows = _told(page / PAGE), _rows(page / CSV)
        if unknown := sorted({row["arm"] for row in rows} - folder.arms.keys()):
            raise InputError(
                f"--kept: {page / CSV} has runs of {unknown[0]!r}; the arms are {', '.join(folder.arms)}"
            )
        ended = {_place(folder, row): row for row in rows if row["state"] in (FINISHED, FAILURE)}
        told = tuple(dict.fromkeys(folder.told + told))
        its, own = [row["seed"] for row in rows if row["in_table"]], folder.seeds
        seeds = [*own, *its] if len(folder.sessions) > 1 else [*its, *own]
        folder = dataclasses.replace(
            folder, rows=folder.rows | ended, told=told, seeds=tuple(dict.fromkeys(seeds))
        )
    if not folder.rows:
        return folder
    source = page / PAGE if page else folder.workdir / FILE
    file = load_study(study.origin.file, study.origin.scale) if study.origin else study
    overrides = _overrides(folder.told, source)
    starts = [_as_started(folder.arms, study, replaced(file.base, each)) for each in overrides]
    remedy = "give the --config flags of its command too, or begin another workdir without it"
    _check(folder, starts, page / CSV if page else folder.workdir / FILE, remedy)
    return folder


def _as_started(arms: _Arms, study: Study, base: Config, decisive: bool = False) -> _Arms:
    """Returns the arms with the configs that they had when an earlier command started the study on `base`.

    Fields that decide numbers keep their values; if `decisive`, only those that an arm has by matching.
    All others are those of `base`, and so is the folder of the images. Reads no images.
    """
    found = {}
    for name, arm in arms.items():
        changes = study.arms[name].changes
        there, plain = (field_values(replaced(each, changes)) for each in (base, study.base))
        now = field_values(arm.config)
        free = {f: there[f] for f in there if may_differ_elsewhere(f) or (decisive and plain[f] == now[f])}
        found[name] = dataclasses.replace(arm, config=replaced(arm.config, free))
    return found


def _place(folder: StudyFolder, row: dict[str, Any]) -> Path:
    """Returns the folder that this study gives to the run of a row."""
    rate = row["learning_rate"] if folder.arms[row["arm"]].learning_rates else None
    return folder.place(row["arm"], row["seed"], rate)


def _check(folder: StudyFolder, starts: list[_Arms], source: Path, remedy: str) -> None:
    """Raises InputError for a kept run whose config is given by none of the study's starts."""
    for run in (run for name in folder.arms for run in folder.all_runs(name) if run.kept):
        now = [config_hash(arms[run.arm].at(run.seed, run.learning_rate)) for arms in starts]
        if run.kept["config_hash"] not in now:
            raise InputError(
                f"{source}: arm {run.arm!r}, seed {run.seed} had config {run.kept['config_hash']}, and the "
                f"study has {now[-1]} now; {remedy}"
            )


def _tried_all(rows: list[dict[str, Any]]) -> int:
    """How many seeds tried the whole grid: those with a run at a learning rate that was not chosen."""
    counted = {(row["arm"], row["learning_rate"]) for row in rows if row["in_table"]}
    several = {arm for arm, times in collections.Counter(arm for arm, _ in counted).items() if times > 1}
    return len({row["seed"] for row in rows if not row["in_table"] or row["arm"] in several})


def _rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a runs.csv; InputError, naming the line and the column, if it is missing or damaged."""
    lines = csv.reader(io.StringIO(_text(file)), strict=True)
    rows = []
    try:
        names = next(lines, [])
        for column in (*_COLUMNS, *names):
            if column not in names or column not in (*_COLUMNS, *_ADDED):
                raise ValueError(f"column {column!r} is {'unknown' if column in names else 'missing'}")
        for cells in filter(None, lines):
            if len(cells) != len(names):
                raise ValueError(f"has {len(cells)} cells, and there are {len(names)} columns")
            rows.append({name: _value(name, text) for name, text in zip(names, cells, strict=True)})
    except (ValueError, csv.Error) as error:
        raise InputError(f"{file}, line {lines.line_num}: {error}; {_AGAIN}") from None
    if not rows:
        raise InputError(f"{file} holds no runs; {_AGAIN}")
    return rows


def _told(page: Path) -> tuple[tuple[str, str], ...]:
    """The pairs of "- Command: `python …`" and the other lines on how the numbers came about."""
    lines = _text(page).splitlines() if page.exists() else []
    found = [re.fullmatch(r"- (Command|Commit|Machine|Versions): (.*)", line) for line in lines]
    return tuple((match[1], match[2].strip("` ")) for match in found if match)


def _text(file: Path) -> str:
    """The text of a file of a kept study; InputError if it cannot be read, or was cut short."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error}; name a folder of results/studies") from None
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file}, line {line}: {content[error.start :][:1]} is no UTF-8; {_AGAIN}") from None
    if not text.endswith("\n"):
        raise InputError(f"{file} is {'cut short in its last line' if text else 'empty'}; {_AGAIN}")
    return text


def _value(name: str, text: str) -> Any:
    """A cell of runs.csv: a number where it is one, None where it is empty; ValueError for another."""
    kind = (_COLUMNS | _ADDED)[name]
    if kind is str:
        return text
    if isinstance(kind, tuple):
        if text not in map(str, kind):
            raise ValueError(f"column {name!r} must be one of {', '.join(map(str, kind))}; got {text!r}")
        return next(each for each in kind if str(each) == text)
    if not text and name not in _NEEDED:
        return None
    try:
        number = int(text) if kind is int or re.fullmatch(r"\d+", text) else float(text)
        if not abs(number) < math.inf:
            raise ValueError("not finite")
    except ValueError:
        raise ValueError(
            f"column {name!r} must be a {'whole ' * (kind is int)}number; got {text!r}"
        ) from None
    return number


def _overrides(told: tuple[tuple[str, str], ...], source: Path) -> list[dict[str, Any]]:
    """The fields that the commands of a page set, for each command, such as {"train.steps_per_call": 20}.

    They follow the order of the commands, without repetitions. A page without a command gives [{}].
    InputError, naming the file `source`, for a line that is no command.
    """
    sets = [_set_by(text, source) for label, text in told if label == "Command"] or [{}]
    return [each for i, each in enumerate(sets) if each not in sets[i + 1 :]]


def _set_by(command: str, source: Path) -> dict[str, Any]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"{source}: the Command {command!r} cannot be read: {error}; {_AGAIN}") from None
    found, kinds = {}, field_types()
    for word in words:
        if match := re.fullmatch(r"--?(no)?config\.([\w.]+)(?:=(.*))?", word, re.DOTALL):
            off, name, text = match.groups()
            if present_name(name) not in kinds:
                raise InputError(f"{source}: the Command {command!r}: {unknown_field(name)}; {_AGAIN}")
            given = "false" if off else "true" if text is None else text
            found[name] = _as_given(kinds[present_name(name)], given)
    return found


def _as_given(kind: str, text: str) -> Any:
    """The value that the command line takes a text for, in a field of this kind."""
    if kind == "str":
        return text
    if kind.startswith("bool") and text.lower() in ("true", "t", "1", "false", "f", "0"):
        return text.lower() in ("true", "t", "1")
    if kind == "tuple[str, ...]" and text and text[0] not in "(['\"":
        return tuple(item.strip() for item in text.split(","))
    if kind.startswith("tuple") and not text:
        return ()
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return text
    return (value,) if kind.startswith("tuple") and not isinstance(value, tuple | list) else as_tuples(value)
