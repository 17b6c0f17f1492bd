"""What depth does to signal and gradient at the start, with and without the identity, and in theory."""

import math
from typing import Any

import numpy as np

from resnet.analysis import pictures, signal, theory
from resnet.analysis.claims.claim import Bench, Claim, Rows, signal_command
from resnet.analysis.growth import Estimate, exp_of, slope_of
from resnet.analysis.laws import Check, Law
from resnet.analysis.subject import of_config
from resnet.config import replaced
from resnet.models.chain import Flow
from resnet.models.geometry import FAMILIES

SETUPS = {setup.name: setup for setup in theory.SETUPS}
PLAIN = ("plain, linear", "plain, ReLU", "plain, sigmoid", "plain, tanh")
NORMED = ("plain, batch norm, ReLU", "plain, batch norm, linear")
CARRIED = ("identity, no norm", "identity, batch norm", "identity, branch scale 0 (ReZero)")
SPOILT = ("0.5 x, branch scale 0", "identity, branch scale 0, sigmoid after the sum")
KEPT = 10.0
"""Signal and gradient are kept over 27 blocks if they grow or shrink by no more than this factor."""
WIDTHS = (16, 32, 64, 128, 256)
WIDTH = 64
"""Channels where the images of a batch vary."""
BATCHES = (0.25, 4.0)
"""Times the images of the other measurements."""
NETS = 3
SHORT = 20
"""Blocks where the width varies: what a net costs grows with its square."""
OVER = "theory over measured, 27 blocks"


def measure_growth(bench: Bench) -> Rows:
    """Every set-up of theory.py: growth over 27 blocks, measured and expected."""
    rows = []
    for name, setup in SETUPS.items():
        outcome = theory.measure(setup, bench.chain, bench.images, bench.seeds)
        rows.append(
            {"net": name, "signal": outcome.signal_over_depth, "gradient": outcome.gradient_over_depth,
             "gradient per block": setup.gradient.words(outcome.gradient), "theory": str(setup.gradient),
             "because": setup.why,
             "_checks": outcome.checks(), "_flow": outcome.net.flow}
        )  # fmt: skip
    return rows


def growth(bench: Bench, names: tuple[str, ...]) -> Rows:
    """The rows of some set-ups."""
    return [row for row in bench.once(measure_growth) if row["net"] in names]


def rule_lost_or_blown_up(rows: Rows) -> list[Check]:
    """Checks that the gradient of each net grows or shrinks by more than the factor KEPT."""
    return [Check(f"{row['net']}: gradient", row["gradient"], Law("beyond factor", KEPT)) for row in rows]


def rule_kept(rows: Rows) -> list[Check]:
    """Checks that signal and gradient of each net grow or shrink by the factor KEPT at most."""
    law = Law("within factor", KEPT)
    return [Check(f"{row['net']}: {what}", row[what], law) for row in rows for what in ("signal", "gradient")]


def rule_not_lost(rows: Rows) -> list[Check]:
    law = Law("at least", 1.0, theory.FINITE)
    return [Check(f"{row['net']}: {what}", row[what], law) for row in rows for what in ("signal", "gradient")]


def rule_lost(rows: Rows) -> list[Check]:
    return [Check(f"{row['net']}: gradient", row["gradient"], Law("at most", 1e-3)) for row in rows]


def rule_theory(rows: Rows) -> list[Check]:
    return [check for row in rows for check in row["_checks"]]


def measure_gap(bench: Bench) -> Rows:
    """The growth of the gradient in plain nets with batch norm and ReLU, by width and images in a batch."""
    batches = [round(bench.images * factor) for factor in BATCHES]
    return [
        _gap(bench, channels, images)
        for channels, images in [*((width, bench.images) for width in WIDTHS), *((WIDTH, n) for n in batches)]
    ]


def rule_gap(rows: Rows) -> list[Check]:
    """Checks that the gap falls with width and images, and that the largest of each have none."""
    images = rows[0]["images"]
    checks = []
    for what, own in (
        ("channels", [row for row in rows if row["images"] == images]),
        ("images", sorted((row for row in rows if row["channels"] == WIDTH), key=lambda row: row["images"])),
    ):
        gaps, most = [row["gap (log)"] for row in own], own[-1]
        slope = slope_of([math.log2(row[what]) for row in own], gaps) if all(gaps) else None
        checks += [
            Check(f"change of the gap when the {what} double", slope, Law("at most", 0.0)),
            Check(f"{most[what]} {what}: {OVER}", most[OVER], Law("equal", 1.0, theory.FINITE)),
        ]
    return checks


def _gap(bench: Bench, channels: int, images: int) -> dict[str, Any]:
    setup, first = SETUPS[NORMED[0]], FAMILIES[bench.chain.model.family][0]
    own = {"model.width": channels / first, "model.blocks": (SHORT,)}
    subject = of_config("plain", replaced(bench.chain, dict(setup.model) | own), images=images)
    rate = signal.ask(subject, signal.Options(seeds=NETS)).nets[0].gradient
    gap, expected = None, setup.gradient.value
    if rate:
        value, low, high = (math.log(expected / each) for each in (rate.value, rate.high, rate.low))
        gap = Estimate(value, low, high, rate.n)
    return {"channels": channels, "images": images, "nets": NETS, "gradient per block": rate,
            "theory": expected, "gap (log)": gap, OVER: exp_of(gap, theory.BLOCKS)}  # fmt: skip


