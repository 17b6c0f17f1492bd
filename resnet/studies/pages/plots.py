"""The figures of a study: curves, scores and grids against depth, paired differences, seconds per step."""

import math
import statistics
from pathlib import Path
from typing import Any

from resnet.analysis.pictures import COLORS, LINES, MARKERS
from resnet.config import Config, differences, replaced
from resnet.files import replacing, save_png
from resnet.studies.folder import FINISHED, StudyFolder, StudyRun, curve
from resnet.studies.kept import Kept
from resnet.studies.pages.rows import ArmRow, Metric, metric_of, scores, seconds_per_step
from resnet.studies.study import tell_apart

DEPTH = ("model.depth", "model.blocks")
MOST_CURVES = 14  # more lines than that cannot be told apart
WIDE = 20  # differences beyond it would hide the small ones on a linear axis


FIGURES = {
    "depth.png": "Last epoch against depth: each dot a seed, lines through the means.",
    "rates.png": (
        "Validation loss against learning rate at each depth: means over the seeds that try the whole grid; "
        "the filled mark is the chosen rate."
    ),
    "curves.png": "Learning curves: means over seeds, bands from the lowest to the highest.",
    "differences.png": (
        "Paired differences to the reference arm: each dot a seed, the mean with its 95 % interval."
    ),
    "seconds.png": (
        "Time of a training step, divided by the seeds that take it together, on the machine as it was "
        "loaded then. It says how long a study takes, and is no measure of an arm's speed."
    ),
}
"""What each file shows, in the order of the page."""


def plot_study(folder: StudyFolder, rows: list[ArmRow]) -> dict[str, str]:
    """Draws what the runs so far allow; {file name: what it shows}.

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
        drawn |= _of_runs(folder, finished, metric)
    for name, figure in drawn.items():
        _save(folder.workdir / name, figure)
    shown = {name for name in FIGURES if name in drawn or (kept and (folder.workdir / name).exists())}
    return {name: meaning for name, meaning in FIGURES.items() if name in shown}


def _of_runs(folder: StudyFolder, finished: dict[str, list[StudyRun]], metric: Metric) -> dict[str, Any]:
    """The figures that need the records of the runs."""
    drawn = {"seconds.png": _seconds(folder, finished)}
    if series := depth_series(folder, finished):
        drawn["depth.png"] = _depth(folder, series, finished, metric)
        if any(len(folder.grid(arm)) > 1 for arms in series.values() for arm in arms.values()):
            drawn["rates.png"] = _rates(folder, series)
    recorded = any(curve(run, "train", "loss") for runs in finished.values() for run in runs)
    if recorded and len(finished) <= MOST_CURVES:
        drawn["curves.png"] = _curves(finished, metric)
    return drawn


def depth_series(folder: StudyFolder, finished: dict[str, list[StudyRun]]) -> dict[str, dict[int, str]]:
    """{label: {depth: arm}} of arms that differ in depth alone; {} where no two do."""
    groups: list[tuple[Config, dict[int, str]]] = []
    for name in finished:
        config = folder.arms[name].config
        for first, arms in groups:
            if all(field in DEPTH for field, *_ in differences(first, config)):
                arms[config.model.depth] = name
                break
        else:
            groups.append((config, {config.model.depth: name}))
    groups = [(config, dict(sorted(arms.items()))) for config, arms in groups if len(arms) > 1]
    # What the arms are called beside their depth, where they are; else the fields that differ.
    stems = [{name.removesuffix(f"-{depth}") for depth, name in arms.items()} for _, arms in groups]
    labels = [stem for stem, *others in stems if not others]
    if len(set(labels)) < len(groups):
        labels = tell_apart([replaced(config, dict.fromkeys(DEPTH)) for config, _ in groups])
    return {label: arms for label, (_, arms) in zip(labels, groups, strict=True)}


def _figure(panels: int, width: float = 4.6, height: float = 3.6) -> Any:
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    return Figure(figsize=(width * panels, height), layout="constrained", dpi=150)


def _save(path: Path, figure: Any) -> None:
    with replacing(path) as temporary:
        save_png(figure, temporary)


def _style(i: int) -> dict[str, Any]:
    return {"color": COLORS[i % len(COLORS)], "linestyle": LINES[(i + 2 * (i // len(COLORS))) % len(LINES)]}


def _curves(finished: dict[str, list[StudyRun]], metric: Metric) -> Any:
    """Training loss and validation score by epoch, one line an arm."""
    figure = _figure(2, height=max(3.6, 0.26 * len(finished)))
    panels = (("train", "loss", "training loss", 1.0), ("validation", metric.name,
              f"validation {metric.label}", metric.factor))  # fmt: skip
    for place, (split, name, label, factor) in enumerate(panels, 1):
        axes = figure.add_subplot(1, 2, place)
        for i, (arm, runs) in enumerate(finished.items()):
            series = [curve(run, split, name) for run in runs]
            epochs = sorted(set.intersection(*map(set, series)))
            columns = [[factor * each[epoch] for each in series] for epoch in epochs]
            mean = [statistics.mean(column) for column in columns]
            axes.plot(epochs, mean, label=f"{arm} (n = {len(runs)})", **_style(i))
            low, high = list(map(min, columns)), list(map(max, columns))
            axes.fill_between(epochs, low, high, color=_style(i)["color"], alpha=0.15, linewidth=0)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.axes[0].set_yscale("log")
    _legend(figure)
    return figure


def _legend(figure: Any) -> None:
    """Draws one legend for all panels, beside them."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)


