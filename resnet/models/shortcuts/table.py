"""All shortcuts by name, and the shortcut of one block: a transition if the shape changes, then the sum."""

from flax import linen as nn
from jaxtyping import Array, Float

from resnet.models.branches import ORDERS, Order, Place, places
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.geometry import count_activations
from resnet.models.layers import BIAS, Layers
from resnet.models.shortcuts import gates, sums, unnormed
from resnet.models.shortcuts.junction import Junction
from resnet.models.shortcuts.transitions import TRANSITIONS

SHORTCUTS = {**sums.SHORTCUTS, **gates.SHORTCUTS, **unnormed.SHORTCUTS}


def order_of(config: ModelConfig) -> Order:
    """The net's order of activation, as its shortcut leaves it."""
    return SHORTCUTS[config.shortcut].order or ORDERS[config.order]


def branch_places(config: ModelConfig, block: BlockSpec) -> list[Place]:
    """The places of the branch's operations, as the shortcut leaves them."""
    return [SHORTCUTS[config.shortcut].place(config, place) for place in places(config, block)]


def make_layers(module: nn.Module, train: bool, numbered: bool = True) -> Layers:
    """`Layers` for a module of a net: where neither norms nor scalars bring a bias, convolutions have one."""
    config = module.config  # type: ignore[attr-defined]
    bias = config.norm == "none" and BIAS not in order_of(config).between
    return Layers(module, train, bias, count_activations(config), numbered)


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
    ) -> Float[Array, "b y x o"]:
        shortcut = SHORTCUTS[self.config.shortcut]
        at = Junction(make_layers(self, train), self.block, x, key, number)
        if self.block.changes_shape and not shortcut.changes_shape:
            x = TRANSITIONS[self.config.transition](at, x)
        return shortcut.merge(at, x, branch)


def starts_inside(config: ModelConfig, block: BlockSpec) -> bool:
    """Whether the shortcut starts behind what stands before the branch's first operation.

    So it does in the first block of a pre-activation net, which follows a bare convolution (He 2016,
    appendix), where a matrix changes the shape (resnet-1k-layers), and where Fixup's does. Zero
    padding carries x itself.
    """
    order = order_of(config)
    if not order.preactivation:
        return bool(order.before) and block.changes_shape
    by_matrix = config.transition != "pad" or SHORTCUTS[config.shortcut].changes_shape
    return block.index == 0 or (block.changes_shape and by_matrix)
