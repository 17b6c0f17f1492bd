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
from resnet.analysis.growth import Estimate, exp_of
from resnet.analysis.laws import Check, Law
from resnet.analysis.subject import of_config
from resnet.config import Config, replaced
from resnet.models.shortcuts.tailored import NODES, normal_mean

BATCH_NORM_RELU = math.pi / (math.pi - 1)
"""Factor on the gradient's variance per layer, so on its scale per block of two."""
BLOCKS = 27
"""Blocks over which growth is judged: those of a net of 56 layers."""
FINITE = 1.5
"""Factor allowed beside the interval over BLOCKS blocks: layers and batches are finite, theory's are not."""


POWER = "(block number)^"


@dataclasses.dataclass(frozen=True)
class Rate:
    """Growth per block: a factor that is equal to, at most or at least `value`, or l^value after l blocks."""

    kind: Literal["equal", "at most", "at least", "power"]
    value: float

    def __str__(self) -> str:
        sign = {"equal": "", "at most": "≤ ", "at least": "≥ ", "power": POWER}[self.kind]
        return f"{sign}{self.value:.4g}"

    def words(self, found: Estimate | None) -> str:
        """A measured rate, or power."""
        return f"{POWER if self.kind == 'power' else ''}{found or 'none'}"

    def law(self) -> Law:
        """The law of the growth over BLOCKS blocks, with the tolerance for finite nets."""
        if self.kind == "power":
            return Law("equal", BLOCKS**self.value, FINITE)
        return Law(self.kind, self.value**BLOCKS, FINITE)

    def over_depth(self, found: Estimate | None) -> Estimate | None:
        """A measured rate per block, or power, as the growth over BLOCKS blocks."""
        if self.kind == "power":
            return exp_of(found, math.log(BLOCKS))
        return found and Estimate(found.value**BLOCKS, found.low**BLOCKS, found.high**BLOCKS, found.n)


@dataclasses.dataclass(frozen=True)
class Setup:
    """A chain: what it changes in configs/chain.py, and the laws of its signal and gradient."""

    name: str
    model: Mapping[str, Any]
    forward: Rate
    gradient: Rate
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
    def signal_over_depth(self) -> Estimate | None:
        """Growth of the signal over BLOCKS blocks."""
        return self.setup.forward.over_depth(self.forward)

    @property
    def gradient_over_depth(self) -> Estimate | None:
        """Growth of the gradient over BLOCKS blocks, from the top down."""
        return self.setup.gradient.over_depth(self.gradient)

    def checks(self) -> list[Check]:
        """Signal and gradient against theory."""
        return [
            Check(f"{self.setup.name}, signal", self.signal_over_depth, self.setup.forward.law()),
            Check(f"{self.setup.name}, gradient", self.gradient_over_depth, self.setup.gradient.law()),
        ]


def measure(setup: Setup, base: Config, images: int, seeds: int) -> Measured:
    """The set-up on noise, from the chain `base`."""
    subject = of_config(setup.name, replaced(base, setup.model), images=images)
    return Measured(setup, signal.ask(subject, signal.Options(seeds=seeds)).nets[0])


def fixed_point(f: Callable, gain: float) -> float:
    """The variance before the activation that a layer maps to itself."""
    q = 1.0
    for _ in range(100):
        q = gain * normal_mean(f(math.sqrt(q) * NODES) ** 2)
    return q


def gradient_gain(f: Callable, derivative: Callable, gain: float) -> float:
    """Factor on the gradient's variance per layer at the fixed point."""
    q = fixed_point(f, gain)
    return gain * normal_mean(derivative(math.sqrt(q) * NODES) ** 2)


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


ONE = Rate("equal", 1.0)
PLAIN = {"model.shortcut": "none", "model.norm": "none"}
PLAIN_BN = {"model.shortcut": "none"}
SETUPS = (
    Setup("plain, linear", PLAIN | {"model.activation": "identity", "model.kernel_init": "lecun"}, ONE, ONE,
          "variance 1 / fan-in keeps variances"),
    Setup("plain, ReLU", PLAIN, ONE, ONE, "variance 2 / fan-in makes up for what ReLU zeroes (He 2015)"),
    Setup("plain, sigmoid", PLAIN | {"model.activation": "sigmoid", "model.kernel_init": "lecun"}, ONE,
          Rate("equal", gradient_gain(sigmoid, sigmoid_slope, 1.0)), "a slope of at most 1/4, twice a block"),
    Setup("plain, tanh", PLAIN | {"model.activation": "tanh", "model.kernel_init": "lecun"},
          Rate("at most", 1.0), Rate("at most", 1.0), "a slope of at most 1"),
    Setup("plain, batch norm, ReLU", PLAIN_BN, ONE, Rate("equal", BATCH_NORM_RELU),
          "√(π/(π-1)) per layer (Yang 2019)"),
    Setup("plain, batch norm, linear", PLAIN_BN | {"model.activation": "identity"}, ONE, ONE,
          "norms of a linear net divide by 1"),
    Setup("identity, no norm", {"model.norm": "none"}, Rate("equal", math.sqrt(2)),
          Rate("equal", math.sqrt(2)), "x and F(x) of equal variance add"),
    Setup("identity, no norm, ReLU after the sum",
          {"model.norm": "none", "model.activation_order": "postactivation"},
          Rate("at least", math.sqrt(2)), Rate("at least", math.sqrt(2)), "as without it, and x has a mean"),
    Setup("identity, batch norm", {}, Rate("power", 0.5), Rate("power", BATCH_NORM_RELU**2 / 2),
          "block by block the variance grows by 1, and the gradient's by a share that falls as 1 / number"),
    Setup("0.5 x, branch scale 0", {"model.shortcut": "constant_scaling", "model.branch_scale": 0.0},
          Rate("equal", 0.5), Rate("equal", 0.5), "0.5 per block, exactly"),
    Setup("identity, branch scale 0 (ReZero)", {"model.shortcut": "rezero"}, ONE, ONE,
          "the identity, exactly"),
    Setup("identity, branch scale 0, sigmoid after the sum",
          {"model.shortcut": "rezero", "model.after_sum": "sigmoid"}, ONE,
          Rate("equal", sigmoid_slope(sigmoid_rest())), "the slope where sigmoid comes to rest"),
)  # fmt: skip
