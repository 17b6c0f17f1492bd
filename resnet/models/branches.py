"""The residual branch F(x): its operations, in one of He 2016's five orders or of two others."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.layers import ACTIVATION, NORM, Dropout, Layers


@dataclasses.dataclass(frozen=True)
class Order:
    """Lists the steps at each place of a net; a step is a norm or an activation."""

    before: tuple[str, ...] = ()
    """Steps before the first operation of a branch."""
    between: tuple[str, ...] = (NORM, ACTIVATION)
    """Steps between two operations of a branch."""
    after: tuple[str, ...] = ()
    """Steps after the last operation of a branch."""
    after_sum: tuple[str, ...] = ()
    """Steps after the sum of shortcut and branch."""
    stem: tuple[str, ...] = (NORM, ACTIVATION)
    """Steps after each convolution of the stem."""
    stem_end: tuple[str, ...] | None = None
    """Steps after the last convolution of the stem. None stands for the steps of `stem`."""
    head: tuple[str, ...] = ()
    """Steps at the beginning of the head."""
    pooled: tuple[str, ...] = ()
    """Steps after the pooling of the head."""

    @property
    def preactivation(self) -> bool:
        """Whether blocks begin with an activation."""
        return ACTIVATION in self.before

    def of_stem(self, last: bool) -> tuple[str, ...]:
        """What follows a convolution of the stem."""
        return self.stem if self.stem_end is None or not last else self.stem_end


ORDERS = {
    "postactivation": Order(after=(NORM,), after_sum=(ACTIVATION,)),
    "norm_after_sum": Order(after_sum=(NORM, ACTIVATION)),
    "activation_before_sum": Order(after=(NORM, ACTIVATION)),
    "activation_only_preactivation": Order(
        before=(ACTIVATION,), after=(NORM,), stem_end=(), head=(NORM, ACTIVATION)
    ),
    # The stem of a pre-activation net ends in a bare convolution: the first block has its norm.
    "preactivation": Order(before=(NORM, ACTIVATION), stem_end=(), head=(NORM, ACTIVATION)),
    "pyramid": Order(before=(NORM,), after=(NORM,), stem_end=(NORM,), head=(NORM, ACTIVATION)),
    "shake_shake": Order(before=(ACTIVATION,), after=(NORM,), stem_end=(NORM,), head=(ACTIVATION,)),
}


@dataclasses.dataclass(frozen=True)
class Place:
    """An operation's place in its branch: its name, channels and stride, and how its kernels start."""

    name: str
    inputs: int
    outputs: int
    stride: int
    groups: int
    copies: int
    last: bool
    kernel_init: str
    init_scale: float


@dataclasses.dataclass(frozen=True)
class Operation:
    """apply(layers, x, place) gives x with the channels and the stride of its place.

    `grouped`: whether it divides its channels into the groups of the config. `pools`: whether it pools pixels
    where it has a stride.
    """

    apply: Callable[[Layers, Array, Place], Array]
    grouped: bool = False
    pools: bool = False


@dataclasses.dataclass(frozen=True)
class Branch:
    """The operations of F(x), each a layer of the net's depth; norm and activation stand between them.

    `expansion`: channels that leave it over its stage's width. `strided`: the operation that carries the
    stride, unless the config gives it to the first. `copies`: 2 for two branches of these operations, side by
    side in the channels until `shake` makes one F(x) of them.
    """

    operations: tuple[Operation, ...]
    expansion: int = 1
    strided: int = 0
    copies: int = 1


