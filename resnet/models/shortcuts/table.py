"""All shortcuts by name, and the shortcut of one block: a transition if the shape changes, then the sum.

A net of several streams begins them in its stem and ends them in its head, and its blocks read one x of them.
"""

import dataclasses
import functools

from flax import linen as nn
from jaxtyping import Array, Float

from resnet.models.branches import ORDERS, Order, Place, places
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.geometry import count_activations
from resnet.models.layers import BIAS, Layers
from resnet.models.shortcuts import gates, streams, sums, unnormed
from resnet.models.shortcuts.junction import Carried, Junction, Mixture, Streams
from resnet.models.shortcuts.transitions import TRANSITIONS

SHORTCUTS = {**sums.SHORTCUTS, **gates.SHORTCUTS, **unnormed.SHORTCUTS, **streams.SHORTCUTS}


def order_of(config: ModelConfig) -> Order:
    """The net's order of activation, as its shortcut leaves it."""
    return SHORTCUTS[config.shortcut].order or ORDERS[config.activation_order]


def streams_of(config: ModelConfig) -> Streams | None:
    """The streams that the net carries from block to block; None for x alone."""
    return SHORTCUTS[config.shortcut].streams


def branch_places(config: ModelConfig, block: BlockSpec) -> list[Place]:
    """The places of the branch's operations, as the shortcut leaves them."""
    shortcut, of_stream = SHORTCUTS[config.shortcut], block_of_stream(config, block)
    return [shortcut.place(config, place) for place in places(config, of_stream)]


def block_of_stream(config: ModelConfig, block: BlockSpec) -> BlockSpec:
    """The block with the channels of one stream."""
    several = streams_of(config)
    if several is None or not several.shared:
        return block
    n = several.count(config)
    return dataclasses.replace(
        block, inputs=block.inputs // n, width=block.width // n, outputs=block.outputs // n
    )


def before_branch(config: ModelConfig, block: BlockSpec) -> tuple[str, ...]:
    """What stands before the branch's first operation; streams begin behind that of the first block."""
    begun = block.index == 0 and streams_of(config) is not None
    return () if begun else order_of(config).before


def make_layers(module: nn.Module, train: bool, numbered: bool = True) -> Layers:
    """`Layers` for a module of a net: where neither norms nor scalars bring a bias, convolutions have one."""
    config = module.config  # type: ignore[attr-defined]
    bias = config.norm == "none" and BIAS not in order_of(config).between
    return Layers(module, train, bias, count_activations(config), numbered)


def begin_streams(layers: Layers, x: Float[Array, "b h w c"]) -> Carried:
    """x as it goes from block to block; streams begin behind the first block's norm and activation."""
    several = streams_of(layers.config)
    if several is None:
        return x
    x = layers.apply(order_of(layers.config).before, x)
    return several.begin(x, several.count(layers.config))


def end_streams(layers: Layers, x: Carried) -> Float[Array, "b h w c"]:
    """x for the head."""
    several = streams_of(layers.config)
    return x if several is None else several.end(layers, x, several.count(layers.config))


def read_streams(
    block: nn.Module, x: Carried, train: bool, number: Float[Array, "..."] | None
) -> tuple[Float[Array, "b h w c"], Mixture | None]:
    """(what a block's branch is applied to, how the block mixes its streams): (x, None) where it has one."""
    config, spec, axis_name = block.config, block.spec, block.axis_name  # type: ignore[attr-defined]
    if streams_of(config) is None:
        return x, None
    return StreamReader(config, spec, axis_name, name="streams")(x, train, number)


class StreamReader(nn.Module):
    """What one block reads of the streams that it is given, and how it mixes them."""

    config: ModelConfig
    block: BlockSpec
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, carried: Carried, train: bool, number: Float[Array, "..."] | None = None
    ) -> tuple[Float[Array, "b h w c"], Mixture | None]:
        several = streams_of(self.config)
        assert several is not None
        return several.read(Junction(make_layers(self, train), self.block, carried, None, number), carried)


class ShortcutPath(nn.Module):
    """The shortcut of one block: x through the transition where the shape changes, then joined with F(x)."""

    config: ModelConfig
    block: BlockSpec
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w i"],
        branch: Float[Array, "b y x o"],
        train: bool,
        key: Array | None = None,
        number: Float[Array, "..."] | None = None,
        mixture: Mixture | None = None,
    ) -> Float[Array, "b y x s"]:
        config, shortcut = self.config, SHORTCUTS[self.config.shortcut]
        at = Junction(make_layers(self, train), block_of_stream(config, self.block), x, key, number, mixture)
        if self.block.changes_shape and not shortcut.changes_shape:
            transition = functools.partial(TRANSITIONS[config.transition], at)
            several = streams_of(config)
            x = streams.each_stream(transition, x, several.count(config)) if several else transition(x)
        return shortcut.merge(at, x, branch)


def starts_inside(config: ModelConfig, block: BlockSpec) -> bool:
    """Whether the shortcut starts behind the norm and activation that precede the branch's first convolution.

    True in the first block of a pre-activation net, which follows a bare convolution (He 2016, appendix),
    for a matrix that changes the shape (resnet-1k-layers), and for Fixup's shortcut. Zero padding carries
    x itself, and so do several streams.
    """
    order = order_of(config)
    if streams_of(config):
        return False
    if not order.preactivation:
        return BIAS in order.before and block.changes_shape
    by_matrix = config.transition != "pad" or SHORTCUTS[config.shortcut].changes_shape
    return block.index == 0 or (block.changes_shape and by_matrix)
