"""Runs while they go: how far each is, its curves and the time that is left, as a table or a page."""

import datetime
import io
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from resnet.config import CONFIG_FILE, load_saved_config
from resnet.durations import parse_duration
from resnet.errors import InputError
from resnet.files import replacing
from resnet.runs import lock
from resnet.runs.metrics.records import EPOCH_DIGITS, RESULT, read_metrics
from resnet.runs.open_run import FAILURE_FILE
from resnet.studies import stored
from resnet.studies.folder import FAILURE, FINISHED, NOT_STARTED
from resnet.studies.kept import CSV, open_study

# What a study calls unfinished: a process is at it, or none is.
TRAINING, STOPPED = "training", "stopped"
BARS = "▁▂▃▄▅▆▇█"
POINTS = 16  # of a curve
ROUNDED = 0.501 * 10**-EPOCH_DIGITS  # how far the epoch of a record may be from that of its step
PAGE_WIDTH = 150  # letters


@dataclass(frozen=True)
class View:
    """A run at one moment."""

    name: str
    state: str
    step: int = 0
    total: int = 0
    """Steps of the whole training; 0 where they are not known yet."""
    loss: tuple[float, ...] = ()
    """The training loss, from the first record to the last."""
    score: tuple[float, ...] = ()
    """Likewise top-1 accuracy in per cent, or the mean absolute error, on validation."""


class Watch:
    """The runs of a folder, looked at again and again."""

    def __init__(self, workdir: Path):
        """`workdir` is a run's folder, a study's, or one with runs in it. InputError if it holds none."""
        self.workdir = workdir
        self._first: dict[str, tuple[int, float]] = {}
        self.look()

    def look(self) -> list[View]:
        """Every run as its folder has it now."""
        views = [view(name, path) for name, path in runs_in(self.workdir).items()]
        for each in views:
            begun, _ = self._first.get(each.name, (0, 0.0))
            if each.state != TRAINING or each.step < begun:  # it waits, or went back to a checkpoint
                self._first.pop(each.name, None)
            if each.state == TRAINING:
                self._first.setdefault(each.name, (each.step, time.monotonic()))
        return views

    def seconds_left(self, view: View) -> float | None:
        """The time until a run ends, by its speed since it was first seen at work; None where unknown."""
        first, begun = self._first.get(view.name, (view.step, 0.0))
        if view.state != TRAINING or not view.total or view.step <= first:
            return None
        return (time.monotonic() - begun) / (view.step - first) * (view.total - view.step)

    def table(self, views: Sequence[View]) -> Table:
        """A row for each run."""
        over = sum(is_over(view) for view in views)
        table = Table(title=Text(f"{self.workdir}: {over} of {len(views)} runs are over"))
        for heading in ("run", "state", "", "step", "loss", "validation", "time left"):
            table.add_column(heading, justify="right" if heading in ("step", "time left") else "left")
        for each in views:
            bar = ProgressBar(total=each.total or 1, completed=each.step if each.total else 0, width=16)
            left = self.seconds_left(each)
            table.add_row(
                Text(each.name),
                each.state,
                bar,
                f"{each.step:,} of {each.total:,}" if each.total else "",
                _curve(each.loss, ".3g"),
                _curve(each.score, ".2f"),
                "" if left is None else str(datetime.timedelta(seconds=round(left))),
            )
        return table


def is_over(view: View) -> bool:
    """Whether nothing will come of a run any more."""
    return view.state in (FINISHED, FAILURE)


def runs_in(workdir: Path) -> dict[str, Path]:
    """The folders of runs by name: those of a study, begun or not, else all that lie in the folder.

    Of a study's kept runs there is no folder, and nothing to watch.
    """
    begun = (workdir / stored.FILE).exists()  # then its runs are known without a search
    runs = [] if begun else sorted(path.parent for path in workdir.rglob(CONFIG_FILE))
    if begun or ((workdir / CSV).exists() and not runs):
        study = open_study(workdir)
        found = [run.workdir for name in study.arms for run in study.all_runs(name) if not run.kept]
        missing = f"of {workdir} only the results of runs are kept: resnet report shows them"
    else:
        found = runs
        missing = f"{workdir} holds neither runs nor a study; a run is there once its training begins"
    if not found:
        raise InputError(missing)
    own = workdir.resolve().name  # "." has no name
    return {path.relative_to(workdir).as_posix() if path != workdir else own: path for path in found}


def view(name: str, workdir: Path) -> View:
    """A run as its files have it."""
    if not (workdir / CONFIG_FILE).exists():
        return View(name, NOT_STARTED)
    records = read_metrics(workdir)
    step, epoch = max(((record["step"], record["epoch"]) for record in records), default=(0, 0))
    return View(
        name,
        _state(workdir),
        step,
        _total(workdir, step, epoch),
        _values(records, "train", "loss"),
        tuple(100 * value for value in _values(records, "validation", "top1"))
        or _values(records, "validation", "mae"),
    )


def html_page(table: Table, every: float) -> str:
    """The table as HTML that loads itself again after `every` seconds."""
    console = Console(record=True, width=PAGE_WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(table)
    refresh = f'<meta http-equiv="refresh" content="{max(1, round(every))}">'
    return console.export_html(inline_styles=True).replace("<head>", f"<head>\n{refresh}", 1)


def write_page(table: Table, every: float, path: Path) -> None:
    """Writes the page, whole."""
    with replacing(path) as temporary:
        temporary.write_text(html_page(table, every), "utf-8")


def _state(workdir: Path) -> str:
    for name, state in ((RESULT, FINISHED), (FAILURE_FILE, FAILURE)):
        if (workdir / name).exists():
            return state
    return TRAINING if lock.is_held(workdir) else STOPPED


def _total(workdir: Path, step: int, epoch: float) -> int:
    """The number of steps of the whole training; 0 while the length of an epoch is needed and not known."""
    train = load_saved_config(workdir).train
    duration = parse_duration("train.duration", train.duration)
    steps_per_epoch = _steps_per_epoch(step, epoch)
    if duration.unit == "epochs" and not steps_per_epoch:
        return 0
    return duration.steps(batch_size=train.batch_size, steps_per_epoch=steps_per_epoch)


def _steps_per_epoch(step: int, epoch: float) -> int:
    """The one whole number with which `step` is at this epoch, as records round it; 0 where several are."""
    if not epoch > ROUNDED:
        return 0
    least, most = math.ceil(step / (epoch + ROUNDED)), math.floor(step / (epoch - ROUNDED))
    return least if least == most else 0


def _values(records: Iterable[dict[str, Any]], split: str, metric: str) -> tuple[float, ...]:
    return tuple(r[metric] for r in records if r["split"] == split and r.get(metric) is not None)


def _curve(values: Sequence[float], form: str) -> str:
    """The last value, and before it the values from the lowest to the highest bar."""
    if not values:
        return ""
    drawn = [values[round(i * (len(values) - 1) / (POINTS - 1))] for i in range(POINTS)]
    drawn = drawn if len(values) > POINTS else list(values)
    low, high = min(drawn), max(drawn)
    scale = (len(BARS) - 1) / (high - low) if math.isfinite(high - low) and high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in drawn) + f" {values[-1]:{form}}"
