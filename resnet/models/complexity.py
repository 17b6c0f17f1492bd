"""Parameters and multiply-accumulates of a net, in closed form from its config: nothing is built."""

import dataclasses
import math
from typing import TYPE_CHECKING

from resnet.models.branches import NORM, ORDERS
from resnet.models.geometry import (
    BlockSpec,
    Convolution,
    block_specs,
    branch_convolutions,
    scaled,
)  # fmt: skip
from resnet.models.shortcuts import SHORTCUTS
from resnet.models.stems import STEMS, stem_convolutions, stem_norms
from resnet.models.transitions import TRANSITIONS

if TYPE_CHECKING:
    from resnet.models.grammar import ModelConfig


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the net: its name, shape of what leaves it, shortcut, parameters and multiply-accumulates."""

    name: str
    shape: tuple[int, ...]
    shortcut: str
    parameters: int
    macs: int


def complexity(
    config: "ModelConfig", num_outputs: int, image_shape: tuple[int, int, int]
) -> tuple[Part, ...]:
    """Stem, blocks and head. Multiply-accumulates are of convolutions and linear layers, for one image."""
    stem, pixels = _stem(config, image_shape)
    parts = [stem]
    for block in block_specs(config):
        part, pixels = _block(config, block, pixels)
        parts.append(part)
    return (*parts, _head(config, num_outputs, block_specs(config)[-1].outputs))


def totals(parts: tuple[Part, ...]) -> tuple[int, int]:
    """(parameters, multiply-accumulates) of all parts."""
    return sum(part.parameters for part in parts), sum(part.macs for part in parts)


def strided(pixels: tuple[int, int], stride: int) -> tuple[int, int]:
    """Height and width after an odd kernel, padded by (size - 1) / 2."""
    return -(-pixels[0] // stride), -(-pixels[1] // stride)


def _convolution(
    config: "ModelConfig", spec: Convolution, pixels: tuple[int, int]
) -> tuple[int, int, tuple[int, int]]:
    """(parameters, multiply-accumulates, pixels that leave) of a convolution and its own norm."""
    pixels = strided(pixels, spec.stride)
    kernel = math.prod(spec.kernel_shape)
    normed = spec.norm and config.norm != "none"
    gain = config.weight_standardization == "scaled"
    return (
        kernel + spec.outputs * (spec.bias + 2 * normed + gain),
        kernel * math.prod(pixels),
        pixels,
    )


def _stem(config: "ModelConfig", image_shape: tuple[int, int, int]) -> tuple[Part, tuple[int, int]]:
    height, width, channels = image_shape
    pixels, parameters, macs = (height, width), 0, 0
    specs = stem_convolutions(config, channels)
    for i, spec in enumerate(specs, 1):
        count, work, pixels = _convolution(config, spec, pixels)
        parameters, macs = parameters + count, macs + work
        if i <= stem_norms(config):
            parameters += (config.norm != "none") * 2 * spec.outputs + (config.shortcut == "fixup")
    if STEMS[config.stem].max_pool:
        pixels = strided(pixels, 2)
    return Part("stem", (*pixels, specs[-1].outputs), "", parameters, macs), pixels


def _block(config: "ModelConfig", block: BlockSpec, pixels: tuple[int, int]) -> tuple[Part, tuple[int, int]]:
    shortcut = SHORTCUTS[config.shortcut]
    branch = branch_convolutions(config, block)
    parameters, macs, out = shortcut.scalars(config), 0, pixels
    for spec in branch:
        count, work, out = _convolution(config, spec, out)
        parameters, macs = parameters + count, macs + work
    if config.norm != "none":
        parameters += 2 * sum(_norm_channels(config, block, branch))
    if config.squeeze:
        hidden = scaled(block.outputs, config.squeeze)
        parameters += 2 * hidden * block.outputs + hidden + block.outputs
        macs += 2 * hidden * block.outputs
    name, path = config.shortcut, shortcut.convolutions(config, block)
    if block.changes_shape and not shortcut.changes_shape:
        name = f"{config.transition} + {name}"
        path += TRANSITIONS[config.transition].convolutions(config, block)
    for spec in path:
        # Only the first of several convolutions is strided; the others see what leaves the block.
        count, work, _ = _convolution(config, spec, pixels if spec.stride == block.stride else out)
        parameters, macs = parameters + count, macs + work
    return Part(block.name, (*out, block.outputs), name, parameters, macs), out


def _norm_channels(config: "ModelConfig", block: BlockSpec, branch: tuple[Convolution, ...]) -> list[int]:
    """Channels of each norm of a block, but for its shortcut's."""
    order = ORDERS[config.order]
    behind = order.after.count(NORM) + order.after_sum.count(NORM)
    return (
        [block.inputs] * order.before.count(NORM)
        + [spec.outputs for spec in branch[:-1]]
        + [block.outputs] * behind
    )


def _head(config: "ModelConfig", num_outputs: int, channels: int) -> Part:
    norm = ORDERS[config.order].preactivation and config.norm != "none"
    parameters = channels * num_outputs + num_outputs + norm * 2 * channels + (config.shortcut == "fixup")
    return Part("head", (num_outputs,), "", parameters, channels * num_outputs)
