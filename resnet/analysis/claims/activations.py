"""What sigmoid, ReLU and the identity do to the gradient: their slopes, and where in a block they stand."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from resnet.analysis.claims import dense
from resnet.analysis.claims.claim import Bench, Claim, Rows, row_of, signal_command
from resnet.analysis.growth import mean_of
from resnet.analysis.laws import Check, Law, check
from resnet.analysis.subject import of_config
from resnet.analysis.theory import BLOCKS
from resnet.config import replaced
from resnet.models.chain import rms
from resnet.models.layers import ACTIVATIONS

FUNCTIONS = ("identity", "relu", "sigmoid", "tanh")
PLACES = ("inside the branch", "after the sum", "on the shortcut")


def measure_slopes(bench: Bench) -> Rows:
    """Slopes at normal inputs."""
    x = jax.random.normal(jax.random.key(0), (100_000,))
    rows = []
    for name in FUNCTIONS:
        slope = jax.vmap(jax.grad(ACTIVATIONS[name].function))(x)
        rows.append(
            {"function": name, "smallest slope": float(slope.min()), "largest slope": float(slope.max()),
             "mean square": float((slope**2).mean()),
             "share of slopes that are 0": float((slope == 0).mean())}
        )  # fmt: skip
    return rows


def rule_slopes(rows: Rows) -> list[Check]:
    sigmoid, relu, identity = (row_of(rows, function=name) for name in ("sigmoid", "relu", "identity"))
    zero = "share of slopes that are 0"
    return [
        check("sigmoid, largest slope", sigmoid["largest slope"], Law("at most", 0.25)),
        check(f"ReLU, {zero}", relu[zero], Law("at least", 0.01)),
        check("identity, smallest slope", identity["smallest slope"], Law("equal", 1.0)),
        check("identity, largest slope", identity["largest slope"], Law("equal", 1.0)),
    ]


def measure_places(bench: Bench) -> Rows:
    """The gradient after 27 blocks with the identity on the shortcut but for one function in one place."""
    rows = []
    for function in FUNCTIONS:
        row: dict[str, Any] = {"function": function}
        for place in PLACES:
            row[place] = mean_of([_gradient(bench, function, place, seed) for seed in range(bench.seeds)])
        rows.append(row)
    return rows


def rule_places(rows: Rows) -> list[Check]:
    kept, lost = Law("at least", 0.1), Law("at most", 0.01)
    checks = []
    for function in ("relu", "sigmoid"):
        row = row_of(rows, function=function)
        checks += [
            Check(f"{function} {place}", row[place], lost if place != PLACES[0] else kept) for place in PLACES
        ]
    return checks


def _gradient(bench: Bench, function: str, place: str, seed: int) -> float:
    """Scale of the gradient below BLOCKS blocks, where it is 1 above them."""
    inside, after = place == PLACES[0], place == PLACES[1]
    net = {
        "model.blocks": (BLOCKS,),
        "model.activation": function if inside else "relu",
        "model.after_sum": function if after else "identity",
    }
    subject = of_config(function, replaced(bench.chain, net | {"seed": seed}), images=bench.images)
    stem, *blocks, _ = subject.parts("batch")
    on_shortcut = ACTIVATIONS[function if place == PLACES[2] else "identity"].function

    def step(block, x: Array) -> Array:
        return block.join(on_shortcut(x), block.branch(x))

    joints = [stem(subject.images)]
    for block in blocks:
        joints.append(step(block, joints[-1]))
    gradient = jax.random.normal(jax.random.key(seed), joints[-1].shape)
    top = rms(gradient)
    for block, x in zip(reversed(blocks), reversed(joints[:-1]), strict=True):
        pull: Callable = jax.vjp(lambda x, block=block: step(block, x), x)[1]
        (gradient,) = pull(gradient)
    return float(rms(gradient) / top)


def measure_linear(bench: Bench) -> Rows:
    """Dense nets of 64 units on digits, without norm and shortcut: how far from affine, and how accurate."""
    data = dense.digits(bench.digits)
    rows = []
    for function in ("identity", "relu"):
        for depth in (1, 8, 20, 56):
            nets = [dense.fit_dense(data, function, depth, seed) for seed in range(3)]
            rows.append(
                {"activation": function, "layers": depth, "n": len(nets),
                 "test %": mean_of([100 * net.accuracy for net in nets]),
                 "distance from affine": max(net.distance_from_affine for net in nets),
                 "rank of the map": max(net.rank for net in nets),
                 "_accuracies": [net.accuracy for net in nets]}
            )  # fmt: skip
    return rows


def rule_linear(rows: Rows) -> list[Check]:
    linear = [row for row in rows if row["activation"] == "identity"]
    checks = [check(f"{row['layers']} layers, distance from an affine map", row["distance from affine"],
                    Law("at most", 1e-3)) for row in linear]  # fmt: skip
    first = linear[0]
    for row in linear[1:]:
        gained = 100 * (np.array(row["_accuracies"]) - np.array(first["_accuracies"]))
        checks.append(Check(f"points that {row['layers']} layers gain on one", mean_of(gained), GAIN))
    return checks


GAIN = Law("within", 1.0)
"""Points of accuracy that depth may gain or lose in a net that is one linear map, however deep."""


CLAIMS = (
    Claim(
        "A sigmoid squeezes the gradient (slope ≤ 1/4), a ReLU zeroes part of it, the identity does neither",
        "At 100,000 normal inputs the slope of the sigmoid is at most 1/4, that of ReLU is 0 at some, and "
        "that of the identity is 1 at all.",
        signal_command({"model.shortcut": "rezero", "model.after_sum": "sigmoid"}),
        measure_slopes,
        rule_slopes,
    ),
    Claim(
        "Sigmoid and ReLU do no harm inside the branch, and do after the sum and on the shortcut",
        "Pre-activation blocks with batch norm: with the function inside the branch at least a tenth of the "
        "gradient's scale comes through 27 blocks, with it after the sum or on the shortcut at most a "
        "hundredth.",
        signal_command({"model.after_sum": "sigmoid"}),
        measure_places,
        rule_places,
    ),
    Claim(
        "The identity alone as activation makes of any depth one linear map",
        "Dense nets of 64 units, trained on digits for 300 steps: with the identity the net is affine, "
        f"whatever its depth, and its accuracy is that of one layer within {GAIN.value:g} point.",
        "python scripts/claims.py --only=activations",
        measure_linear,
        rule_linear,
    ),
)
