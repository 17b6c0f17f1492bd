"""The report of a study, finished or not: report.md, report.html (one file), two csv files and figures."""

import base64
import dataclasses
import math
from pathlib import Path
from typing import Any

from resnet.files import make_folder, write_text
from resnet.runs.provenance import last_session, origin, told_lines
from resnet.runs.tables import csv_table, markdown_table
from resnet.studies.folder import FAILURE, FINISHED, StudyFolder, StudyRun, states
from resnet.studies.grid import NO_SCORE, score_of
from resnet.studies.kept import CSV, PAGE, Kept
from resnet.studies.pages.paragraphs import paragraphs
from resnet.studies.pages.plots import plot_study
from resnet.studies.pages.rows import (
    ArmRow,
    Metric,
    arm_rows,
    curve_rows,
    metric_of,
    run_rows,
    scored_runs,
    value_of,
)

HTML, CURVES = "report.html", "curves.csv"
FEW = 12  # runs that the page lists one by one
TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with its heading."""

    title: str
    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Report:
    """What both pages say."""

    title: str
    status: str
    complete: bool
    paragraphs: list[str]
    tables: list[Table]
    figures: dict[str, str]
    """{file beside the page: what it shows}."""
    origin: list[tuple[str, str]]
    """How the numbers came about, as `provenance.origin` tells it."""


def write_report(folder: StudyFolder) -> dict[str, Any]:
    """Writes all files into the study's folder and returns the counts of its runs.

    Of a kept study, curves.csv stays as it is, and the page of one file is renewed where there is one.
    """
    make_folder(folder.workdir)
    rows, runs = arm_rows(folder), run_rows(folder)
    curves = curve_rows(scored_runs(folder), metric_of(folder))
    report = make_report(folder, rows, plot_study(folder, rows, curves))
    write_text(folder.workdir / CSV, csv_table(runs))
    if curves:
        write_text(folder.workdir / CURVES, csv_table(curves))
    write_text(folder.workdir / PAGE, _markdown(report, (folder.workdir / CURVES).exists()))
    if not isinstance(folder, Kept) or (folder.workdir / HTML).exists():
        write_text(folder.workdir / HTML, html(report, folder.workdir))
    return states(folder) | {"report": str(folder.workdir / PAGE)}


def make_report(folder: StudyFolder, rows: list[ArmRow], figures: dict[str, str]) -> Report:
    """The report's content; figures as plot_study gives them."""
    counts, metric = states(folder), metric_of(folder)
    complete = counts["unfinished"] == counts["not started"] == 0
    total = sum(counts.values())
    status = f"Complete: {counts['finished']} of {total} runs finished, {counts['failed']} failed."
    if not complete:
        others = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
        status = f"Unfinished: {others}, of {total} runs; every number below may still change."
    tables = [
        _table(rows, metric),
        _differences(rows, metric),
        _failures(folder),
        _grid(folder, metric),
        _matched(folder),
        _runs(folder, metric),
    ]
    return Report(
        title=folder.title,
        status=status,
        complete=complete,
        paragraphs=paragraphs(folder, rows, metric),
        tables=[table for table in tables if table.rows],
        figures=figures,
        origin=origin_of(folder),
    )


def _table(rows: list[ArmRow], metric: Metric) -> Table:
    """A row an arm."""
    headers = (
        "arm",
        "parameters",
        "MACs",
        "n",
        f"{metric.split} {metric.label}",
        "median",
        "epochs",
        "failed",
    )
    return Table("Arms", headers, [_row(row) for row in rows])


def _row(row: ArmRow) -> tuple[str, ...]:
    summary = row.summary
    values = ("", "", "")
    if summary:
        spread = f" ± {summary.std:.2f}" if summary.std is not None else ""
        values = (f"{summary.mean:.2f}{spread}", f"{summary.median:.2f}", f"{row.epochs:g}")
    n = summary.n if summary else 0
    counts = (f"{n} of {row.expected}" if n < row.expected else str(n), *values, str(row.failed))
    return (row.arm, f"{row.parameters:,}", f"{row.macs:,}", *counts)


def _differences(rows: list[ArmRow], metric: Metric) -> Table:
    """A row for each arm that has a reference, and seeds in common with it."""
    headers = ("arm", "compared with", "n", f"difference ({metric.unit})", "95 % interval", "unpaired",
               "correlation", "p (t)", "p (Holm)", "p (signs)", "n shows")  # fmt: skip
    return Table("Differences, paired by seed", headers, [_difference(row) for row in rows if row.comparison])


