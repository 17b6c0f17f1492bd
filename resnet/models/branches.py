"""The residual branch F(x): its operations, in one of the five orders of He 2016, Table 2."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn
from jaxtyping import Array

from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.layers import ACTIVATION, NORM, Dropout, Layers, SqueezeExcitation


@dataclasses.dataclass(frozen=True)
class Order:
    """What stands before the first operation of a branch, between two, after the last, and after the sum.

    Beside the blocks: what follows a convolution of the stem, begins the head, and follows its pooling.
    """

    before: tuple[str, ...] = ()
    between: tuple[str, ...] = (NORM, ACTIVATION)
    after: tuple[str, ...] = ()
    after_sum: tuple[str, ...] = ()
    stem: tuple[str, ...] = (NORM, ACTIVATION)
    head: tuple[str, ...] = ()
    pooled: tuple[str, ...] = ()

    @property
    def preactivation(self) -> bool:
        """Whether blocks begin with an activation."""
        return ACTIVATION in self.before


ORDERS = {
    "postactivation": Order(after=(NORM,), after_sum=(ACTIVATION,)),
    "norm_after_sum": Order(after_sum=(NORM, ACTIVATION)),
    "activation_before_sum": Order(after=(NORM, ACTIVATION)),
    "activation_only_preactivation": Order(before=(ACTIVATION,), after=(NORM,), head=(NORM, ACTIVATION)),
    "preactivation": Order(before=(NORM, ACTIVATION), head=(NORM, ACTIVATION)),
}


@dataclasses.dataclass(frozen=True)
class Place:
    """An operation's place in its branch: its name, channels and stride, and how its kernels start."""

    name: str
    inputs: int
    outputs: int
    stride: int
    groups: int
    last: bool
    kernel_init: str
    init_scale: float


@dataclasses.dataclass(frozen=True)
class Operation:
    """apply(layers, x, place) gives x with the channels and the stride of its place.

    `grouped`: whether it divides its channels into the groups of the config.
    """

    apply: Callable[[Layers, Array, Place], Array]
    grouped: bool = False


@dataclasses.dataclass(frozen=True)
class Branch:
    """The operations of F(x), each a layer of the net's depth; norm and activation stand between them.

    `expansion`: channels that leave it over its stage's width. `strided`: the operation that carries the
    stride, unless the config gives it to the first.
    """

    operations: tuple[Operation, ...]
    expansion: int = 1
    strided: int = 0


def convolution(layers: Layers, x: Array, place: Place, size: int, **options: Any) -> Array:
    """A convolution with a kernel of size x size."""
    return layers.conv(
        x, place.name, place.outputs, size, place.stride, groups=place.groups,
        kernel_init=place.kernel_init, init_scale=place.init_scale, **options,
    )  # fmt: skip


def pooled_convolution(layers: Layers, x: Array, place: Place, **options: Any) -> Array:
    """A 3x3 convolution of stride 1, behind 2x2 max-pooling where it is 2; odd sides round up (DiracNet)."""
    if place.stride > 1:
        window = (place.stride, place.stride)
        x = nn.max_pool(x, window, window, padding="SAME")
    return convolution(layers, x, dataclasses.replace(place, stride=1), 3, **options)


CONV1 = Operation(functools.partial(convolution, size=1))
CONV3 = Operation(functools.partial(convolution, size=3), grouped=True)
POOLED3 = Operation(pooled_convolution)
DIRAC3 = Operation(functools.partial(pooled_convolution, dirac=True))

BRANCHES = {
    "basic": Branch((CONV3, CONV3)),
    "bottleneck": Branch((CONV1, CONV3, CONV1), expansion=4, strided=1),
    "single": Branch((CONV3,)),
    "pooled": Branch((POOLED3,)),
    "dirac": Branch((DIRAC3,)),
}


def places(config: ModelConfig, block: BlockSpec) -> tuple[Place, ...]:
    """The places of a branch's operations: conv1, conv2, …"""
    branch = BRANCHES[config.branch]
    count = len(branch.operations)
    strided = 0 if config.stride_at == "first" else branch.strided
    widths = (block.inputs, *(block.inner,) * (count - 1), block.outputs)
    # A norm that an activation follows must not start at 0: ReLU would pass no gradient.
    zero = config.zero_gamma and not ORDERS[config.order].after
    return tuple(
        Place(
            name=f"conv{i + 1}",
            inputs=widths[i],
            outputs=widths[i + 1],
            stride=block.stride if i == strided else 1,
            groups=config.groups if operation.grouped else 1,
            last=i == count - 1,
            kernel_init="zero" if zero and i == count - 1 else config.kernel_init,
            init_scale=config.branch_init_scale,
        )
        for i, operation in enumerate(branch.operations)
    )


def residual_branch(
    layers: Layers, order: Order, places: Sequence[Place], x: Array, key: Array | None
) -> Array:
    """F(x), from what enters its first operation; `key` draws the dropout."""
    config = layers.config
    for operation, place in zip(BRANCHES[config.branch].operations, places, strict=True):
        if place is not places[0]:
            x = layers.apply(order.between, x)
        if place.last and config.branch_dropout:
            x = Dropout(config.branch_dropout)(x, key)
        x = operation.apply(layers, x, place)
    x = layers.apply(order.after, x, config.zero_gamma)
    return SqueezeExcitation(config.squeeze, name="squeeze")(x) if config.squeeze else x


def after_sum(layers: Layers, order: Order, y: Array) -> Array:
    """What follows the sum of shortcut and branch: a norm in one order, then the function after the sum."""
    config = layers.config
    y = layers.apply([step for step in order.after_sum if step == NORM], y)
    auto = config.activation if ACTIVATION in order.after_sum else "identity"
    return layers.activate(auto if config.after_sum == "auto" else config.after_sum, y)
