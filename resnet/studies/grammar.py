"""Does every shortcut train in every order of activation? One short run each, failures included."""

import collections
import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import tabulate
from absl import logging

from resnet.config import Config
from resnet.data.batches import batch_indices
from resnet.data.datasets import Dataset
from resnet.errors import InputError
from resnet.models.branches import ORDERS
from resnet.models.shortcuts import SHORTCUTS
from resnet.training.evaluation import evaluate
from resnet.training.parallel import make_mesh, replicate
from resnet.training.plan import make_plan
from resnet.training.provenance import devices, git_state, versions
from resnet.training.records import replacing


@dataclasses.dataclass(frozen=True)
class Row:
    """One net of the sweep; `outcome`: trained, diverged, or why the grammar refuses it."""

    shortcut: str
    order: str
    outcome: str
    parameters: int | None = None
    train_loss: float | None = None
    top1: float | None = None
    seconds: float | None = None


def sweep(base: Config, dataset: Dataset) -> Iterator[Row]:
    """A row for each shortcut in each order, trained as `base` says otherwise; nothing is written."""
    for shortcut in SHORTCUTS:
        for order in ORDERS:
            config = point(base, shortcut, order)
            try:
                config.model.check()
            except InputError as error:
                yield Row(shortcut, order, f"refused: {error}")
            else:
                yield short_run(config, dataset)


def point(base: Config, shortcut: str, order: str) -> Config:
    """`base` with another shortcut and order, and what the shortcut's definition asks for."""
    config = copy.deepcopy(base)
    config.model.shortcut, config.model.order = shortcut, order
    if SHORTCUTS[shortcut].norm_free:
        config.model.norm = "none"
    if shortcut == "normalizer_free":
        config.model.weight_standardization = "scaled"
    if shortcut == "fixup":
        config.model.zero_head = True
    return config


def short_run(config: Config, dataset: Dataset) -> Row:
    """Trains to the end in memory and evaluates on the validation split."""
    started = time.monotonic()
    mesh = make_mesh(1)
    plan = make_plan(config, dataset, mesh)
    state = plan.start(config.seed)
    train = dataset.train
    arrays = replicate({"image": train.images, "label": train.labels}, mesh)
    losses = []
    for step in range(plan.total_steps):
        indices = batch_indices(config.seed, step, len(train), config.train.batch_size)
        state, metrics = plan.train_steps(state, arrays, indices[None, None])
        losses.append(metrics["loss"][0])
    last_epoch = np.concatenate(jax.device_get(losses[-plan.steps_per_epoch :]))
    scores = evaluate(
        state.variables, dataset.validation, eval_step=plan.eval_step, batch_size=config.train.batch_size
    )
    loss = float(last_epoch.mean())
    return Row(
        config.model.shortcut,
        config.model.order,
        "trained" if math.isfinite(loss) else "diverged",
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        train_loss=loss if math.isfinite(loss) else None,
        top1=scores[0]["top1"] if scores else None,
        seconds=round(time.monotonic() - started, 1),
    )


COLUMNS = {
    "shortcut": "",
    "order": "",
    "outcome": "",
    "parameters": ",",
    "train_loss": ".3f",
    "top1": ".3f",
    "seconds": ".1f",
}


def write_table(rows: list[Row], path: Path, command: str) -> None:
    """The rows as a Markdown page that says how they came about."""
    commit = git_state(Path(__file__).parents[2]) or {"commit": "unknown", "dirty": True}
    table = tabulate.tabulate(
        [[getattr(row, column) for column in COLUMNS] for row in rows],
        list(COLUMNS),
        tablefmt="github",
        floatfmt=tuple(COLUMNS.values()),
        intfmt=",",
        missingval="",
    )
    lines = (
        "# Every shortcut in every order of activation, trained for a few epochs",
        "",
        f"Command: `{command}`  ",
        f"Commit: {commit['commit']}{' and uncommitted changes' if commit['dirty'] else ''}  ",
        f"Machine: {devices()}, {versions()}  ",
        "One seed each. `train_loss`: mean over the last epoch; `top1`: share of validation images.",
        "",
        table,
        "",
    )
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines))


def run(base: Config, dataset: Dataset, path: Path, command: str) -> dict[str, int]:
    """Sweeps, writes the page, and counts the outcomes."""
    rows = []
    for row in sweep(base, dataset):
        logging.info("%s, %s: %s, top1 %s", row.shortcut, row.order, row.outcome, row.top1)
        rows.append(row)
        write_table(rows, path, command)
    return dict(collections.Counter(row.outcome.split(":")[0] for row in rows))
