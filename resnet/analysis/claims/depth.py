"""What depth does to signal and gradient at the start, with and without the identity, and in theory."""

import itertools
import math
from typing import Any

import numpy as np

from resnet.analysis import pictures, signal, theory
from resnet.analysis.claims.claim import Bench, Claim, Rows, signal_command
from resnet.analysis.growth import Estimate, mean_of
from resnet.analysis.laws import Check, Law
from resnet.analysis.subject import of_config
from resnet.config import replaced
from resnet.models.chain import Flow

SETUPS = {setup.name: setup for setup in theory.SETUPS}
PLAIN = ("plain, linear", "plain, ReLU", "plain, sigmoid", "plain, tanh")
NORMED = ("plain, batch norm, ReLU", "plain, batch norm, linear")
CARRIED = ("identity, no norm", "identity, batch norm", "identity, branch scale 0 (ReZero)")
SPOILT = ("0.5 x alone", "the same, sigmoid after the sum")
KEPT = 10.0
"""Signal and gradient are kept over 27 blocks if they change by no more than this factor."""
WIDTHS = (16, 32, 64, 128, 256)
WIDE_BLOCKS = 20


def measure_growth(bench: Bench) -> Rows:
    """Every set-up of theory.py: growth over 27 blocks, measured and expected."""
    rows = []
    for name, setup in SETUPS.items():
        outcome = theory.measure(setup, bench.chain, bench.images, bench.seeds)
        rows.append(
            {"net": name, "signal": outcome.signal_over_depth, "gradient": outcome.gradient_over_depth,
             "per block": str(outcome.gradient), "theory per block": str(setup.gradient),
             "because": setup.why,
             "_checks": outcome.checks(), "_flow": outcome.net.flow}
        )  # fmt: skip
    return rows


def growth(bench: Bench, names: tuple[str, ...]) -> Rows:
    """The rows of some set-ups."""
    return [row for row in bench.once(measure_growth) if row["net"] in names]


def rule_lost_or_blown_up(rows: Rows) -> list[Check]:
    """Checks that the gradient of each net grows or shrinks at least tenfold."""
    return [
        Check(f"{row['net']}: powers of ten of the gradient", _powers(row["gradient"]), Law("at least", 1.0))
        for row in rows
    ]


def rule_kept(rows: Rows) -> list[Check]:
    """Checks that signal and gradient of each net grow or shrink by the factor KEPT at most."""
    law = Law("equal", 1.0, KEPT)
    return [Check(f"{row['net']}: {what}", row[what], law) for row in rows for what in ("signal", "gradient")]


def rule_not_lost(rows: Rows) -> list[Check]:
    law = Law("at least", 1.0, theory.FINITE)
    return [Check(f"{row['net']}: {what}", row[what], law) for row in rows for what in ("signal", "gradient")]


def rule_lost(rows: Rows) -> list[Check]:
    return [Check(f"{row['net']}: gradient", row["gradient"], Law("at most", 1e-3)) for row in rows]


def rule_theory(rows: Rows) -> list[Check]:
    return [check for row in rows for check in row["_checks"]]


def measure_widths(bench: Bench) -> Rows:
    """The growth of the gradient in plain nets with batch norm and ReLU, from narrow to wide."""
    base, rows = bench.chain.model.width, []
    setup = SETUPS[NORMED[0]]
    for width in WIDTHS:
        # Few blocks and one net: what a wide one costs grows with the square of its width.
        own = {
            "model.width": width / 64 * base,
            "model.blocks": (min(WIDE_BLOCKS, bench.chain.model.blocks[0]),),
        }
        subject = of_config(str(width), replaced(bench.chain, dict(setup.model) | own), images=bench.images)
        net = signal.ask(subject, signal.Options()).nets[0]
        gap, expected = None, setup.gradient.value
        if net.gradient:
            value, low, high = (
                math.log(expected / rate)
                for rate in (net.gradient.value, net.gradient.high, net.gradient.low)
            )
            gap = Estimate(value, low, high, net.gradient.n)
        rows.append(
            {"channels": round(16 * own["model.width"]), "gradient per block": net.gradient,
             "theory": setup.gradient.value, "gap (log)": gap,
             "theory over measured, 27 blocks": gap and math.exp(gap.value * theory.BLOCKS)}
        )  # fmt: skip
    return rows


