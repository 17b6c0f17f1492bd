"""Figures of arms that differ in one amount alone: depth, width or the length of the training."""

import dataclasses
import math
import statistics
from collections.abc import Callable
from typing import Any

from resnet.analysis.pictures import MARKERS, legend_beside, panels, style
from resnet.config import Config, differences, replaced
from resnet.durations import parse_duration
from resnet.models.geometry import block_specs, count_layers
from resnet.studies.collected import tell_apart
from resnet.studies.folder import StudyFolder, StudyRun, curve
from resnet.studies.pages.rows import Metric, scores

ACROSS = 4  # panels side by side that a page can show
TOP = 10.0  # of a validation loss: guessing has 2.3 with 10 classes, and a net that diverges millions
Series = dict[str, dict[float, str]]
"""Names of arms, by the label of their line and then by the value of the amount."""


@dataclasses.dataclass(frozen=True)
class Amount:
    """What arms may differ in: its name, the fields that set it, and what a config has of it."""

    name: str
    fields: tuple[str, ...]
    of: Callable[[Config], tuple[float, str]]
    """The value, and its unit."""
    title: str
    scale: str

    def label(self, folder: StudyFolder, series: Series) -> str:
        """The title with the unit of the arms."""
        first = next(iter(next(iter(series.values())).values()))
        return f"{self.title} ({self.of(folder.arms[first].config)[1]})"


def _depth(config: Config) -> tuple[float, str]:
    blocks = config.model.blocks
    return count_layers(config.model, sum(blocks)) if blocks else config.model.depth, "layers"


def _width(config: Config) -> tuple[float, str]:
    return block_specs(config.model)[0].width, "channels in the first block"


def _duration(config: Config) -> tuple[float, str]:
    found = parse_duration("train.duration", config.train.duration)
    return found.amount, found.unit


DEPTH = Amount("depth", ("model.depth", "model.blocks"), _depth, "depth", "linear")
# Rules of width set the rates of some layers with it.
WIDTH = Amount("width", ("model.width", "optimizer.lr_multipliers"), _width, "width", "log")
DURATION = Amount("duration", ("train.duration",), _duration, "length of the training", "log")


def series_of(amount: Amount, folder: StudyFolder, finished: dict[str, list[StudyRun]]) -> Series:
    """{label: {value: arm}} of arms that differ in this amount alone; {} where no two do."""
    groups: list[tuple[Config, dict[float, str]]] = []
    for name in finished:
        config = folder.arms[name].config
        value, _ = amount.of(config)
        for first, arms in groups:
            # Two arms of one value differ in the other fields that set the amount: they are on two lines.
            if value not in arms and all(f in amount.fields for f, *_ in differences(first, config)):
                arms[value] = name
                break
        else:
            groups.append((config, {value: name}))
    groups = [(config, dict(sorted(arms.items()))) for config, arms in groups if len(arms) > 1]
    # What the arms are called beside its value, where they are; else the fields in which the lines differ;
    # where there are none, the first arm of each.
    stems = [{name.removesuffix(f"-{value:g}") for value, name in arms.items()} for _, arms in groups]
    labels = [stem for stem, *others in stems if not others]
    if len(set(labels)) < len(groups):
        labels = tell_apart([replaced(config, dict.fromkeys(amount.fields)) for config, _ in groups])
        if len(groups) == 1 or len(set(labels)) < len(groups):
            labels = [next(iter(arms.values())) for _, arms in groups]
    return {label: arms for label, (_, arms) in zip(labels, groups, strict=True)}


def draw_last(
    amount: Amount, folder: StudyFolder, series: Series, finished: dict[str, list[StudyRun]], metric: Metric
) -> Any:
    """Draws the last scores, in training and of the metric, against the amount: a line for each label.

    Training has a panel only if all runs have records of it: kept runs have their results alone.
    """
    drawn = [arm for arms in series.values() for arm in arms.values()]
    last = {metric.split: {arm: list(scores(folder, arm, metric).values()) for arm in drawn}}
    in_training = {arm: _scores_in_training(finished[arm], metric) for arm in drawn}
    if all(len(in_training[arm]) == len(finished[arm]) for arm in drawn):
        last = {"training": in_training} | last
    figure, places = panels(len(last), width=4.6)
    for (split, found), axes in zip(last.items(), places, strict=True):
        for i, (label, arms) in enumerate(series.items()):
            look = style(i) | {"marker": MARKERS[i % len(MARKERS)]}
            axes.plot(list(arms), [statistics.mean(found[arm]) for arm in arms.values()], label=label, **look)
            dots = [(value, score) for value, arm in arms.items() for score in found[arm]]
            x, y = [value for value, _ in dots], [score for _, score in dots]
            axes.plot(
                x, y, color=look["color"], marker=look["marker"], linestyle="", alpha=0.35, markersize=4
            )
        values = sorted({value for arms in series.values() for value in arms})
        axes.set(xlabel=amount.label(folder, series), ylabel=f"{split} {metric.label}", xscale=amount.scale)
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
    low, high = (pick(axes.get_ylim()[i] for axes in places) for i, pick in enumerate((min, max)))
    for axes in places:
        axes.set_ylim(low, high)
    legend_beside(figure)
    return figure


def draw_grids(amount: Amount, folder: StudyFolder, series: Series) -> Any:
    """Draws validation loss against learning rate: a panel for each label, a line for each value."""
    from matplotlib.ticker import LogLocator

    columns = min(len(series), ACROSS)
    rows = math.ceil(len(series) / columns)
    figure, places = panels(columns, width=3.6, rows=rows)
    for axes in places[len(series) :]:
        axes.remove()
    for axes in places[1 : len(series)]:
        axes.sharey(places[0])
    for place, (label, arms) in enumerate(series.items()):
        axes = places[place]
        for i, (value, arm) in enumerate(arms.items()):
            grid = sorted(folder.grid(arm).items())
            losses = {rate: min(_validation_loss(runs), TOP) for rate, runs in grid}
            look = style(i) | {"marker": MARKERS[i % len(MARKERS)]}
            name = f"{value:g} {amount.of(folder.arms[arm].config)[1]}"
            axes.plot(list(losses), list(losses.values()), label=name, **look, markerfacecolor="white")
            if (chosen := folder.chosen_rate(arm)) is not None:
                axes.plot(chosen, losses[chosen], linestyle="", marker=look["marker"], color=look["color"])
        axes.set(xlabel="learning rate", xscale="log", yscale="log", title=label)
        rates = sorted({rate for arm in arms.values() for rate in folder.grid(arm)})
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates], rotation=45)
        axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.tick_params(axis="y", which="minor", labelleft=False)
        if place % columns == 0:
            axes.set_ylabel("validation loss")
    legend_beside(figure)
    return figure


def _validation_loss(runs: list[StudyRun]) -> float:
    """The mean over the seeds; not a number where one has none, since it failed."""
    losses = [(run.result.get("validation") or {}).get("loss") for run in runs]
    return statistics.mean(math.nan if loss is None else loss for loss in losses)


def _scores_in_training(runs: list[StudyRun], metric: Metric) -> list[float]:
    """The training scores of the last epoch: one for each run that has records."""
    curves = [curve(run, "train", metric.name) for run in runs]
    return [metric.factor * each[max(each)] for each in curves if each]
