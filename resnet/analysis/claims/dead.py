"""Units that a ReLU has silenced for good: channels that are 0 on every image, while a net trains."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from resnet.analysis.claims.claim import RUNS, Bench, Claim, Rows
from resnet.analysis.claims.trained import DEPTHS, EPOCHS, net_folder
from resnet.analysis.growth import mean_of
from resnet.analysis.laws import Check, Law
from resnet.analysis.subject import Subject, of_config, of_run
from resnet.run import load

LAYERS, LAST = DEPTHS[-1], EPOCHS[-1]
IMAGES = 200
NETS = {
    "identity, batch norm": (net_folder("identity", LAYERS, LAST), {"model.shortcut": "identity"}),
    "none, batch norm": (net_folder("none", LAYERS, LAST), {"model.shortcut": "none"}),
    # The rate is that of the study identity_at_start, which was chosen on validation.
    "identity, no norm": (f"no-norm-{LAYERS}-{LAST}epochs",
                          {"model.norm": "none", "schedule.learning_rate": 0.02}),
}  # fmt: skip
"""Folders and changes by net."""
CHANNELS, UNITS = "% of channels dead", "% of channels dead at a pixel"


def measure_dead(bench: Bench) -> Rows:
    """Measures the share of dead channels, 0 on all images at all pixels, and of dead pixels of a channel."""
    rows = []
    for name, (folder, changes) in NETS.items():
        net = {"model.depth": LAYERS, "train.duration": f"{LAST} epochs"} | changes
        runs, accuracies = bench.trained(folder, net)
        last = load(runs / "seed0").step
        for step in (0, *(last * fifth // 5 for fifth in range(1, 6))):
            shares = [dead_shares(_net(runs / f"seed{seed}", step)) for seed in range(RUNS)]
            channels, units = (mean_of(100 * np.array(each), 0, 100) for each in zip(*shares, strict=True))
            tested = mean_of(accuracies, 0, 100) if step == last else None
            rows.append({"net": name, "step": step, "n": RUNS, CHANNELS: channels, UNITS: units,
                         "test %": tested, "_last": step == last})  # fmt: skip
    return rows


def rule_dead(rows: Rows) -> list[Check]:
    law = Law("at least", 1.0)
    return [Check(f"{row['net']}: {CHANNELS}", row[CHANNELS], law) for row in rows if row["_last"]]


def _net(run: Path, step: int) -> Subject:
    if step:
        return of_run(run, data="train", images=IMAGES, step=step)
    return of_config(str(run), load(run).config, data="train", images=IMAGES)


def dead_shares(subject: Subject) -> tuple[float, float]:
    """Shares of the first ReLU's channels in all branches that no image opens: at any pixel, at one pixel."""
    x, channels, units = subject.images, [], []
    for part in subject.parts("batch" if subject.step is None else "running"):
        if part.arrays is not None:
            layers = part.responses(x)
            dead = (layers.get("norm1", layers["conv1"]) <= 0).all(0)
            channels.append(dead.all((0, 1)))
            units.append(dead.ravel())
        x = part(x)
    found = [float(jnp.concatenate(each).mean()) for each in (channels, units)]
    return found[0], found[1]


CLAIMS = (
    Claim(
        "ReLU leaves units dead",
        f"In nets of {LAYERS} layers with batch norm, and with the identity and no norm, at least 1 % of "
        f"the channels behind the first ReLU of all branches are 0 at every pixel of {IMAGES} images after "
        f"{LAST} epochs.",
        "In some of these nets, at these learning rates, less than 1 % of the channels are dead.",
        measure_dead, rule_dead,
    ),
)  # fmt: skip