def picture(name: str) -> Any:
    """Signal and gradient against the block, one line a net, as `name`."""

    def draw(rows: Rows) -> dict[str, Any]:
        figure, (up, down) = pictures.panels(2, height=4.2)
        for i, row in enumerate(rows):
            f: Flow = row["_flow"]
            for axes, values in ((up, f.x), (down, f.gradient)):
                axes.plot(
                    np.arange(len(values)), values / math.log(10), label=row["net"], **pictures.style(i)
                )
        for axes, title in ((up, "signal, on the way up"), (down, "gradient, on the way down")):
            axes.set(xlabel="residual block", ylabel="log10 of the root mean square", title=title)
        pictures.legend_below(figure, up, columns=2)
        return {name: figure}

    return draw


def picture_of_gap(rows: Rows) -> dict[str, Any]:
    """The gap to theory against the width, and against the images of a batch."""
    figure, panels = pictures.panels(2)
    for axes, what, fixed in zip(panels, ("channels", "images"), ("images", "channels"), strict=True):
        common = {"images": rows[0]["images"], "channels": WIDTH}[fixed]
        own = [row for row in rows if row[fixed] == common and row["gap (log)"]]
        gaps, places = [row["gap (log)"] for row in own], [row[what] for row in own]
        axes.errorbar(places, [gap.value for gap in gaps],
                      yerr=np.array([(gap.value - gap.low, gap.high - gap.value) for gap in gaps]).T,
                      **pictures.style(0) | {"marker": "o", "linestyle": "none"})  # fmt: skip
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(
            xscale="log", xlabel=f"{what} ({common} {fixed})", ylabel="log(theory / measured), per block"
        )
        axes.set_xticks(places, [str(place) for place in places])
        axes.set_xticks([], minor=True)
    return {"gap.png": figure}


CLAIMS = (
    Claim(
        "A deep plain net loses the gradient or blows it up",
        f"Without shortcut and norm, 27 blocks change the gradient more than {KEPT:g}-fold, whatever the "
        "activation.",
        "Some activations keep the gradient of a plain net, where its weights start at the variance made for "
        "them; depth alone does not lose it.",
        lambda bench: growth(bench, PLAIN), rule_lost_or_blown_up, picture("plain.png"),
        signal_command(SETUPS["plain, sigmoid"].model),
    ),
    Claim(
        "Batch norm alone keeps signal and gradient",
        f"Without shortcut, 27 blocks change signal and gradient less than {KEPT:g}-fold.",
        "Batch norm alone is not enough to keep both.",
        lambda bench: growth(bench, NORMED), rule_kept, picture("batch_norm.png"),
        signal_command(SETUPS[NORMED[0]].model),
    ),
    Claim(
        "The identity lets neither signal nor gradient vanish, through any depth",
        "With the identity, both are at least as large after 27 blocks as before.",
        "With the identity too, signal or gradient can become small.",
        lambda bench: growth(bench, CARRIED), rule_not_lost, picture("shortcuts.png"), signal_command({}),
    ),
    Claim(
        "The identity keeps the size of signal and gradient through any depth",
        f"With the identity, 27 blocks change both less than {KEPT:g}-fold.",
        "The identity passes x on as it is, but each block adds F(x) to it: the sum may grow from block to "
        "block, unless F is small.",
        lambda bench: growth(bench, CARRIED), rule_kept, command=signal_command({"model.norm": "none"}),
    ),
    Claim(
        "Half of x, or a sigmoid after each sum, loses the gradient where the identity keeps it",
        "With branches that give 0, at most 1/1000 of the gradient comes through 27 blocks.",
        "What takes the place of the identity need not lose the gradient.",
        lambda bench: growth(bench, SPOILT), rule_lost, command=signal_command(SETUPS[SPOILT[1]].model),
    ),
    Claim(
        "Theory gives the growth of signal and gradient",
        "Over 27 blocks each growth is the one that is calculated for infinitely wide layers and infinitely "
        f"many images in a batch, within a factor of {theory.FINITE:g}.",
        "Not each growth is the calculated one: a small error of a block multiplies 27 times.",
        lambda bench: growth(bench, tuple(SETUPS)), rule_theory, command=signal_command({}),
    ),
    Claim(
        "Where theory and nets differ, wider layers and larger batches come closer to it",
        f"Plain nets with batch norm and ReLU, {NETS} of each size, {SHORT} blocks: the gap, the logarithm "
        "of theory's growth per block over the measured one, falls as channels or images double, and the "
        f"widest net and the largest batch meet theory over 27 blocks within a factor of {theory.FINITE:g}. "
        "The change is the slope of a line through all sizes, each weighted by its interval.",
        "Something else than finite layers and batches makes a part of the gap. Theory is that of fully "
        "connected layers, and neighbouring pixels of a convolution share most of what they read.",
        measure_gap, rule_gap, picture_of_gap,
    ),
)  # fmt: skip
