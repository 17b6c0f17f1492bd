"""The figures of a study: curves, paired differences, and those of an amount."""

from collections.abc import Mapping, Sequence
from typing import Any

from resnet.analysis.pictures import COLORS, legend_beside, panels, style
from resnet.files import save_png
from resnet.studies.folder import FINISHED, StudyFolder, StudyRun
from resnet.studies.kept import Kept
from resnet.studies.pages.amounts import DEPTH, DURATION, TOP, WIDTH, draw_grids, draw_last, series_of
from resnet.studies.pages.rows import ArmRow, Metric, metric_of, scored_runs, scores

MOST_CURVES = 14  # more lines than that cannot be told apart
WIDE = 20  # differences beyond it would hide the small ones on a linear axis


FIGURES = {
    "depth.png": "Last epoch against depth: each dot a seed, lines through the means.",
    "width.png": "Last epoch against width: each dot a seed, lines through the means.",
    "duration.png": (
        "Last epoch against the length of the training: each dot a seed, lines through the means."
    ),
    "rates.png": (
        "Validation loss against learning rate, a line for each depth, width or length of training: means "
        f"over the seeds that try the whole grid, drawn at {TOP:g} where they are higher; the filled mark is "
        "the chosen rate."
    ),
    "curves.png": "Learning curves: means over seeds, bands from the lowest to the highest.",
    "differences.png": (
        "Paired differences to the reference arm: each dot a seed, the mean with its 95 % interval."
    ),
}
"""What each file shows, in the order of the page."""


def plot_study(
    folder: StudyFolder, rows: list[ArmRow], curves: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Draws what the runs so far allow; {file name: what it shows}. `curves` as curve_rows gives them.

    Of a kept study the differences alone are drawn anew: the other figures stay as they are.
    """
    finished = {name: [r for r in folder.runs(name) if r.state == FINISHED] for name in folder.arms}
    finished = {name: runs for name, runs in finished.items() if runs}
    if not finished:
        return {}
    metric, drawn = metric_of(folder), {}
    if any(row.comparison for row in rows):
        drawn["differences.png"] = _differences(folder, rows, metric)
    kept = isinstance(folder, Kept)
    if not kept:
        drawn |= _of_runs(folder, finished, metric, curves)
    for name, figure in drawn.items():
        save_png(figure, folder.workdir / name)
    shown = {name for name in FIGURES if name in drawn or (kept and (folder.workdir / name).exists())}
    return {name: meaning for name, meaning in FIGURES.items() if name in shown}


def _of_runs(
    folder: StudyFolder,
    finished: dict[str, list[StudyRun]],
    metric: Metric,
    curves: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The figures that need the records of the runs."""
    drawn: dict[str, Any] = {}
    # An arm for which no learning rate could be chosen has runs at all of them, and no score.
    scored = scored_runs(folder)
    for amount in (DEPTH, WIDTH, DURATION):
        if series := series_of(amount, folder, scored):
            drawn[f"{amount.name}.png"] = draw_last(amount, folder, series, scored, metric)
        series = series_of(amount, folder, finished)
        if any(len(folder.grid(arm)) > 1 for arms in series.values() for arm in arms.values()):
            drawn["rates.png"] = draw_grids(amount, folder, series)
    recorded = {row["arm"] for row in curves if (row["split"], row["metric"]) == ("train", "loss")}
    if scored and scored.keys() == recorded and len(scored) <= MOST_CURVES:
        drawn["curves.png"] = _curves(list(scored), metric, curves)
    return drawn


def _curves(arms: list[str], metric: Metric, curves: Sequence[Mapping[str, Any]]) -> Any:
    """Draws training loss and validation score by epoch, for each arm the mean of its runs with records."""
    figure, both = panels(2, width=4.6, height=max(3.6, 0.26 * len(arms)))
    shown = (("train", "loss", "training loss", 1.0), ("validation", metric.name,
              f"validation {metric.label}", metric.factor))  # fmt: skip
    for axes, (split, name, label, factor) in zip(both, shown, strict=True):
        for i, arm in enumerate(arms):
            rows = [row for row in curves if (row["arm"], row["split"], row["metric"]) == (arm, split, name)]
            if not rows:  # such as a run that validates at no step
                continue
            epochs = [row["epoch"] for row in rows]
            mean, low, high = ([factor * row[key] for row in rows] for key in ("mean", "lowest", "highest"))
            point = {"marker": "o", "markersize": 3} if len(rows) == 1 else {}  # no line would be seen
            axes.plot(epochs, mean, label=f"{arm} (n = {rows[0]['n']})", **style(i), **point)
            axes.fill_between(epochs, low, high, color=style(i)["color"], alpha=0.15, linewidth=0)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
    both[0].set_yscale("log")
    legend_beside(figure)
    return figure


def _differences(folder: StudyFolder, rows: list[ArmRow], metric: Metric) -> Any:
    """One line an arm: the paired difference of each seed, the mean and its interval."""
    compared = [row for row in rows if row.comparison][::-1]
    labels = [f"{row.arm} minus {row.reference}" for row in compared]
    # 0.07 inches a letter: the labels leave 4 inches to what they stand for.
    width, height = 4 + 0.07 * max(map(len, labels)), 1.2 + 0.34 * len(compared)
    figure, (axes,) = panels(1, width, height)
    for y, row in enumerate(compared):
        own, others = (scores(folder, name, metric) for name in (row.arm, row.reference))
        each = [own[seed] - others[seed] for seed in own.keys() & others.keys()]
        axes.plot(each, [y] * len(each), "o", color=COLORS[0], alpha=0.35, markersize=4)
        comparison = row.comparison
        assert comparison is not None
        axes.plot(comparison.mean, y, "D", color=COLORS[1], markersize=5)
        if comparison.low is not None:
            axes.plot([comparison.low, comparison.high], [y, y], color=COLORS[1], linewidth=1.6)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(compared)), labels, fontsize=8)
    axes.set(
        xlabel=f"difference in {metric.split} {metric.label.removesuffix(' (%)')} ({metric.unit})",
        ylim=(-0.6, len(compared) - 0.4),
    )
    if max(map(abs, axes.get_xlim())) > WIDE:
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.autoscale(axis="x")
        axes.set_xlabel(f"{axes.get_xlabel()}, logarithmic beyond 1")
    axes.grid(visible=False, axis="y")
    return figure
