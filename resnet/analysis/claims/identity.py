"""What the shortcut alone does: it returns its input, costs nothing, and cannot change a shape."""

from typing import Any

import jax
import jax.numpy as jnp

from resnet.analysis.claims.claim import Bench, Claim, Rows, row_of
from resnet.analysis.laws import Check, Law, check
from resnet.analysis.subject import of_config
from resnet.config import Config, replaced
from resnet.data.datasets import shapes_of
from resnet.errors import InputError
from resnet.models.chain import rms
from resnet.models.counts import count_parts, totals
from resnet.models.grammar import check_net
from resnet.models.shortcuts.transitions import TRANSITIONS

BLOCKS = {"model.shortcut": "rezero", "model.blocks": (54,)}
CHANGED = ("values of the signal changed", "values of the gradient changed")
LEFT = "gradient"
SHORTCUTS = {
    "identity": {},
    "0.5 x": {"model.shortcut": "constant_scaling", "model.branch_scale": 0.0},
    "identity, sigmoid after the sum": {"model.after_sum": "sigmoid"},
}
KEPT = "kept of the sum of x²"
ZERO, ONE = Law("equal", 0.0), Law("equal", 1.0)


def measure_alone(bench: Bench) -> Rows:
    """Blocks whose branches give 0: input and output, gradient at the top and at the bottom."""
    rows = []
    for name, more in SHORTCUTS.items():
        subject = of_config(name, replaced(bench.chain, BLOCKS | more), images=bench.images)
        stem, first, *blocks, _ = subject.parts()
        inputs = [first(stem(subject.images))]
        for block in blocks:
            inputs.append(block(inputs[-1]))
        x, y = inputs[0], inputs.pop()
        below = g = jax.random.normal(jax.random.key(0), x.shape)
        for block, own in zip(reversed(blocks), reversed(inputs), strict=True):
            below = block.pull(own, below)
        rows.append(
            {"shortcut": name, "blocks": len(blocks), "values": x.size,
             CHANGED[0]: int((x != y).sum()), CHANGED[1]: int((g != below).sum()),
             LEFT: float(rms(below) / rms(g))}
        )  # fmt: skip
    return rows


def rule_returned(rows: Rows) -> list[Check]:
    row = row_of(rows, shortcut="identity")
    return [check(f"identity: {what}", row[what], ZERO) for what in CHANGED]


def rule_others(rows: Rows) -> list[Check]:
    others = [row for row in rows if row["shortcut"] != "identity"]
    return [check(f"{row['shortcut']}: {LEFT}", row[LEFT], Law("at most", 1e-3)) for row in others]


def measure_costs(bench: Bench) -> Rows:
    """Parameters and multiply-accumulates of nets that differ in the shortcut alone."""
    rows = []
    for name in ("none", "identity", "projection", "shortcut_only_gating", "exclusive_gating"):
        config = replaced(bench.digits, {"model.shortcut": name})
        image, outputs = shapes_of(config.data)
        parameters, macs = totals(count_parts(config.model, outputs, image))
        rows.append({"shortcut": name, "parameters": parameters, "multiply-accumulates": macs})
    return rows


def rule_costs(rows: Rows) -> list[Check]:
    plain, identity = (row_of(rows, shortcut=name) for name in ("none", "identity"))
    return [
        check(f"{what} that the identity adds", identity[what] - plain[what], ZERO)
        for what in ("parameters", "multiply-accumulates")
    ]


