"""What sigmoid, ReLU and the identity do to the gradient: their slopes, and where in a block they stand."""

import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from resnet.analysis.claims import dense
from resnet.analysis.claims.claim import Bench, Claim, Rows, row_of
from resnet.analysis.growth import mean_factor, mean_of
from resnet.analysis.laws import Check, Law, check
from resnet.analysis.subject import of_config
from resnet.analysis.theory import BLOCKS
from resnet.config import replaced
from resnet.models.chain import Part, noise_like, rms
from resnet.models.layers import ACTIVATIONS

FUNCTIONS = ("identity", "relu", "sigmoid", "tanh")
PLACES = ("inside the branch", "after the sum", "on the shortcut")
NETS = 3
AGAINST = "gradient over that with the identity"


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
    """The gradient after 27 blocks with the identity on the shortcut but for one function in one place.

    Beside it stands its ratio to that of the net with the identity in that place, seed by seed.
    """
    logs = functools.cache(functools.partial(_log_gradients, bench))
    nets = {(f, place): logs(*_net_of(f, place)) for place in PLACES for f in FUNCTIONS}
    return [
        {"place": place, "function": function, "n": len(own), "gradient": mean_factor(own),
         AGAINST: mean_factor(own - nets["identity", place])}
        for (function, place), own in nets.items()
    ]  # fmt: skip


def rule_places(rows: Rows) -> list[Check]:
    """Checks that a function changes the gradient little in the branch, and a lot after it; up or down."""
    little, lot = Law("within factor", 10.0), Law("beyond factor", 100.0)
    return [
        Check(
            f"{row['function']} {row['place']}: {AGAINST}",
            row[AGAINST],
            little if row["place"] == PLACES[0] else lot,
        )
        for row in rows
        if row["function"] in ("relu", "sigmoid")
    ]


def _net_of(function: str, place: str) -> tuple[str, str, str]:
    """The functions in the PLACES of the net that differs in one of them."""
    usual = dict(zip(PLACES, ("relu", "identity", "identity"), strict=True))
    inside, after, on_shortcut = (usual | {place: function}).values()
    return inside, after, on_shortcut


def _log_gradients(bench: Bench, inside: str, after: str, on_shortcut: str) -> Float[np.ndarray, " nets"]:
    """Logarithm of the gradient below BLOCKS blocks over that above them, by seed."""
    # The first block is left out: its shortcut starts behind its first activation.
    net = {"model.blocks": (BLOCKS + 1,), "model.activation": inside, "model.after_sum": after}
    function, found = ACTIVATIONS[on_shortcut].function, []

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def up(module: Any, train: bool, variables: Any, arrays: Any, x: Array) -> Array:
        block = Part("block", module, train, variables, arrays)
        return block.join(function(x), block.branch(x))

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def down(module: Any, train: bool, variables: Any, arrays: Any, x: Array, gradient: Array) -> Array:
        return jax.vjp(functools.partial(up, module, train, variables, arrays), x)[1](gradient)[0]

    for seed in range(NETS):
        subject = of_config(inside, replaced(bench.chain, net | {"seed": seed}), images=bench.images)
        stem, first, *blocks, _ = subject.parts("batch")
        joints = [first(stem(subject.images))]
        for block in blocks:
            joints.append(up(block.module, block.train, block.variables, block.arrays, joints[-1]))
        gradient = noise_like(joints[-1], seed)
        for block, x in zip(reversed(blocks), reversed(joints[:-1]), strict=True):
            gradient = down(block.module, block.train, block.variables, block.arrays, x, gradient)
        found.append(np.log(rms(gradient)))
    return np.array(found, np.float64)


def measure_linear(bench: Bench) -> Rows:
    """Dense nets of 64 units on digits, without norm and shortcut: how far from affine, and how accurate."""
    data = dense.digits(bench.digits)
    rows = []
    for function in ("identity", "relu"):
        for depth in (1, 8, 20, 56):
            nets = [dense.fit_dense(data, function, depth, seed) for seed in range(dense.NETS)]
            rows.append(
                {"activation": function, "layers": depth, "n": len(nets),
                 "test %": mean_of([100 * net.accuracy for net in nets], 0, 100),
                 "not affine": max(net.not_affine for net in nets),
                 "rank, least and most": f"{min(net.rank for net in nets)}, {max(net.rank for net in nets)}",
                 "_ranks": [net.rank for net in nets], "_accuracies": [net.accuracy for net in nets]}
            )  # fmt: skip
    return rows


def rule_linear(rows: Rows) -> list[Check]:
    """Checks that deep nets of the identity are affine, and have rank and accuracy of one layer."""
    first, *deep = (row for row in rows if row["activation"] == "identity")
    checks = [check(f"{row['layers']} layers: not affine", row["not affine"], Law("at most", 1e-3))
              for row in (first, *deep)]  # fmt: skip
    for row in deep:
        ranks, accuracies = (
            np.array(row[name]) - np.array(first[name]) for name in ("_ranks", "_accuracies")
        )
        checks += [
            check(
                f"{row['layers']} layers: rank beyond that of one", int(abs(ranks).max()), Law("equal", 0.0)
            ),
            Check(f"{row['layers']} layers: points gained on one", mean_of(100 * accuracies), GAIN),
        ]
    return checks


GAIN = Law("within", 1.0)
"""Points of accuracy that depth may gain or lose in a net that is one linear map, however deep."""


CLAIMS = (
    Claim(
        "A sigmoid squeezes the gradient (slope ≤ 1/4), a ReLU zeroes part of it, the identity does neither",
        "At 100,000 normal inputs the slope of the sigmoid is at most 1/4, that of ReLU is 0 at some, and "
        "that of the identity is 1 at all.",
        "The slopes of these functions are others.",
        measure_slopes, rule_slopes,
    ),
    Claim(
        "Sigmoid and ReLU do no harm inside the branch, and do after the sum and on the shortcut",
        "Pre-activation blocks with batch norm: a function does harm if it makes the gradient behind 27 "
        "blocks 100 times larger or smaller than the identity in the same place does, and none if it "
        "changes it less than 10-fold.",
        "Not each of them is harmless in the branch and harmful elsewhere: the first table says which is.",
        measure_places, rule_places,
    ),
    Claim(
        "The identity alone as activation makes of any depth one linear map",
        f"Dense nets of 64 units, trained on digits for {dense.STEPS} steps, with the identity: whatever "
        "the depth, the net f is affine (|f(x + y) - f(x) - f(y) + f(0)| is at most 1/1000 of |f(x + y) - "
        f"f(0)|), and has the rank of one layer, and its accuracy within {GAIN.value:g} point.",
        "Depth without an activation changes something, if only how well the one map is learned.",
        measure_linear, rule_linear,
    ),
)  # fmt: skip
