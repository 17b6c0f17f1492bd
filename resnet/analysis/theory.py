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

from resnet.analysis import signal
from resnet.analysis.growth import Estimate
from resnet.analysis.subject import of_config
from resnet.config import Config, replaced

BATCH_NORM_RELU = math.pi / (math.pi - 1)
"""Factor on the gradient's variance per layer, so on its scale per block of two."""


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
FINITE = 0.05
"""Relative difference allowed beside the interval: layers and batches are finite, theory's are not."""


@dataclasses.dataclass(frozen=True)
class Law:
    """What is expected: a factor per block that is equal to, at most or at least `value`, or l^value."""

    kind: Literal["equal", "at most", "at least", "power"]
    value: float

    def __str__(self) -> str:
        sign = {"equal": "", "at most": "≤ ", "at least": "≥ ", "power": "l^"}[self.kind]
        return f"{sign}{self.value:.4g}"

    def agrees(self, found: Estimate | None) -> bool:
        """Whether the interval of a measurement holds the law, or comes as close as FINITE."""
        if found is None:
            return False
        low, high = (1 - FINITE) * self.value, (1 + FINITE) * self.value
        above, below = found.high >= low, found.low <= high
        return bool({"at least": above, "at most": below}.get(self.kind, above and below))


@dataclasses.dataclass(frozen=True)
class Setup:
    """A chain: what it changes in configs/chain.py, and the laws of its signal and gradient."""

    name: str
    model: Mapping[str, Any]
    forward: Law
    gradient: Law
    why: str


@dataclasses.dataclass(frozen=True)
class Measured:
    """A set-up measured."""

    setup: Setup
    net: signal.NetFlow

    @property
    def forward(self) -> Estimate | None:
        return self.net.forward_power if self.setup.forward.kind == "power" else self.net.forward

    @property
    def gradient(self) -> Estimate | None:
        return self.net.gradient_power if self.setup.gradient.kind == "power" else self.net.gradient

    @property
    def agrees(self) -> bool:
        return self.setup.forward.agrees(self.forward) and self.setup.gradient.agrees(self.gradient)

    def row(self) -> dict[str, Any]:
        """Measurement beside theory."""
        power = {True: "l^", False: ""}
        setup = self.setup
        return {
            "net": setup.name,
            "signal per block": f"{power[setup.forward.kind == 'power']}{self.forward}",
            "theory": str(setup.forward),
            "gradient per block": f"{power[setup.gradient.kind == 'power']}{self.gradient}",
            "theory ": str(setup.gradient),
            "agree": "yes" if self.agrees else "no",
            "because": setup.why,
        }


def measure(setup: Setup, base: Config, images: int, seeds: int) -> Measured:
    """The set-up on noise, from the chain `base`."""
    subject = of_config(setup.name, replaced(base, setup.model), images=images)
    return Measured(setup, signal.ask(subject, signal.Options(seeds=seeds)).nets[0])


def fixed_point(f: Callable, gain: float, start: float = 1.0) -> float:
    """The variance before the activation that a layer maps to itself."""
    q = start
    for _ in range(100):
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
    return float((f(NODES) * WEIGHTS).sum() / WEIGHTS.sum())


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
