"""telemetry.csv: how large signal, branch and gradient were at every block while a run trained."""

import contextlib
import csv
import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from resnet.files import local_path, replacing, save_png
from resnet.models.chain import Flow
from resnet.runs.metrics.records import keep_original
from resnet.runtime.processes import index_of_this

FILE, PICTURE = "telemetry.csv", "telemetry.png"
# Base-ten logarithms of root mean squares: of a block's input, of F(x), of the gradient that enters the
# block (at its output), and of the one it passes on (to its input).
COLUMNS = ("step", "block", "x", "branch", "gradient", "passed_on")
HEAD = ",".join(COLUMNS).encode() + b"\n"


def append(workdir: Path, step: int, found: Flow) -> None:
    """Adds the rows of one step, all or none."""
    path = workdir / FILE
    size = path.stat().st_size if path.exists() else 0
    columns = (found.x[:-1], found.branch, found.gradient[1:], found.gradient[:-1])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not size:
        writer.writerow(COLUMNS)
    for name, *logs in zip(found.blocks, *columns, strict=True):
        writer.writerow([step, name, *(f"{value / math.log(10):.4f}" for value in logs)])
    try:
        with path.open("a", newline="", encoding="utf-8") as file:
            file.write(text.getvalue())
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(path, size)
        raise


def forget_rows_after(workdir: Path, step: int) -> None:
    """Drops the rows that a run resumed at `step` finished steps will write anew.

    Of several processes, the first does so.
    """
    path = workdir / FILE
    if index_of_this() or not path.exists():
        return
    first, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
    # A last line without its end was cut short by a kill, which is no damage.
    if first != HEAD or any(_row(line) is None for line in lines if line.endswith(b"\n")):
        keep_original(path)
    rows = ((line, _row(line)) for line in lines)
    kept = [line for line, row in rows if row and row["step"] <= step]
    with replacing(path) as temporary:
        temporary.write_bytes(b"".join([HEAD, *kept]))


def read(workdir: str | Path) -> list[dict[str, Any]]:
    """The rows of all steps that have one for each block; logarithms are NaN where none was finite."""
    path = local_path(workdir) / FILE
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    steps: dict[int, list[dict[str, Any]]] = {}
    for row in filter(None, map(_row, lines)):
        steps.setdefault(row["step"], []).append(row)
    blocks = {step: tuple(row["block"] for row in rows) for step, rows in steps.items()}
    whole = max(blocks.values(), key=len, default=())
    return [row for step, rows in steps.items() if blocks[step] == whole for row in rows]


def _row(line: bytes) -> dict[str, Any] | None:
    """The row in a line; None if the line is not whole."""
    try:
        step, block, *logs = line.decode().removesuffix("\n").split(",")
        values = dict(zip(COLUMNS[2:], map(float, logs), strict=True))
        return {"step": int(step), "block": block, **values} if line.endswith(b"\n") else None
    except ValueError:
        return None


def last_words(workdir: Path) -> str:
    """The blocks with the largest signal and gradient in the last record, for a message; "" without one."""
    rows = [row for row in read(workdir) if math.isfinite(row["x"])]
    last = [row for row in rows if row["step"] == rows[-1]["step"]]
    found = []
    for name, what in (("x", "signal"), ("gradient", "gradient")):
        finite = [row for row in last if math.isfinite(row[name])]
        if finite:
            row = max(finite, key=lambda row: row[name])
            found.append(f"the {what} was largest at {row['block']} (10^{row[name]:.1f})")
    return f"; at step {last[0]['step']} {' and '.join(found)}" if found else ""


def plot(workdir: str | Path) -> Path | None:
    """Draws telemetry.png; None without telemetry."""
    rows = read(workdir)
    if not rows:
        return None
    path = local_path(workdir) / PICTURE
    save_png(figure(rows), path)
    return path


def figure(rows: list[dict[str, Any]]) -> Any:
    """Signal, branch over signal, and gradient as maps of step and block."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    steps, blocks = (list(dict.fromkeys(row[name] for row in rows)) for name in ("step", "block"))
    logs = {
        name: np.array([row[name] for row in rows]).reshape(len(steps), len(blocks)).T for name in COLUMNS[2:]
    }
    drawing = Figure(figsize=(13, 3.8), layout="constrained", dpi=150)
    maps = {"signal x": logs["x"], "F(x) over x": logs["branch"] - logs["x"], "gradient": logs["gradient"]}
    for i, (title, values) in enumerate(maps.items(), 1):
        axes = drawing.add_subplot(1, 3, i)
        edges = [*steps, 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] + 1]
        image = axes.pcolormesh(edges, np.arange(len(blocks) + 1) + 0.5, values, cmap="cividis")
        axes.set(xlabel="step", ylabel="residual block", title=title)
        drawing.colorbar(
            image, ax=axes, label="log10 of the root mean square" if i != 2 else "log10 of the ratio"
        )
    return drawing
