"""Trained nets: what the identity is worth by depth and budget, and how far seeds differ."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.stats

from resnet.analysis import pictures
from resnet.analysis.claims.claim import RUNS, Bench, Claim, Rows
from resnet.analysis.claims.kept import SHORTCUTS, STUDIES, Accuracies
from resnet.analysis.growth import CONFIDENCE, Estimate, mean_of
from resnet.analysis.laws import Check, Law

DEPTHS, EPOCHS = (8, 20), (4, 15)
SHALLOW, DEEP = 8, 56
HERE = "this page"
WORTH = 2.0
"""Points of test accuracy from which on a shortcut helps, and below which it does not."""
GAIN, RATIO = "the identity's gain", "deviation over seeds, none over identity"


def net_folder(shortcut: str, layers: int, epochs: int) -> str:
    """The folder of a net of this page."""
    return f"{shortcut}-{layers}-{epochs}epochs"


def measure_accuracy(bench: Bench) -> Rows:
    """Test accuracy by depth, epochs and shortcut, on the same seeds, of this page's nets and kept ones."""
    here: Accuracies = {}
    for layers, epochs, shortcut in itertools.product(DEPTHS, EPOCHS, SHORTCUTS):
        net = {"model.depth": layers, "model.shortcut": shortcut, "train.duration": f"{epochs} epochs"}
        _, accuracies = bench.trained(net_folder(shortcut, layers, epochs), net)
        here[layers, epochs, shortcut] = dict(enumerate(accuracies))
    return [
        row for study, found in ({HERE: here} | dict(bench.kept)).items() for row in compared(study, found)
    ]


def compared(study: str, found: Accuracies) -> Iterator[dict[str, Any]]:
    """One row for each depth and budget at which both nets have two seeds in common."""
    for layers, epochs in sorted({key[:2] for key in found}):
        own, plain = (found.get((layers, epochs, name), {}) for name in SHORTCUTS)
        seeds = sorted(own.keys() & plain.keys())
        if len(seeds) < 2:
            continue
        own, plain = (np.array([runs[seed] for seed in seeds]) for runs in (own, plain))
        yield {
            "study": study, "layers": layers, "epochs": epochs, "n": len(own),
            "identity, test %": f"{own.mean():.2f} ± {own.std(ddof=1):.2f}",
            "none, test %": f"{plain.mean():.2f} ± {plain.std(ddof=1):.2f}",
            GAIN: mean_of(own - plain), RATIO: _ratio(plain, own),
        }  # fmt: skip


def rule_deep(rows: Rows) -> list[Check]:
    """Checks whether the identity gains at least WORTH points of accuracy in each net of DEEP layers."""
    return [_gain(row, Law("at least", WORTH)) for row in rows if row["layers"] == DEEP]


def rule_shallow(rows: Rows) -> list[Check]:
    """Checks whether the identity gains at most WORTH points of accuracy in each net of SHALLOW layers."""
    return [_gain(row, Law("at most", WORTH)) for row in rows if row["layers"] == SHALLOW]


def rule_depth(rows: Rows) -> list[Check]:
    """Checks in each study and budget how much more the identity gains in the deeper of two nets."""
    return [
        _gains_more(deep, shallow, f"at {shallow['layers']} layers")
        for shallow, deep in _pairs(rows, "study", "epochs")
    ]


def rule_budget(rows: Rows) -> list[Check]:
    """Checks in each study and depth how much more the identity gains in the shorter of two trainings."""
    return [
        _gains_more(short, long, f"in {long['epochs']} epochs")
        for short, long in _pairs(rows, "study", "layers")
    ]


def rule_stable(rows: Rows) -> list[Check]:
    """Checks how much more the results of plain nets vary over seeds than those of nets with the identity."""
    return [Check(f"{_which(row)}: {RATIO}", row[RATIO], Law("at least", 1.0)) for row in rows]


def _gain(row: Mapping[str, Any], law: Law) -> Check:
    return Check(f"{_which(row)}: points gained", row[GAIN], law)


def _pairs(rows: Rows, *columns: str) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yields each pair of rows that have equal values in these columns."""
    for a, b in itertools.combinations(rows, 2):
        if all(a[each] == b[each] for each in columns):
            yield a, b


def _gains_more(row: Mapping[str, Any], other: Mapping[str, Any], where: str) -> Check:
    """Checks how much more the identity gains in one row than in the other, which is `where` in words."""
    what = f"{_which(row)}: points gained more than {where}"
    return Check(what, _difference(row[GAIN], other[GAIN]), Law("at least", 0.0))


def _which(row: Mapping[str, Any]) -> str:
    return f"{row['study']}, {row['layers']} layers, {row['epochs']} epochs"


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


def picture_of_gain(rows: Rows) -> dict[str, object]:
    """The identity's gain by depth, one line for each study and budget."""
    figure, (axes,) = pictures.panels(1, width=6.4)
    for i, (study, epochs) in enumerate(dict.fromkeys((row["study"], row["epochs"]) for row in rows)):
        # Another marker where colours begin again.
        marker = pictures.MARKERS[(i + i // len(pictures.COLORS)) % len(pictures.MARKERS)]
        own = [row for row in rows if (row["study"], row["epochs"]) == (study, epochs)]
        gains = [row[GAIN] for row in own]
        axes.errorbar([row["layers"] for row in own], [g.value for g in gains],
                      yerr=[g.high - g.value for g in gains], label=f"{study}, {epochs} epochs", capsize=3,
                      marker=marker, **pictures.style(i))  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="layers", ylabel="points gained by the identity")
    pictures.legend_beside(figure)
    return {"gain.png": figure}


_HERE = f"nets of this page (digits, half the width, {RUNS} seeds, {EPOCHS[0]} and {EPOCHS[1]} epochs)"
_NETS = f"In the {_HERE} and of the studies {', '.join(STUDIES)}"
CLAIMS = (
    Claim(
        "Identity shortcuts help deep nets",
        f"{_NETS}: at {DEEP} layers the identity gains at least {WORTH:g} points of test accuracy.",
        "There are deep nets that train as well without the identity.",
        lambda bench: bench.once(measure_accuracy), rule_deep, picture_of_gain,
    ),
    Claim(
        "Identity shortcuts do not help shallow nets",
        f"{_NETS}: at {SHALLOW} layers the identity gains at most {WORTH:g} points.",
        "Shallow nets gain from the identity too.",
        lambda bench: bench.once(measure_accuracy), rule_shallow,
    ),
    Claim(
        "What the identity is worth grows with depth",
        f"{_NETS}: it gains more in the deeper of any two nets.",
        "Some deeper net gains less than a shallower one.",
        lambda bench: bench.once(measure_accuracy), rule_depth,
    ),
    Claim(
        "What the identity is worth shrinks with the budget",
        f"{_NETS}: it gains more in the shorter of any two trainings.",
        "Longer training does not make up for a missing identity.",
        lambda bench: bench.once(measure_accuracy), rule_budget,
    ),
    Claim(
        "Training is more stable with the identity",
        f"{_NETS}: at each depth and budget the accuracies of plain nets deviate more over seeds.",
        "Somewhere nets with the identity deviate more: they differ in whether, or when, they learned.",
        lambda bench: bench.once(measure_accuracy), rule_stable,
    ),
)  # fmt: skip
