"""The shape of a net before it is built: which blocks there are, and what each turns into what.

This is the one place that decides which blocks change shape; modules, counts and checks read it.
"""

import dataclasses
from typing import TYPE_CHECKING

from resnet.errors import InputError, check_at_least

if TYPE_CHECKING:
    from resnet.models.grammar import ModelConfig


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution: square kernel of `size` pixels, NHWC, padded by (size - 1) / 2 on each side.

    `norm`: whether a norm of its own follows, as on the shortcut; a branch's norms are its order's.
    """

    name: str
    size: int
    inputs: int
    outputs: int
    stride: int = 1
    groups: int = 1
    bias: bool = False
    norm: bool = False

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        """(height, width, inputs per group, outputs)."""
        return self.size, self.size, self.inputs // self.groups, self.outputs


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """A residual block's place and shape; `stage` and `block` count from 1, `index` from 0 over the net."""

    stage: int
    block: int
    index: int
    inputs: int
    inner: int
    outputs: int
    stride: int

    @property
    def name(self) -> str:
        return f"stage{self.stage}/block{self.block}"

    @property
    def changes_shape(self) -> bool:
        """Whether this is a transition block."""
        return self.stride != 1 or self.inputs != self.outputs


@dataclasses.dataclass(frozen=True)
class Branch:
    """A residual branch: kernel sizes of its convolutions, and its outputs over its stage's width."""

    sizes: tuple[int, ...]
    expansion: int = 1


BRANCHES = {
    "basic": Branch(sizes=(3, 3)),
    "bottleneck": Branch(sizes=(1, 3, 1), expansion=4),
    "single": Branch(sizes=(3,)),
}


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


def blocks_per_stage(config: "ModelConfig") -> tuple[int, ...]:
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
    per_block = stages * len(BRANCHES[config.branch].sizes)
    # A wide net counts its two projections between stages as layers (Zagoruyko 2016).
    rest = 4 if config.family == "wide" else 2
    blocks, remainder = divmod(config.depth - rest, per_block)
    if remainder or blocks < 1:
        examples = ", ".join(str(per_block * n + rest) for n in (3, 5, 7, 9, 18))
        raise InputError(f"`model.depth` must be {per_block}n+{rest} ({examples}, …); got {config.depth}")
    return (blocks,) * stages


def _tabled_blocks(config: "ModelConfig") -> tuple[int, ...]:
    table = IMAGENET_BLOCKS.get(config.branch, {})
    if config.depth not in table:
        known = ", ".join(map(str, table)) or "none"
        raise InputError(
            f"`model.depth` of an imagenet net with {config.branch} branches must be one of {known}; "
            f"got {config.depth}. Other shapes: set model.blocks"
        )
    return table[config.depth]


def scaled(width: float, factor: float) -> int:
    """A width times a factor, rounded to a whole number of channels, at least one."""
    return max(1, round(width * factor))


def stem_width(config: "ModelConfig") -> int:
    """Channels that leave the stem."""
    return config.stem_width or scaled(FAMILIES[config.family][0], config.width)


def block_specs(config: "ModelConfig") -> tuple[BlockSpec, ...]:
    """The blocks of the net in order; the first block of stages 2 and up has stride 2."""
    specs, inputs = [], stem_width(config)
    for stage, (blocks, base) in enumerate(
        zip(blocks_per_stage(config), FAMILIES[config.family], strict=True), 1
    ):
        width = scaled(base, config.width)
        outputs = width * BRANCHES[config.branch].expansion
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            inner = scaled(width, config.inner)
            specs.append(BlockSpec(stage, block, len(specs), inputs, inner, outputs, stride))
            inputs = outputs
    return tuple(specs)


def branch_convolutions(config: "ModelConfig", block: BlockSpec) -> tuple[Convolution, ...]:
    """The convolutions of a block's residual branch; the stride sits on one of them."""
    sizes = BRANCHES[config.branch].sizes
    strided = sizes.index(3) if config.stride_at == "3x3" else 0
    widths = (block.inputs, *(block.inner,) * (len(sizes) - 1), block.outputs)
    return tuple(
        Convolution(
            name=f"conv{i + 1}",
            size=size,
            inputs=widths[i],
            outputs=widths[i + 1],
            stride=block.stride if i == strided else 1,
            groups=config.groups if size == 3 else 1,
            bias=has_bias(config),
        )
        for i, size in enumerate(sizes)
    )


def has_bias(config: "ModelConfig") -> bool:
    """Whether convolutions carry a bias: where no norm follows that has one. Fixup has scalars of its own."""
    return config.norm == "none" and config.shortcut != "fixup"


def shares_start(config: "ModelConfig", block: BlockSpec, preactivation: bool) -> bool:
    """Whether the shortcut starts after what stands before the branch's first convolution.

    So it does in the first block of a pre-activation net, which follows a bare convolution (He 2016,
    appendix), where a matrix changes the shape (resnet-1k-layers), and where Fixup's does. Zero
    padding carries x itself.
    """
    if not preactivation:
        return config.shortcut == "fixup" and block.changes_shape
    by_matrix = config.transition != "pad" or config.shortcut == "projection"
    return block.index == 0 or (block.changes_shape and by_matrix)
