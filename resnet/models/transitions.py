"""Transitions: a block's input in the shape of its residual branch, where the two differ."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from resnet.models.geometry import BlockSpec, Convolution, has_bias

if TYPE_CHECKING:
    from resnet.models.grammar import ModelConfig
    from resnet.models.shortcuts import ShortcutPath

PAD_MODES = ("subsample", "average")
PAD_SIDES = ("end", "both")
Convolutions = Callable[["ModelConfig", BlockSpec], tuple[Convolution, ...]]


@dataclasses.dataclass(frozen=True)
class Transition:
    """apply(path, x) gives x in the branch's shape; `convolutions`: those it has."""

    apply: Callable[["ShortcutPath", Array], Array]
    convolutions: Convolutions = lambda config, block: ()


def subsample(x: Array, stride: int) -> Array:
    """Every stride-th pixel."""
    return x[:, ::stride, ::stride]


def average_pool(x: Array, stride: int) -> Array:
    """Mean over stride x stride windows; a window cut by the border averages what is inside."""
    if stride == 1:
        return x
    window = (1, stride, stride, 1)
    rest = [(0, -n % stride) for n in x.shape[1:3]]
    padding = ((0, 0), *rest, (0, 0))
    # NumPy's, because JAX differentiates a windowed sum only if it starts at a constant.
    zero = np.zeros((), x.dtype)
    total = jax.lax.reduce_window(x, zero, jax.lax.add, window, window, padding)
    ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    return total / jax.lax.reduce_window(ones, zero, jax.lax.add, window, window, padding)


def pad(path: "ShortcutPath", x: Array) -> Array:
    """Option A (He 2015): fewer pixels, then channels of zeros; no parameters."""
    config, block = path.config, path.block
    x = {"subsample": subsample, "average": average_pool}[config.pad_mode](x, block.stride)
    zeros = block.outputs - block.inputs
    before = zeros // 2 if config.pad_side == "both" else 0
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, zeros - before)))


def projection_convolution(config: "ModelConfig", block: BlockSpec) -> tuple[Convolution, ...]:
    """The strided 1x1 convolution of options B and C; pre-activation nets put no norm after it."""
    norm = not config.order.endswith("preactivation")
    return (
        Convolution(
            "projection",
            1,
            block.inputs,
            block.outputs,
            block.stride,
            bias=has_bias(config),
            norm=norm,
        ),
    )


def average_projection_convolution(config: "ModelConfig", block: BlockSpec) -> tuple[Convolution, ...]:
    """ResNet-D (He 2018): stride 1, since a pooling goes before."""
    return tuple(dataclasses.replace(c, stride=1) for c in projection_convolution(config, block))


def project(path: "ShortcutPath", x: Array) -> Array:
    """A matrix on the channels of every stride-th pixel."""
    return path.layer(projection_convolution(path.config, path.block)[0], x)


def average_project(path: "ShortcutPath", x: Array) -> Array:
    """Average pooling, then a matrix on the channels."""
    pooled = average_pool(x, path.block.stride)
    return path.layer(average_projection_convolution(path.config, path.block)[0], pooled)


TRANSITIONS = {
    "pad": Transition(pad),
    "projection": Transition(project, projection_convolution),
    "average_projection": Transition(average_project, average_projection_convolution),
}