def rule_widths(rows: Rows) -> list[Check]:
    """Checks that the gap shrinks as the width grows, and that the widest net has none."""
    gaps = [row["gap (log)"] for row in rows]
    known = [
        (row["channels"], gap.value) for row, gap in zip(rows, gaps, strict=True) if gap and gap.value > 0
    ]
    slopes = [
        math.log(after / before) / math.log(wide / narrow)
        for (narrow, before), (wide, after) in itertools.pairwise(known)
    ]
    widest = rows[-1]
    per_depth = None
    if gaps[-1]:
        value, low, high = (
            math.exp(each * theory.BLOCKS) for each in (gaps[-1].value, gaps[-1].low, gaps[-1].high)
        )
        per_depth = Estimate(value, low, high, gaps[-1].n)
    return [
        Check("power of the width by which the gap falls", mean_of(slopes), Law("at most", 0.0)),
        Check(f"theory over measured at {widest['channels']} channels, 27 blocks", per_depth,
              Law("equal", 1.0, theory.FINITE)),
    ]  # fmt: skip


def _powers(growth: Estimate | None) -> Estimate | None:
    """The powers of ten by which something grows or shrinks, without their sign."""
    if growth is None:
        return None
    low, high = (math.log10(max(end, 1e-300)) for end in (growth.low, growth.high))
    nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    value = abs(math.log10(max(growth.value, 1e-300)))
    return Estimate(value, nearest, max(abs(low), abs(high)), growth.n)


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


def picture_of_widths(rows: Rows) -> dict[str, Any]:
    """The gap to theory against the width."""
    figure, (axes,) = pictures.panels(1)
    gaps = [row["gap (log)"] for row in rows]
    found = [(row["channels"], gap) for row, gap in zip(rows, gaps, strict=True) if gap is not None]
    axes.errorbar([width for width, _ in found], [gap.value for _, gap in found],
                  yerr=np.array([(gap.value - gap.low, gap.high - gap.value) for _, gap in found]).T,
                  marker="o", **pictures.style(0))  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="channels", ylabel="log(theory / measured), per block")
    axes.set_xticks([width for width, _ in found], [str(width) for width, _ in found])
    axes.set_xticks([], minor=True)
    return {"widths.png": figure}


CLAIMS = (
    Claim(
        "A deep plain net loses the gradient or blows it up",
        "Without shortcut and norm, the gradient changes by a power of ten or more over 27 blocks, whatever "
        "the activation.",
        signal_command(SETUPS["plain, sigmoid"].model), lambda bench: growth(bench, PLAIN),
        rule_lost_or_blown_up, picture("plain.png"),
    ),
    Claim(
        "Batch norm alone keeps signal and gradient",
        "Without shortcut, signal and gradient stay within a factor of ten over 27 blocks.",
        signal_command(SETUPS[NORMED[0]].model), lambda bench: growth(bench, NORMED), rule_kept,
        picture("batch_norm.png"),
    ),
    Claim(
        "The identity lets neither signal nor gradient vanish, through any depth",
        "With the identity, both are at least as large after 27 blocks as before.",
        signal_command({}), lambda bench: growth(bench, CARRIED), rule_not_lost, picture("shortcuts.png"),
    ),
    Claim(
        "The identity keeps the size of signal and gradient through any depth",
        "With the identity, both stay within a factor of ten over 27 blocks.",
        signal_command({"model.norm": "none"}), lambda bench: growth(bench, CARRIED), rule_kept,
    ),
    Claim(
        "What stands on the detour in each block spoils it",
        "With 0.5 x, or with a sigmoid after each sum, at most 1/1000 of the gradient comes through 27 "
        "blocks.",
        signal_command(SETUPS[SPOILT[1]].model), lambda bench: growth(bench, SPOILT), rule_lost,
    ),
    Claim(
        "Theory gives the growth of signal and gradient",
        f"Over 27 blocks each measured growth is the one of endless layers and batches, within a factor of "
        f"{theory.FINITE:g}.",
        signal_command({}), lambda bench: growth(bench, tuple(SETUPS)), rule_theory,
    ),
    Claim(
        "What is missing to theory is the width of the nets",
        "In plain nets with batch norm and ReLU the gap to theory falls with the width, and the widest net "
        f"meets it over 27 blocks within a factor of {theory.FINITE:g}.",
        signal_command(dict(SETUPS[NORMED[0]].model) | {"model.width": 16.0, "model.blocks": (WIDE_BLOCKS,)}),
        measure_widths, rule_widths, picture_of_widths,
    ),
)  # fmt: skip