def _depth(folder: StudyFolder, series: dict, finished: dict[str, list[StudyRun]], metric: Metric) -> Any:
    """Training and test score of the last epoch by depth, one line for what else differs."""
    figure = _figure(2)
    for place, split in enumerate(("training", "test"), 1):
        axes = figure.add_subplot(1, 2, place)
        for i, (label, arms) in enumerate(series.items()):
            style = _style(i) | {"marker": MARKERS[i % len(MARKERS)]}
            found = {d: _last_scores(folder, finished[arm], metric, split) for d, arm in arms.items()}
            axes.plot(list(found), [statistics.mean(v) for v in found.values()], label=label, **style)
            dots = [(depth, value) for depth, values in found.items() for value in values]
            axes.plot(*zip(*dots, strict=True), color=style["color"], marker=style["marker"],
                      linestyle="", alpha=0.35, markersize=4)  # fmt: skip
        depths = sorted({depth for arms in series.values() for depth in arms})
        axes.set(xlabel="depth (layers with weights)", ylabel=f"{split} {metric.label}", xticks=depths)
        axes.grid(alpha=0.3)
    low, high = (pick(axes.get_ylim()[i] for axes in figure.axes) for i, pick in enumerate((min, max)))
    for axes in figure.axes:
        axes.set_ylim(low, high)
    _legend(figure)
    return figure


def _rates(folder: StudyFolder, series: dict[str, dict[int, str]]) -> Any:
    """The grids: a panel for each series of arms that differ in depth alone, a line for each depth."""
    figure = _figure(len(series), width=3.6)
    for place, (label, arms) in enumerate(series.items(), 1):
        axes = figure.add_subplot(1, len(series), place, sharey=figure.axes[0] if figure.axes else None)
        for i, (depth, arm) in enumerate(arms.items()):
            losses = {rate: _validation_loss(runs) for rate, runs in sorted(folder.grid(arm).items())}
            style = _style(i) | {"marker": MARKERS[i % len(MARKERS)]}
            axes.plot(list(losses), list(losses.values()), label=f"{depth} layers", **style,
                      markerfacecolor="white")  # fmt: skip
            if (chosen := folder.chosen_rate(arm)) is not None:
                axes.plot(chosen, losses[chosen], linestyle="", marker=style["marker"], color=style["color"])
        axes.set(xlabel="learning rate", xscale="log", yscale="log", title=label)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("validation loss")
    _legend(figure)
    return figure


def _validation_loss(runs: list[StudyRun]) -> float:
    """The mean over the seeds; not a number where one has none, since it failed."""
    losses = [(run.result.get("validation") or {}).get("loss") for run in runs]
    return statistics.mean(math.nan if loss is None else loss for loss in losses)


def _last_scores(folder: StudyFolder, runs: list[StudyRun], metric: Metric, split: str) -> list[float]:
    """The score of each run's last weights on test, or of its last epochs in training."""
    if split == "test":
        return list(scores(folder, runs[0].arm, metric).values())
    curves = [curve(run, "train", metric.name) for run in runs]
    return [metric.factor * each[max(each)] for each in curves if each]


def _differences(folder: StudyFolder, rows: list[ArmRow], metric: Metric) -> Any:
    """One line an arm: the paired difference of each seed, the mean and its interval."""
    compared = [row for row in rows if row.comparison][::-1]
    labels = [f"{row.arm} minus {row.reference}" for row in compared]
    # 0.07 inches a letter: the labels leave 4 inches to what they stand for.
    figure = _figure(1, width=4 + 0.07 * max(map(len, labels)), height=1.2 + 0.34 * len(compared))
    axes = figure.add_subplot()
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
        xlabel=f"difference in test {metric.label.removesuffix(' (%)')} ({metric.unit})",
        ylim=(-0.6, len(compared) - 0.4),
    )
    if max(map(abs, axes.get_xlim())) > WIDE:
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.autoscale(axis="x")
        axes.set_xlabel(f"{axes.get_xlabel()}, logarithmic beyond 1")
    axes.grid(alpha=0.3, axis="x")
    return figure


def _seconds(folder: StudyFolder, finished: dict[str, list[StudyRun]]) -> Any:
    """Each run's share of the time of a step."""
    figure = _figure(1, width=6.4, height=1.2 + 0.28 * len(finished))
    axes = figure.add_subplot()
    for y, runs in enumerate(list(finished.values())[::-1]):
        values = [value for run in runs if (value := seconds_per_step(folder, run)) is not None]
        axes.plot(values, [y] * len(values), "o", color=COLORS[0], alpha=0.5, markersize=4)
    axes.set_yticks(range(len(finished)), list(finished)[::-1], fontsize=8)
    axes.set(xlabel="seconds per step and seed", ylim=(-0.6, len(finished) - 0.4))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3, axis="x")
    return figure