def _difference(row: ArmRow) -> tuple[str, ...]:
    found = row.comparison
    assert found is not None

    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    def ends(low: float | None, high: float | None) -> str:
        return "" if low is None else f"{low:+z.2f} to {high:+z.2f}"

    intervals = (ends(found.low, found.high), ends(found.unpaired_low, found.unpaired_high))
    ps = (number(p, ".4f") for p in (found.p, row.p_holm, found.p_signs))
    return (row.arm, row.reference, str(found.n), f"{found.mean:+z.2f}", *intervals,
            number(found.correlation, "+z.2f"), *ps, number(found.detectable, ".2f"))  # fmt: skip


def _failures(folder: StudyFolder) -> Table:
    runs = [run for name in folder.arms for run in folder.all_runs(name) if run.state == FAILURE]
    rows = [
        (run.arm, str(run.seed), "" if run.learning_rate is None else f"{run.learning_rate:g}", run.reason)
        for run in runs
    ]
    return Table("Failures", ("arm", "seed", "learning rate", "reason"), rows)


def _grid(folder: StudyFolder, metric: Metric) -> Table:
    """Every learning rate that was tried, with its mean score on validation."""
    rows = []
    for name in folder.arms:
        chosen, grid = folder.chosen_rate(name), folder.grid(name)
        for rate, runs in sorted(grid.items()):
            finished = [run.result for run in runs if run.state == FINISHED]
            accuracy, loss = score_of(finished) if finished else NO_SCORE
            values = (f"{abs(accuracy) * metric.factor:.2f}" if math.isfinite(accuracy) else "",
                      f"{-loss:.4f}" if math.isfinite(loss) else "")  # fmt: skip
            text = "chosen" if rate == chosen else ""
            if text and len(grid) > 1 and rate in (min(grid), max(grid)):
                text += ", at the end of the grid"
            failed = sum(run.over for run in runs) - len(finished)
            rows.append((name, f"{rate:g}", str(len(finished)), *values, str(failed), text))
    headers = ("arm", "learning rate", "n", f"validation {metric.label}", "validation loss", "failed", "")
    return Table("Learning rates, chosen on validation", headers, rows)


def _matched(folder: StudyFolder) -> Table:
    rows = [(name, arm.matched) for name, arm in folder.arms.items() if arm.matched]
    return Table("Matched budgets", ("arm", "reached"), rows)


def _runs(folder: StudyFolder, metric: Metric) -> Table:
    """Every run, where they are few."""
    runs = [run for name in folder.arms for run in folder.runs(name) if run.state == FINISHED]
    split = metric.split
    headers = ("arm", "seed", f"{split} {metric.label}", f"{split} loss", "step", "seconds")
    return Table("Runs", headers, [_run(run, metric) for run in runs] if len(runs) <= FEW else [])


def _run(run: StudyRun, metric: Metric) -> tuple[str, ...]:
    kinds = ((metric.name, metric.factor, ".2f"), ("loss", 1, ".4f"), ("step", 1, "g"), ("seconds", 1, ".0f"))
    numbers = [(value_of(run, name), factor, form) for name, factor, form in kinds]
    cells = ["" if number is None else format(number * factor, form) for number, factor, form in numbers]
    return (run.arm, str(run.seed), *cells)


def origin_of(folder: StudyFolder) -> list[tuple[str, str]]:
    """The study's starts, each at the commits that its runs saw, and what pages told of kept runs."""
    runs = [run for name in folder.arms for run in folder.all_runs(name)]
    states_seen = [session["git"] for run in runs if (session := last_session(run.workdir))]
    own = origin(
        [{**start, "git": git} for start in folder.sessions for git in states_seen or [start["git"]]]
    )
    return sorted(dict.fromkeys([*folder.told, *own]), key=lambda pair: pair[0])  # commands, commits, …


def _markdown(report: Report, with_curves: bool) -> str:
    """The page for a repository."""
    lines = [f"# {report.title}", "", f"**{report.status}**", ""]
    for paragraph in report.paragraphs:
        lines += [paragraph, ""]
    for table in report.tables:
        text = markdown_table(table.rows, table.headers, disable_numparse=True)
        lines += [f"## {table.title}", "", text, ""]
    for file, meaning in report.figures.items():
        lines += [f"![{meaning}]({file})", "", meaning, ""]
    lines += ["## How these numbers came about", ""]
    files = {"Every run": CSV} | ({"Learning curves": CURVES} if with_curves else {})
    links = [f"- {what}: [{file}]({file})" for what, file in files.items()]
    return "\n".join([*lines, *told_lines(report.origin), *links, ""])


def html(report: Report, folder: Path) -> str:
    """The same in one file, pictures inside."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    pictures = {file: base64.b64encode((folder / file).read_bytes()).decode() for file in report.figures}
    template = environment.from_string(TEMPLATE.read_text("utf-8"))
    return template.render(report=report, pictures=pictures, origin=report.origin)
