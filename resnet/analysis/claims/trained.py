"""Trained nets: what the identity is worth by depth and budget, how far seeds differ, and dead units."""

import jax.numpy as jnp
import numpy as np
import scipy.stats

from resnet.analysis import pictures
from resnet.analysis.claims.claim import Bench, Claim, Rows, row_of
from resnet.analysis.growth import CONFIDENCE, Estimate, mean_of
from resnet.analysis.laws import Check, Law
from resnet.analysis.subject import Subject, of_config, of_run
from resnet.config import Config, replaced
from resnet.training.loop import train

DEPTHS, EPOCHS, SEEDS = (8, 20), (4, 15), 5
SHORTCUTS = ("identity", "none")
WORTH = 2.0
"""Points of test accuracy from which on a shortcut helps, and below which it does not."""
PROBED = 200


def measure_accuracy(bench: Bench) -> Rows:
    """Test accuracy by depth, epochs and shortcut, on the same seeds."""
    rows = []
    for depth in DEPTHS:
        for epochs in EPOCHS:
            found = {name: _accuracies(bench, depth, epochs, name) for name in SHORTCUTS}
            own, plain = (np.array(found[name]) for name in SHORTCUTS)
            rows.append(
                {"layers": depth, "epochs": epochs, "n": len(own)}
                | {f"{name}, test %": f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"
                   for name, values in (("identity", own), ("none", plain))}
                | {"the identity's gain": mean_of(own - plain),
                   "deviation over seeds, none over identity": _ratio(plain, own)}
            )  # fmt: skip
    return rows


def rule_deep(rows: Rows) -> list[Check]:
    """Checks at each budget how much the identity gains in the deepest nets."""
    return _gains(rows, DEPTHS[-1], Law("at least", WORTH))


def rule_shallow(rows: Rows) -> list[Check]:
    """Checks at each budget how much the identity gains in the shallowest nets."""
    return _gains(rows, DEPTHS[0], Law("at most", WORTH))


def rule_budget(rows: Rows) -> list[Check]:
    """Checks at each depth how much more the identity gains in a short training than in a long one."""
    checks = []
    for depth in DEPTHS:
        short, long = (row_of(rows, layers=depth, epochs=epochs)["the identity's gain"] for epochs in EPOCHS)
        checks.append(Check(f"{depth} layers: points that it gains more in {EPOCHS[0]} epochs than in "
                            f"{EPOCHS[1]}", _difference(short, long), Law("at least", 0.0)))  # fmt: skip
    return checks


def rule_stable(rows: Rows) -> list[Check]:
    """Checks how much more the results of plain nets vary over seeds than those of nets with the identity."""
    name = "deviation over seeds, none over identity"
    return [
        Check(f"{row['layers']} layers, {row['epochs']} epochs: {name}", row[name], Law("at least", 1.0))
        for row in rows
    ]


def _gains(rows: Rows, depth: int, law: Law) -> list[Check]:
    return [
        Check(f"{depth} layers, {row['epochs']} epochs: points gained", row["the identity's gain"], law)
        for row in rows
        if row["layers"] == depth
    ]


def _config(bench: Bench, depth: int, epochs: int, shortcut: str) -> Config:
    return replaced(
        bench.digits,
        {"model.depth": depth, "model.shortcut": shortcut, "train.seeds": SEEDS,
         "train.duration": f"{epochs} epochs"},
    )  # fmt: skip


def _accuracies(bench: Bench, depth: int, epochs: int, shortcut: str) -> list[float]:
    """Test accuracy in percent of the last weights, by seed."""
    config = _config(bench, depth, epochs, shortcut)
    result = train(config, _folder(bench, depth, epochs, shortcut), command="make claims")
    return [100 * run["top1"] for run in result["runs"]]


def _folder(bench: Bench, depth: int, epochs: int, shortcut: str):
    return bench.runs / f"{shortcut}{depth}-{epochs}epochs"


