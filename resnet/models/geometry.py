"""The shape of a net before it is built: the layers of its stem, its blocks, and their widths.

This is the one place that decides which blocks change shape; modules, counts and checks read it.
"""

import dataclasses
import math

import numpy as np

from resnet.errors import InputError, check_at_least
from resnet.models.branches import BRANCHES, ORDERS
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.layers import ACTIVATION

# Widths of the stages, before ModelConfig.width. A chain has equal blocks only: what theory is about.
FAMILIES = {
    "cifar": (16, 32, 64),
    "wide": (16, 32, 64),
    "imagenet": (64, 128, 256, 512),
    "chain": (16,),
}

# Blocks of each stage by branch and depth: He 2015 Table 1; 200: He 2016; 270 and up: ResNet-RS
# (Bello 2021, Table 11); 26: the two-blocks-a-stage bottleneck of timm.
IMAGENET_BLOCKS = {
    "basic": {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
    "bottleneck": {
        26: (2, 2, 2, 2),
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
        152: (3, 8, 36, 3),
        200: (3, 24, 36, 3),
        270: (4, 29, 53, 4),
        350: (4, 36, 72, 4),
        420: (4, 44, 87, 4),
    },
}


@dataclasses.dataclass(frozen=True)
class StemSpec:
    """(size, stride, width over the stem's) of each convolution; then a 3x3/2 max-pool or not.

    `border` surrounds the image in the max-pool.
    """

    convolutions: tuple[tuple[int, int, float], ...]
    max_pool: bool
    border: float = -np.inf


STEMS = {
    "cifar": StemSpec(((3, 1, 1),), max_pool=False),
    "imagenet": StemSpec(((7, 2, 1),), max_pool=True),
    # BiT (Kolesnikov 2020) surrounds what goes into its max-pool with zeros.
    "bit": StemSpec(((7, 2, 1),), max_pool=True, border=0.0),
    # Three 3x3 instead of the 7x7: ResNet-C and -D (He 2018).
    "deep": StemSpec(((3, 2, 0.5), (3, 1, 0.5), (3, 1, 1)), max_pool=True),
    # A strided convolution instead of the max-pool as well: ResNet-RS (Bello 2021).
    "deep_strided": StemSpec(((3, 2, 0.5), (3, 1, 0.5), (3, 1, 1), (3, 2, 1)), max_pool=False),
}


@dataclasses.dataclass(frozen=True)
class StemLayer:
    """A convolution of the stem: its kernel is `size` x `size`; `last` marks the one before the blocks."""

    name: str
    size: int
    stride: int
    outputs: int
    last: bool


def stem_layers(config: ModelConfig) -> tuple[StemLayer, ...]:
    """The convolutions of the stem."""
    width, convolutions = stem_width(config), STEMS[config.stem].convolutions
    return tuple(
        StemLayer(f"conv{i}", size, stride, scaled_width(width, share), last=i == len(convolutions))
        for i, (size, stride, share) in enumerate(convolutions, 1)
    )


def blocks_per_stage(config: ModelConfig) -> tuple[int, ...]:
    """Residual blocks of each stage, from `blocks` or from `depth` by the family's rule."""
    stages = len(FAMILIES[config.family])
    if config.blocks:
        if len(config.blocks) != stages:
            raise InputError(
                f"`model.blocks` must give {stages} numbers, one a stage of the {config.family} family; "
                f"got {config.blocks}"
            )
        for n in config.blocks:
            check_at_least("model.blocks", n, 1)
        return config.blocks
    if config.family == "imagenet":
        return _tabled_blocks(config)
    per_block, rest = stages * layers_of_block(config), layers_outside(config)
    blocks, remainder = divmod(config.depth - rest, per_block)
    if remainder or blocks < 1:
        examples = ", ".join(str(per_block * n + rest) for n in (3, 5, 7, 9, 18))
        raise InputError(f"`model.depth` must be {per_block}n+{rest} ({examples}, …); got {config.depth}")
    return (blocks,) * stages


def layers_outside(config: ModelConfig) -> int:
    """Counts the layers outside of the branches: the first and the last.

    The depth of a wide net includes its two projections between stages, too (Zagoruyko 2016).
    """
    return 4 if config.family == "wide" else 2


def layers_of_block(config: ModelConfig) -> int:
    """Returns the number of convolutions in a residual branch."""
    return len(BRANCHES[config.branch].operations)


def count_layers(config: ModelConfig, blocks: int) -> int:
    """Returns the depth of a net with so many blocks: its layers, as its family counts them."""
    return blocks * layers_of_block(config) + layers_outside(config)


def _tabled_blocks(config: ModelConfig) -> tuple[int, ...]:
    table = IMAGENET_BLOCKS.get(config.branch, {})
    if config.depth not in table:
        known = ", ".join(map(str, table)) or "none"
        raise InputError(
            f"`model.depth` of an imagenet net with {config.branch} branches must be one of {known}; "
            f"got {config.depth}. Other shapes: set model.blocks"
        )
    return table[config.depth]


def scaled_width(width: float, factor: float) -> int:
    """A width times a factor, rounded to a whole number of channels, at least one."""
    return max(1, round(width * factor))


def stem_width(config: ModelConfig) -> int:
    """Channels that leave the stem."""
    return config.stem_width or scaled_width(FAMILIES[config.family][0], config.width)


def count_blocks(config: ModelConfig) -> int:
    """Blocks of all stages together."""
    return sum(blocks_per_stage(config))


def block_width(config: ModelConfig, base: int, number: int) -> int:
    """The width of block `number`, counted from 1, in a stage whose width is `base` in the family.

    With `widening`, it is w + widening l / L in block l of L, halves rounded up, w that of the first stage.
    """
    if not config.widening:
        return scaled_width(base, config.width)
    added = config.widening * number / count_blocks(config)
    return math.floor(FAMILIES[config.family][0] * config.width + added + 0.5)


def block_specs(config: ModelConfig) -> tuple[BlockSpec, ...]:
    """The blocks of the net in order; the first block of stages 2 and up has stride 2."""
    specs, inputs = [], stem_width(config)
    for stage, (blocks, base) in enumerate(
        zip(blocks_per_stage(config), FAMILIES[config.family], strict=True), 1
    ):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            width = block_width(config, base, len(specs) + 1)
            outputs = width * BRANCHES[config.branch].expansion
            inside = scaled_width(width, config.branch_width)
            specs.append(BlockSpec(stage, block, len(specs), inputs, inside, outputs, stride))
            inputs = outputs
    return tuple(specs)


def count_activations(config: ModelConfig) -> int:
    """Activations that a signal passes through from image to head, in the branches and beside them."""
    order, branch = ORDERS[config.activation_order], BRANCHES[config.branch]
    of_stem = sum(order.of_stem(layer.last).count(ACTIVATION) for layer in stem_layers(config))
    after_sum = order.after_sum if config.after_sum == "auto" else ()
    around = sum(steps.count(ACTIVATION) for steps in (order.before, order.after, after_sum))
    inside = (len(branch.operations) - 1) * order.between.count(ACTIVATION)
    return of_stem + count_blocks(config) * (around + inside) + order.head.count(ACTIVATION)


def kind(block: BlockSpec) -> BlockSpec:
    """The block without stage, block and index, which change nothing that is computed.

    Only whether it is the first block of the net is kept.
    """
    return dataclasses.replace(block, stage=0, block=0, index=min(block.index, 1))