def convolution(layers: Layers, x: Array, place: Place, size: int, **options: Any) -> Array:
    """A convolution with a kernel of size x size."""
    return layers.conv(
        x, place.name, place.outputs, size, place.stride, groups=place.groups, copies=place.copies,
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
POOLED3 = Operation(pooled_convolution, pools=True)
DIRAC3 = Operation(functools.partial(pooled_convolution, dirac=True), pools=True)

BRANCHES = {
    "basic": Branch((CONV3, CONV3)),
    "bottleneck": Branch((CONV1, CONV3, CONV1), expansion=4, strided=1),
    "shake_shake": Branch((CONV3, CONV3), copies=2),
    "single": Branch((CONV3,)),
    "pooled": Branch((POOLED3,)),
    "dirac": Branch((DIRAC3,)),
}


def places(config: ModelConfig, block: BlockSpec) -> tuple[Place, ...]:
    """The places of a branch's operations: conv1, conv2, …"""
    branch = BRANCHES[config.branch]
    count, copies = len(branch.operations), branch.copies
    strided = 0 if config.stride_at == "first" else branch.strided
    widths = (block.inputs, *(copies * block.width,) * (count - 1), copies * block.outputs)
    # A norm that an activation follows must not start at 0: ReLU would pass no gradient.
    zero = config.zero_gamma and not ORDERS[config.activation_order].after
    return tuple(
        Place(
            name=f"conv{i + 1}",
            inputs=widths[i],
            outputs=widths[i + 1],
            stride=block.stride if i == strided else 1,
            groups=(config.groups if operation.grouped else 1) * (copies if i else 1),
            copies=copies,
            last=i == count - 1,
            kernel_init="zero" if zero and i == count - 1 else config.kernel_init,
            init_scale=config.branch_init_scale,
        )
        for i, operation in enumerate(branch.operations)
    )


def residual_branch(
    layers: Layers, order: Order, places: Sequence[Place], x: Array, key: Array | None
) -> Array:
    """F(x), from what enters its first operation; `key` draws the dropout, or what is shaken."""
    config, branch = layers.config, BRANCHES[layers.config.branch]
    for operation, place in zip(branch.operations, places, strict=True):
        if place is not places[0]:
            x = layers.apply(order.between, x)
        if place.last and config.branch_dropout:
            x = Dropout(config.branch_dropout)(x, key)
        x = operation.apply(layers, x, place)
    x = layers.apply(order.after, x, config.zero_gamma)
    x = shake(x, key) if branch.copies > 1 else x
    return SqueezeExcitation(config.se_ratio, name="squeeze")(x) if config.se_ratio else x


class SqueezeExcitation(nn.Module):
    """x times a gate per channel, computed from the channels' means (Hu 2018).

    `ratio`: hidden channels over those of x.
    """

    ratio: float

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        pooled = x.mean((1, 2))
        reduced = nn.Dense(max(1, round(channels * self.ratio)), dtype=x.dtype, name="reduce")(pooled)
        gate = jax.nn.sigmoid(nn.Dense(channels, dtype=x.dtype, name="expand")(jax.nn.relu(reduced)))
        return x * gate[:, None, None]


def shake(branches: Float[Array, "b h w two_c"], key: Array | None) -> Float[Array, "b h w c"]:
    """u F1 + (1 - u) F2, and v in place of u where the gradient flows (Gastaldi 2017, arXiv 1705.07485).

    u and v ~ U(0, 1), drawn for each image; in evaluation the mean of both branches.
    """
    one, other = jnp.split(branches, 2, axis=-1)
    if key is None:
        return (one + other) / 2
    u, v = jax.random.uniform(jax.random.fold_in(key, 1), (2, len(branches), 1, 1, 1), branches.dtype)
    backward = v * one + (1 - v) * other
    return backward + jax.lax.stop_gradient(u * one + (1 - u) * other - backward)


def activation_after_sum(config: ModelConfig, order: Order) -> str:
    """Names the activation that follows the sum of shortcut and branch."""
    if config.after_sum != "auto":
        return config.after_sum
    return config.activation if ACTIVATION in order.after_sum else "identity"


def after_sum(layers: Layers, order: Order, y: Array, adds_x: bool) -> Array:
    """Applies what follows the sum of shortcut and branch: in one order a norm, in all the function after it.

    `adds_x` says that the shortcut keeps the shape of x. Where it does not, the norm behind its projection
    reads both addends in the backward pass anyway.
    """
    config = layers.config
    y = layers.apply([step for step in order.after_sum if step == NORM], y)
    name = activation_after_sum(config, order)
    return layers.activate(name, y, of_sum=adds_x and NORM not in order.after_sum)
