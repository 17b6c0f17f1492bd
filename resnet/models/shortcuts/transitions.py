"""Transitions: x in the shape of F(x), where a block changes the shape."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from resnet.models.branches import ORDERS
from resnet.models.shortcuts.junction import Junction

PAD_MODES = ("subsample", "average")
PAD_SIDES = ("end", "both")


def pad(at: Junction, x: Array) -> Array:
    """Option A (He 2015): fewer pixels, then channels of zeros; no parameters."""
    stride = at.block.stride
    x = _averaged(x, stride) if at.config.pad_mode == "average" else x[:, ::stride, ::stride]
    zeros = at.block.outputs - at.block.inputs
    before = zeros // 2 if at.config.pad_side == "both" else 0
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, zeros - before)))


def project(at: Junction, x: Array) -> Array:
    """Options B and C: a matrix on the channels of every stride-th pixel."""
    return _project(at, x, at.block.stride)


def average_project(at: Junction, x: Array) -> Array:
    """ResNet-D (He 2018): average pooling, then a matrix on the channels."""
    return _project(at, _averaged(x, at.block.stride), 1)


def shifted_project(at: Junction, x: Array) -> Array:
    """Two matrices, on every stride-th pixel and on its neighbour above to the left, then a norm.

    Each gives half of the channels. Source: github xgastaldi/shake-shake.
    """
    stride, half = at.block.stride, at.block.outputs // 2
    neighbours = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)))[:, :-1, :-1]
    paths = [
        at.layers.conv(x, "projection1", at.block.outputs - half, 1, stride),
        at.layers.conv(neighbours, "projection2", half, 1, stride),
    ]
    return at.layers.norm(jnp.concatenate(paths, axis=-1), "norm")


def _averaged(x: Array, stride: int) -> Array:
    """Averages each stride x stride window. At the border, only pixels within the image count."""
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


def _project(at: Junction, x: Array, stride: int) -> Array:
    """Pre-activation nets put no norm behind."""
    x = at.layers.conv(x, "projection", at.block.outputs, 1, stride)
    return x if ORDERS[at.config.activation_order].preactivation else at.layers.norm(x, "norm")


TRANSITIONS = {
    "pad": pad,
    "projection": project,
    "average_projection": average_project,
    "shifted_projection": shifted_project,
}