def measure_shapes(bench: Bench) -> Rows:
    """Cost and effect of zero padding and of matrices where the shape changes; the identity is refused."""
    rows = []
    for name, fields in _transitions().items():
        config = replaced(bench.digits, fields | {"model.blocks": (1, 1, 1), "model.after_sum": "identity"})
        # A norm behind a matrix would bring whatever it keeps to one size.
        alone = replaced(config, {"model.norm": "none"})
        subject = of_config(name, alone, images=bench.images)
        stem, first, block, *_ = subject.parts("batch")
        x = jax.eval_shape(lambda images, stem=stem, first=first: first(stem(images)), subject.images)
        x = jax.random.normal(jax.random.key(1), x.shape)
        y = block.join(x, jnp.zeros(jax.eval_shape(block, x).shape))
        g = jax.random.normal(jax.random.key(2), y.shape)
        down = block.pull_through(x, g, branch=False)
        costs, without = (_cost(replaced(config, {"model.shortcut": name})) for name in ("identity", "none"))
        rows.append(
            {"where shapes differ": name, "parameters": costs[0] - without[0],
             "multiply-accumulates": costs[1] - without[1],
             KEPT: float(jnp.square(y).sum() / jnp.square(x).sum()),
             "kept of the gradient's": float(jnp.square(down).sum() / jnp.square(g).sum()),
             "pixels with a gradient": float((down != 0).any((0, 3)).mean()), "refused": ""}
        )  # fmt: skip
    rows.append({"where shapes differ": "none", "refused": _refusal(bench.digits)})
    return rows


def rule_shapes(rows: Rows) -> list[Check]:
    pad, matrix, none = (row_of(rows, **{"where shapes differ": n}) for n in ("pad", "projection", "none"))
    return [
        check("parameters of zero padding", pad["parameters"], ZERO),
        check("multiply-accumulates of zero padding", pad["multiply-accumulates"], ZERO),
        check("parameters of a matrix", matrix["parameters"], Law("at least", 1.0)),
        check("nets with neither that are accepted", int(not none["refused"]), ZERO),
    ]


def rule_preserved(rows: Rows) -> list[Check]:
    return [
        check(f"{row['where shapes differ']}: {KEPT}", row[KEPT], ONE) for row in rows if not row["refused"]
    ]


def _refusal(digits: Config) -> str:
    """What the grammar says of a net that has nothing for x where the shape changes."""
    try:
        check_net(replaced(digits, {"model.transition": "none"}).model)
    except InputError as error:
        return str(error)
    return ""


def _transitions() -> dict[str, dict[str, Any]]:
    """Every change of shape of the grammar, but for the one that refuses it."""
    found = {name: {"model.transition": name} for name in TRANSITIONS if name != "none"}
    return {"pad": found.pop("pad"), "pad, averaging": {"model.pad_mode": "average"}} | found


def _cost(config: Config) -> tuple[int, int]:
    """(parameters, multiply-accumulates) of the first block that changes shape."""
    image, outputs = shapes_of(config.data)
    part = count_parts(config.model, outputs, image)[2]
    return part.parameters, part.macs


CLAIMS = (
    Claim(
        "The identity returns its input bit for bit, forward and backward",
        f"Through {BLOCKS['model.blocks'][0] - 1} blocks whose branches give 0, no value of signal or "
        "gradient changes.",
        "Blocks that add nothing change x all the same, by rounding at least.",
        lambda bench: bench.once(measure_alone), rule_returned,
    ),
    Claim(
        "Another function in the place of the identity, once in each block, forgets",
        "In the same net with 0.5 x, or with a sigmoid after the sum, at most 1/1000 of the gradient is "
        "left.",
        "That the gradient is kept is no merit of the identity: other functions keep it as well.",
        lambda bench: bench.once(measure_alone), rule_others,
    ),
    Claim(
        "The identity is simple: it has no parameters and does no multiplication",
        "A ResNet-20 with the identity has as many parameters and multiply-accumulates as one without "
        "shortcuts.",
        "The shortcut costs something, even where it changes nothing.",
        measure_costs, rule_costs,
    ),
    Claim(
        "Where shapes differ, zero padding is free, a matrix costs parameters, and without either the net is "
        "refused",
        "From 8 to 16 channels at stride 2, zero padding adds no parameter and no multiplication, a 1x1 "
        "convolution adds some, and a net with neither does not start.",
        "The costs of a change of shape are others than these.",
        lambda bench: bench.once(measure_shapes), rule_shapes,
    ),
    Claim(
        "Where shapes differ, the shortcut still keeps all of its input",
        "Each way to change the shape keeps all of the sum of x².",
        "Where the shape changes, the shortcut is not the identity, and a part of x is lost there: x comes "
        "unchanged through the blocks of a stage, and not through the net.",
        lambda bench: bench.once(measure_shapes), rule_preserved,
    ),
)  # fmt: skip
