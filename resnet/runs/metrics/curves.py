"""curves.png: the metrics of a run by epoch."""

import math
import os
from pathlib import Path
from typing import Any

from resnet.files import local_path, save_png
from resnet.runs.metrics.records import read_metrics

FILE = "curves.png"
# What curves.png shows: metric, label of the axis, factor on the values, kind of scale.
PANELS = (
    ("loss", "loss", 1.0, "log"),
    ("top1", "top-1 accuracy (%)", 100.0, "linear"),
    ("mae", "mean absolute error", 1.0, "linear"),
)
# Blue and vermilion of Okabe and Ito's palette, told apart by colour-blind eyes and in grey.
STYLES = {
    "train": {"color": "#0072B2", "linestyle": "-"},
    "validation": {"color": "#D55E00", "linestyle": "--", "marker": "o", "markersize": 3},
}


def plot_curves(workdir: str | os.PathLike) -> Path:
    """Draws training and validation metrics by epoch, the test result in the title; its path."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    workdir = local_path(workdir)
    records = read_metrics(workdir)
    panels = [panel for panel in PANELS if any(panel[0] in record for record in records)]
    figure = Figure(figsize=(4.5 * max(len(panels), 1), 3.4), layout="constrained", dpi=150)
    for position, panel in enumerate(panels, start=1):
        _draw(figure.add_subplot(1, len(panels), position), records, *panel)
    figure.suptitle(_title(workdir, records), fontsize=11)
    save_png(figure, workdir / FILE)
    return workdir / FILE


def _draw(axes: Any, records: list[dict], metric: str, label: str, factor: float, scale: str):
    """One metric against epochs, one line a split."""
    positive = False
    for split, style in STYLES.items():
        points = [record for record in records if record["split"] == split and metric in record]
        values = [math.nan if r[metric] is None else factor * r[metric] for r in points]
        positive = positive or any(value > 0 for value in values)
        if points:
            # A line needs two points to be seen.
            style = {"marker": "o", "markersize": 3} | style if _alone(values) else style
            axes.plot([record["epoch"] for record in points], values, label=split, **style)
            axes.legend(frameon=False)
    axes.set_yscale(scale if positive else "linear")
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)


def _alone(values: list[float]) -> bool:
    """Whether a value has no finite neighbour that a line could lead to."""
    finite = [math.isfinite(value) for value in (math.nan, *values, math.nan)]
    return any(
        here and not (before or after)
        for before, here, after in zip(finite, finite[1:], finite[2:], strict=False)
    )


def _title(workdir: Path, records: list[dict]) -> str:
    """The run's name and its last result on the test split."""
    test = next((record for record in reversed(records) if record["split"] == "test"), {})
    parts = [
        f"{label.removesuffix(' (%)')} {factor * test[metric]:.4g}{' %' if '%' in label else ''}"
        for metric, label, factor, _ in PANELS
        if test.get(metric) is not None
    ]
    return workdir.resolve().name + (f"\ntest: {', '.join(parts)}" if parts else "")