def _ratio(values: np.ndarray, reference: np.ndarray) -> Estimate | None:
    """The ratio of two deviations, with its 95 % interval (F test: values are taken to be normal)."""
    if not reference.std() or not values.std():
        return None
    ratio, freedom = values.std(ddof=1) / reference.std(ddof=1), (len(values) - 1, len(reference) - 1)
    low, high = (scipy.stats.f.ppf(q, *freedom) for q in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Estimate(float(ratio), float(ratio / np.sqrt(high)), float(ratio / np.sqrt(low)), len(values))


def _difference(a: Estimate | None, b: Estimate | None) -> Estimate | None:
    """a - b of independent means, each with an interval of one width on both sides."""
    if a is None or b is None:
        return None
    half = np.hypot(a.high - a.value, b.high - b.value)
    return Estimate(a.value - b.value, float(a.value - b.value - half), float(a.value - b.value + half), a.n)


def measure_dead(bench: Bench) -> Rows:
    """Channels whose ReLU gives 0 at every pixel of every image, before and after training."""
    bench.once(measure_accuracy)
    depth, epochs, rows = DEPTHS[-1], EPOCHS[-1], []
    for shortcut in SHORTCUTS:
        config = replaced(_config(bench, depth, epochs, shortcut), {"train.seeds": 1})
        folder = _folder(bench, depth, epochs, shortcut)
        for when in ("at the start", "trained"):
            shares = []
            for seed in range(SEEDS):
                subject = (
                    of_config(shortcut, replaced(config, {"seed": seed}), data="train", images=PROBED)
                    if when == "at the start"
                    else of_run(folder / f"seed{seed}", data="train", images=PROBED)
                )
                shares.append(_dead_share(subject))
            rows.append({"shortcut": shortcut, "layers": depth, "when": when, "n": SEEDS,
                         "% of channels dead": mean_of(100 * np.array(shares))})  # fmt: skip
    return rows


def rule_dead(rows: Rows) -> list[Check]:
    return [
        Check(f"{row['shortcut']}, {row['when']}: % of channels dead", row["% of channels dead"],
              Law("at least", 1.0))
        for row in rows
        if row["when"] == "trained"
    ]  # fmt: skip


def _dead_share(subject: Subject) -> float:
    """Share of the first ReLU's channels in all branches that no image opens."""
    x, dead = subject.images, []
    for part in subject.parts("batch" if subject.step is None else "running"):
        if part.arrays is not None:
            before = part.responses(x)["norm1"]
            dead.append(jnp.all(before <= 0, axis=(0, 1, 2)))
        x = part(x)
    return float(jnp.concatenate(dead).mean())


def picture_of_gain(rows: Rows) -> dict[str, object]:
    """The identity's gain by depth, one line a budget."""
    figure, (axes,) = pictures.panels(1)
    for i, epochs in enumerate(EPOCHS):
        own = [row for row in rows if row["epochs"] == epochs]
        gains = [row["the identity's gain"] for row in own]
        axes.errorbar([row["layers"] for row in own], [g.value for g in gains],
                      yerr=[g.high - g.value for g in gains], label=f"{epochs} epochs", marker="o",
                      capsize=3, **pictures.style(i))  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="layers", ylabel="points gained by the identity")
    axes.legend(frameon=False)
    return {"gain.png": figure}


_STUDY = "make study"
_NETS = f"On digits, half the width, {SEEDS} seeds, {EPOCHS[0]} and {EPOCHS[1]} epochs"
CLAIMS = (
    Claim(
        "Identity shortcuts help deep nets",
        f"{_NETS}: at {DEPTHS[-1]} layers the identity gains at least {WORTH:g} points of test accuracy.",
        _STUDY, lambda bench: bench.once(measure_accuracy), rule_deep, picture_of_gain,
    ),
    Claim(
        "Identity shortcuts do not help shallow nets",
        f"{_NETS}: at {DEPTHS[0]} layers the identity gains at most {WORTH:g} points.",
        _STUDY, lambda bench: bench.once(measure_accuracy), rule_shallow,
    ),
    Claim(
        "What the identity is worth shrinks with the budget",
        f"{_NETS}: at each depth it gains more in the short training than in the long one.",
        _STUDY, lambda bench: bench.once(measure_accuracy), rule_budget,
    ),
    Claim(
        "Training is more stable with the identity",
        f"{_NETS}: at each depth and budget the accuracies of plain nets deviate more over seeds.",
        _STUDY, lambda bench: bench.once(measure_accuracy), rule_stable,
    ),
    Claim(
        "ReLU leaves units dead",
        f"After {EPOCHS[-1]} epochs, at least 1 % of the channels behind the first ReLU of all branches are "
        f"0 at every pixel of {PROBED} images.",
        "python scripts/claims.py --only=trained", measure_dead, rule_dead,
    ),
)  # fmt: skip
