"""What theory says of the growth per block of chains at their start, to hold measurements against.

Wide layers with independent weights, blocks of two convolutions. Without norm the variance q before
an activation f follows q' = g E f(√q z)², z normal, g the gain of the initialisation, and the
gradient's variance grows by g E f'(√q z)² per layer (Schoenholz 2017, https://arxiv.org/abs/1611.01232).
Batch norm with ReLU multiplies it by π / (π - 1) per layer (Yang 2019, https://arxiv.org/abs/1902.08129).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

BATCH_NORM_RELU = math.pi / (math.pi - 1)
"""Factor on the gradient's variance per layer, so on its scale per block of two."""


@dataclasses.dataclass(frozen=True)
class Law:
    """What is expected: a factor per block that is equal to, at most or at least `value`, or l^value."""

    kind: Literal["equal", "at most", "at least", "power"]
    value: float

    def __str__(self) -> str:
        shown = f"{self.value:.4g}"
        return {"equal": shown, "at most": f"≤ {shown}", "at least": f"≥ {shown}", "power": f"l^{shown}"}[
            self.kind
        ]


@dataclasses.dataclass(frozen=True)
class Setup:
    """A chain: what it changes in configs/chain.py, and the laws of its signal and gradient."""

    name: str
    model: Mapping[str, Any]
    forward: Law
    gradient: Law
    why: str


def fixed_point(f: Callable, gain: float, start: float = 1.0) -> float:
    """The variance before the activation that a layer maps to itself."""
    q = start
    for _ in range(1000):
        q = gain * _mean(lambda z, q=q: f(math.sqrt(q) * z) ** 2)
    return q


def gradient_gain(f: Callable, derivative: Callable, gain: float) -> float:
    """Factor on the gradient's variance per layer at the fixed point."""
    q = fixed_point(f, gain)
    return gain * _mean(lambda z: derivative(math.sqrt(q) * z) ** 2)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def sigmoid_slope(x: Any) -> Any:
    """At most 1/4."""
    return sigmoid(x) * (1 - sigmoid(x))


def sigmoid_rest() -> float:
    """The x that sigmoid maps to itself."""
    x = 0.5
    for _ in range(100):
        x = sigmoid(x)
    return float(x)


def _mean(f: Callable) -> float:
    """E f(z), z standard normal."""
    z, weights = np.polynomial.hermite_e.hermegauss(60)
    return float((f(z) * weights).sum() / weights.sum())


ONE = Law("equal", 1.0)
PLAIN = {"model.shortcut": "none", "model.norm": "none"}
PLAIN_BN = {"model.shortcut": "none"}
SETUPS = (
    Setup("plain, linear", PLAIN | {"model.activation": "identity", "model.kernel_init": "lecun"}, ONE, ONE,
          "variance 1 / fan-in keeps variances"),
    Setup("plain, ReLU", PLAIN, ONE, ONE, "variance 2 / fan-in makes up for what ReLU zeroes (He 2015)"),
    Setup("plain, sigmoid", PLAIN | {"model.activation": "sigmoid", "model.kernel_init": "lecun"}, ONE,
          Law("equal", gradient_gain(sigmoid, sigmoid_slope, 1.0)), "a slope of at most 1/4, twice a block"),
    Setup("plain, tanh", PLAIN | {"model.activation": "tanh", "model.kernel_init": "lecun"},
          Law("at most", 1.0), Law("at most", 1.0), "a slope of at most 1"),
    Setup("plain, batch norm, ReLU", PLAIN_BN, ONE, Law("equal", BATCH_NORM_RELU),
          "√(π/(π-1)) per layer (Yang 2019)"),
    Setup("plain, batch norm, linear", PLAIN_BN | {"model.activation": "identity"}, ONE, ONE,
          "norms of a linear net divide by 1"),
    Setup("identity, no norm", {"model.norm": "none"}, Law("equal", math.sqrt(2)),
          Law("equal", math.sqrt(2)), "x and F(x) of equal variance add"),
    Setup("identity, no norm, ReLU after the sum", {"model.norm": "none", "model.order": "postactivation"},
          Law("at least", math.sqrt(2)), Law("at least", math.sqrt(2)), "as before, and x has a mean"),
    Setup("identity, batch norm", {}, Law("power", 0.5), Law("power", BATCH_NORM_RELU**2 / 2),
          "each block adds 1 to a variance of l; the gradient's, the branch's gain over l"),
    Setup("0.5 x alone", {"model.shortcut": "constant_scaling", "model.branch_scale": 0.0},
          Law("equal", 0.5), Law("equal", 0.5), "0.5 per block, exactly"),
    Setup("identity, branch scale 0 (ReZero)", {"model.shortcut": "rezero"}, ONE, ONE,
          "the identity, exactly"),
    Setup("the same, sigmoid after the sum", {"model.shortcut": "rezero", "model.after_sum": "sigmoid"}, ONE,
          Law("equal", sigmoid_slope(sigmoid_rest())), "the slope where sigmoid comes to rest"),
)  # fmt: skip
