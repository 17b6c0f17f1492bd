"""The measurements as files: one JSON for a backend, its table and plot, and the README's table."""

import contextlib
import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnet.analysis.pictures import COLORS, MARKERS
from resnet.files import save_png, write_text
from resnet.runs.metrics.records import write_json
from resnet.runs.provenance import this_session
from resnet.runs.tables import markdown_table
from resnet.runtime.machine import devices
from scripts.benchmarks.parts import PARTS

BEGIN, END = "<!-- speed: written by scripts/benchmark.py -->", "<!-- /speed -->"
README_PARTS = {"training": "training step", "inference": "inference"}
# What is drawn, and what its ratios are of.
PLOTTED = {part: f"time of {name} / PyTorch eager" for part, name in README_PARTS.items()}
PLOTTED["stream"] = "time of 256 photographs / bare loop of decoding"
HOW = (
    "All columns of a row were measured in turn, A B A B, in one run, listed by its number at the end. A "
    "cell holds the median, and in parentheses the median over the rounds of the ratio to the first column "
    "with its quartiles. Others: the share of the processors' time that went to other processes meanwhile."
)
# The end of the name of the picture of this part.
TIMES = "_operations"

Entries = dict[str, dict[str, Any]]


def kind() -> str:
    """The kind of device: "gpu", "cpu", or "cpu_avx2" for a CPU that has AVX2 and no AVX-512."""
    found = devices()
    narrow = found["backend"] == "cpu" and found["instructions"] == "X86_V3"
    return "cpu_avx2" if narrow else found["backend"]


# The kind of device that the README says its table is of.
IN_README = "cpu_avx2"


def kept(root: Path, device: str) -> Path:
    """Where a clone keeps what was measured on a kind of device."""
    return root / f"results/benchmark_{device}.json"


def provenance(command: str) -> dict[str, Any]:
    """What every entry is kept with."""
    session = this_session(command)
    named = {"date": session["started"], "machine": session["devices"]}
    return named | {"command": command, "git": session["git"], "versions": session["versions"] | _peers()}


def _peers() -> dict[str, str]:
    """Versions of what ours is compared with, where it is installed."""
    found = {}
    for package in ("torch", "timm"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def read(path: Path) -> Entries:
    """The entries measured so far, by "part/case"."""
    return json.loads(path.read_bytes()) if path.exists() else {}


def add(path: Path, entries: Entries) -> Entries:
    """Writes the JSON with `entries` in place of those measured before, and the page and plot beside it."""
    order = {f"{part}/{case}": i for i, (part, case) in enumerate(_places())}
    merged = read(path) | entries
    merged = dict(sorted(merged.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))
    write_json(path, merged)
    write_text(path.with_suffix(".md"), page(merged, path.with_suffix(".png").name))
    for figure, name in ((plot(merged), path.stem), (plot_times(merged), path.stem + TIMES)):
        if figure is not None:
            save_png(figure, path.with_name(f"{name}.png"))
    return merged


def _places() -> Iterable[tuple[str, str]]:
    return ((part, case) for part in PARTS for case in PARTS[part].cases)


def page(entries: Entries, picture: str) -> str:
    """The whole measurement as Markdown, `picture` the name of the plot."""
    lines = ["# Speed", "", HOW, "", f"![Ratios of the times]({picture})", ""]
    if any(key.startswith("operations/") for key in entries):
        times = Path(picture).with_stem(Path(picture).stem + TIMES)
        lines += [f"![Time of a training step by kind of operation]({times})", ""]
    runs = list(dict.fromkeys(_run(entry) for entry in entries.values()))
    for part in PARTS:
        found = {key.split("/")[1]: entry for key, entry in entries.items() if key.startswith(f"{part}/")}
        if found:
            lines += [f"## {PARTS[part].title}", "", *_table(found, runs), ""]
    lines += ["## Runs", ""]
    for number, run in enumerate(runs, 1):
        lines.append(f"{number}. {', '.join(run)}")
    return "\n".join([*lines, ""])


def _run(entry: dict[str, Any]) -> tuple[str, ...]:
    """Says how an entry was measured: command, commit, day, machine, versions."""
    git, machine = entry["git"], entry["machine"]
    commit = git["commit"][:12] + (" and changes" if git["dirty"] else "") if git else "unknown"
    kinds = [] if machine["backend"] == "cpu" else machine["kinds"]
    instructions = f" with {machine['instructions']}" if machine.get("instructions") else ""
    processors = f"{machine['cpu_count']} processors{instructions}"
    versions = [f"{package} {version}" for package, version in entry["versions"].items()]
    return (f"`{entry['command']}`: commit {commit}", entry["date"][:10], *kinds, processors, *versions)


def _table(found: Entries, runs: list[tuple[str, ...]]) -> list[str]:
    """Makes a row for each entry; its last cell is the number of its run in `runs`, from 1 on."""
    names = list(dict.fromkeys(name for entry in found.values() for name in entry["medians"]))
    references = {entry["reference"] for entry in found.values()}
    names.sort(key=lambda name: name not in references)
    rows = [
        [case, entry["batch"], entry["side"], entry["dtype"], entry["rounds"], _share(entry)]
        + [_cell(entry, name) for name in names]
        for case, entry in found.items()
    ]
    extras = {
        "copy_gb_per_second": "copy, GB/s",
        "moved_gb": "arrays of a step, GB",
        "moved_share": "copying these, of the step",
        "images_per_second": "images/s",
    }
    extras = {field: title for field, title in extras.items() if all(field in e for e in found.values())}
    for row, entry in zip(rows, found.values(), strict=True):
        row += [*(_number(entry[field]) for field in extras), runs.index(_run(entry)) + 1]
    units = {entry["unit"] for entry in found.values()}
    headers = ["case", "batch", "side", "type", "n", "others"]
    unit = "/".join(sorted(units))
    headers += [f"{name}, {unit}" if unit else name for name in names] + [*extras.values(), "run"]
    return markdown_table(rows, headers, tablefmt="pipe", disable_numparse=True).splitlines()


def _cell(entry: dict[str, Any], name: str) -> str:
    if name not in entry["medians"]:
        return "-"
    value = _number(entry["medians"][name])
    if name not in entry["ratios"]:
        return value
    low, middle, high = entry["ratios"][name]
    return f"{value} ({_ratio(middle)}: {_ratio(low)} to {_ratio(high)})"


def _share(entry: dict[str, Any]) -> str:
    return f"{100 * entry['others']:.0f} %" if "others" in entry else "-"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.01 else f"{value:.1g}"


def _with_rivals(entries: Entries) -> Entries:
    """Those that compare ours with another: where PyTorch was missing, ours were measured alone."""
    return {key: entry for key, entry in entries.items() if entry["reference"] != "ours"}


def plot(entries: Entries) -> Any:
    """Ratios of the parts in PLOTTED, one row a case; None without any."""
    from matplotlib.figure import Figure

    entries = _with_rivals(entries)
    panels = [part for part in PLOTTED if any(key.startswith(f"{part}/") for key in entries)]
    if not panels:
        return None
    figure = Figure(figsize=(5.2 * len(panels), 4), layout="constrained", dpi=150)
    for place, part in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place)
        found = {key.split("/")[1]: entry for key, entry in entries.items() if key.startswith(f"{part}/")}
        names = list(dict.fromkeys(name for entry in found.values() for name in entry["ratios"]))
        for i, name in enumerate(names):
            points = [
                (row + 0.18 * (i - (len(names) - 1) / 2), *entry["ratios"][name])
                for row, entry in enumerate(found.values())
                if name in entry["ratios"]
            ]
            rows, lows, middles, highs = zip(*points, strict=True)
            spread = [[m - low for m, low in zip(middles, lows, strict=True)],
                      [high - m for m, high in zip(middles, highs, strict=True)]]  # fmt: skip
            axes.errorbar(middles, rows, xerr=spread, fmt=MARKERS[i], color=COLORS[i], label=name, capsize=2)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_yticks(range(len(found)), [f"{case}, {e['batch']}" for case, e in found.items()])
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{PLOTTED[part]}\n(lower is better)")
        axes.set_ylabel("net, batch")
        axes.legend(loc="lower left", fontsize="small")
    return figure


