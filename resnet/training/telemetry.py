"""telemetry.csv: how large signal, branch and gradient are at every block while a run trains.

Measured beside the training step by programs of its own, on the batch that comes next, with that
batch's statistics and without dropout: the numbers of the training stay the same to the last bit.
"""

import contextlib
import csv
import dataclasses
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array

from resnet.data.batches import batch_indices
from resnet.models.chain import Flow, flow, parts
from resnet.runs.records import replacing
from resnet.runs.task import Task
from resnet.runtime.processes import index_of_this
from resnet.training.losses import example_losses
from resnet.training.parallel import unstack
from resnet.training.steps import TrainState, training_images

if TYPE_CHECKING:
    from resnet.config import Config
    from resnet.training.member import Member
    from resnet.training.plan import Plan

FILE, PICTURE = "telemetry.csv", "telemetry.png"
# Base-ten logarithms of root mean squares: of a block's input, of F(x), of the gradient that enters the
# block (at its output), and of the one it passes on (to its input).
COLUMNS = ("step", "block", "x", "branch", "gradient", "passed_on")
# Images of a batch that are looked at; more would cost time and tell the same.
IMAGES = 128


def record(plan: "Plan", members: Sequence["Member"], state: TrainState, step: int, k: int) -> None:
    """Writes the rows of every member that has not failed, if they fell due in the last k steps.

    `state` has a leading axis of members.
    """
    every, config, train = plan.telemetry_every, plan.config, plan.dataset.train
    if not every or step // every == (step - k) // every or index_of_this() != 0:
        return
    seen = dataclasses.replace(state, opt_state=(), ema=())
    for member, alone in zip(members, unstack(seen), strict=True):
        if member.failed:
            continue
        index = batch_indices(member.config.seed, step, len(train), config.train.batch_size)
        index = index[: _images(config.model.ghost_batch)]
        batch = {"image": jnp.asarray(train.images[index]), "label": jnp.asarray(train.labels[index])}
        found = observe(alone, batch, task=plan.task, config=config)
        try:
            append(member.workdir, step, found)
        except OSError as error:
            logging.warning("%s: telemetry of step %d is left out (%s)", member.workdir, step, error)


def observe(state: TrainState, batch: Mapping[str, Array], *, task: Task, config: "Config") -> Flow:
    """The flow through the net of one seed on raw uint8 images {"image", "label"}."""
    state = jax.tree.map(jnp.asarray, state)
    x, _ = training_images(state, batch["image"], task=task, config=config, axis_name=None)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    chain = parts(config.model, task.num_outputs, variables, "batch")

    def loss(x: Array) -> Array:
        smoothing, output = config.train.label_smoothing, config.model.output
        return example_losses(chain[-1](x), batch["label"], output=output, smoothing=smoothing).mean()

    return flow(chain, x, jax.grad(loss))


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
        with path.open("a", newline="") as file:
            file.write(text.getvalue())
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(path, size)
        raise


def forget_after(workdir: Path, step: int) -> None:
    """Drops the rows that a run resumed at `step` finished steps will write anew."""
    path = workdir / FILE
    if not path.exists():
        return
    first, *lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and int(line.split(",")[0]) <= step]
    with replacing(path) as temporary:
        temporary.write_text("".join([first, *kept]))


def read(workdir: str | Path) -> list[dict[str, Any]]:
    """The rows; logarithms are NaN where nothing finite was measured."""
    path = Path(workdir) / FILE
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {"step": int(row["step"]), "block": row["block"]}
            | {name: float(row[name]) for name in COLUMNS[2:]}
            for row in csv.DictReader(file)
        ]


def last_words(workdir: Path) -> str:
    """Where signal and gradient were largest when last looked at, for a run that fails; or nothing."""
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
    with replacing(Path(workdir) / PICTURE) as temporary:
        figure(rows).savefig(temporary, format="png")
    return Path(workdir) / PICTURE


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


def _images(ghost_batch: int) -> int:
    """IMAGES, in whole ghost batches."""
    return max(ghost_batch, IMAGES // ghost_batch * ghost_batch) if ghost_batch else IMAGES
