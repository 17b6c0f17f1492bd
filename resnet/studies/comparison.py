"""Runs side by side: learning curves, one line for each config, over its seeds."""

import statistics
from pathlib import Path
from typing import Any

from resnet.config import config_to_dict, load_saved_config
from resnet.errors import InputError
from resnet.training.records import read_metrics, replacing

# Okabe and Ito's colours, which the colour-blind tell apart; the styles serve in print.
STYLES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"), ("#56B4E9", "-"))
# Label, factor and upper end of the axis: a loss of ten classes starts at ln 10 = 2.3.
METRICS = {
    "loss": ("loss", 1.0, 2.5),
    "top1": ("accuracy (%)", 100.0, 100.0),
    "mae": ("mean absolute error", 1.0, None),
}


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict of fields with dotted names."""
    fields = {}
    for name, value in config.items():
        fields |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return fields


def group_by_config(workdirs: list[Path]) -> dict[str, list[Path]]:
    """Workdirs of one config but for the seed, under the fields in which the configs differ."""
    fields = [flat(config_to_dict(load_saved_config(workdir))) for workdir in workdirs]
    differing = [
        name for name in fields[0] if name != "seed" and len({repr(each[name]) for each in fields}) > 1
    ]
    groups: dict[str, list[Path]] = {}
    for workdir, each in zip(workdirs, fields, strict=True):
        label = ", ".join(f"{name}={each[name]}" for name in differing) or "all"
        groups.setdefault(label, []).append(workdir)
    return groups


def curve(workdirs: list[Path], split: str, metric: str) -> tuple[list[float], list[list[float]]]:
    """(epochs, values of each run) of the epochs that all runs have; null values count as missing."""
    series = [
        {
            r["epoch"]: r[metric]
            for r in read_metrics(workdir)
            if r["split"] == split and r.get(metric) is not None
        }
        for workdir in workdirs
    ]
    epochs = sorted(set.intersection(*map(set, series)))
    return epochs, [[each[epoch] for epoch in epochs] for each in series]


def plot_comparison(workdirs: list[Path], title: str, path: Path) -> dict[str, int]:
    """Training and validation curves: lines are means, bands the range over seeds; runs per line."""
    from matplotlib.figure import Figure

    groups = group_by_config(workdirs)
    if len(groups) > len(STYLES):
        raise InputError(f"{len(groups)} configs are too many for one plot; at most {len(STYLES)}")
    score = next(m for m in ("top1", "mae") if any(m in record for record in read_metrics(workdirs[0])))
    panels = (("train", "loss"), ("train", score), ("validation", score))
    figure = Figure(figsize=(10, 3.8), layout="constrained", dpi=150)
    for place, (split, metric) in enumerate(panels, 1):
        _draw(figure.add_subplot(1, len(panels), place), groups, split, metric)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return {label: len(members) for label, members in groups.items()}


def _draw(axes: Any, groups: dict[str, list[Path]], split: str, metric: str) -> None:
    """One metric of one split against epochs, one line a config."""
    name, factor, highest = METRICS[metric]
    for (label, members), (color, line) in zip(groups.items(), STYLES, strict=False):
        epochs, values = curve(members, split, metric)
        columns = [[factor * value for value in column] for column in zip(*values, strict=True)]
        mean = [statistics.mean(column) for column in columns]
        axes.plot(epochs, mean, color=color, linestyle=line, label=f"{label} (n = {len(members)})")
        axes.fill_between(epochs, list(map(min, columns)), list(map(max, columns)), color=color, alpha=0.2)
    axes.set(xlabel="epoch", ylabel=f"{split} {name}", ylim=(0, highest))
    axes.grid(alpha=0.3)