def plot_times(entries: Entries) -> Any:
    """Draws the time of a training step by kind of operation: a bar for each net of ours, one for stock Flax.

    The unit is the time of our training step. Returns None if no step of ours was measured.
    """
    from matplotlib.figure import Figure

    units = {
        key.split("/")[1]: entry["medians"]["step"]
        for key, entry in entries.items()
        if key.startswith("operations/")
    }
    bars = {
        f"{case}, {name}": (entries[f"{part}/{case}"], unit)
        for case, unit in units.items()
        for part, name in (("operations", "ours"), ("operations_stock", "stock Flax"))
        if f"{part}/{case}" in entries
    }
    if not bars:
        return None
    figure = Figure(figsize=(8, 1.6 + 0.5 * len(bars)), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    ends = [0.0] * len(bars)
    kinds = next(iter(bars.values()))[0]["ratios"]
    for color, kind in zip(COLORS, kinds, strict=False):
        widths = [entry["medians"]["step"] / unit * entry["ratios"][kind][1] for entry, unit in bars.values()]
        axes.barh(range(len(bars)), widths, left=ends, color=color, label=kind)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    axes.set_yticks(range(len(bars)), bars)
    axes.invert_yaxis()
    axes.set_xlabel("time of a training step / time of ours")
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")
    return figure


def readme_table(entries: Entries) -> str:
    """The lines between the README's marks: ratios to PyTorch eager, net by net."""
    steps = {key: entry for key, entry in _with_rivals(entries).items() if key.split("/")[0] in README_PARTS}
    cases = list(dict.fromkeys(key.split("/")[1] for key in steps))
    columns = {
        (part, name): None
        for part in README_PARTS
        for key, entry in steps.items()
        if key.startswith(f"{part}/")
        for name in entry["ratios"]
    }
    rows = []
    for case in cases:
        own = [entry for key, entry in steps.items() if key.endswith(f"/{case}")]
        cells = []
        for part, name in columns:
            ratios = steps.get(f"{part}/{case}", {}).get("ratios", {})
            cells.append(_ratio(ratios[name][1]) if name in ratios else "-")
        rows.append([f"{case}, {own[0]['batch']} images of {own[0]['side']}x{own[0]['side']}", *cells])
    headers = ["", *(f"{README_PARTS[part]}, {name}" for part, name in columns)]
    return "\n".join(markdown_table(rows, headers, tablefmt="pipe", disable_numparse=True).splitlines())


def write_readme(path: Path, entries: Entries) -> None:
    """Puts the table between the marks."""
    before, rest = path.read_text("utf-8").split(BEGIN)
    after = rest.split(END)[1]
    write_text(path, f"{before}{BEGIN}\n\n{readme_table(entries)}\n\n{END}{after}")
