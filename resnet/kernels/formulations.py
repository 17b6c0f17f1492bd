"""A convolution and its two gradients as they are fast on the CPU, written out as forward convolutions.

| case          | formulation                                                                    |
|---------------|--------------------------------------------------------------------------------|
| any           | our own (native), in float32, with results in multiples of 8 channels          |
| other k x k   | convolutions, the kernel's gradient behind a fence                             |
| other 1x1     | slice and matrix product, the kernel's gradient behind a fence                 |

XLA's own gradients are slow there: inside a loop they leave the fast path, and outside one the producers of
their operands are computed again for each kernel gradient.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from resnet.kernels import native

NHWC = ("NHWC", "HWIO", "NHWC")


class Window(NamedTuple):
    """What a convolution is beside its arrays."""

    size: int
    """Side of the kernel."""
    stride: int
    padding: int
    groups: int
    extent: tuple[int, int]
    """Height and width of the input, which the shapes of kernel and result alone do not tell."""


def result_shape(x, kernel, window: Window) -> tuple:
    """(b, y, x, o); b is an expression where a program is exported for any batch."""
    sides = (max(0, (n + 2 * window.padding - window.size) // window.stride + 1) for n in window.extent)
    return x.shape[0], *sides, kernel.shape[3]


def input_shape(g, kernel, window: Window) -> tuple:
    """(b, h, w, c) of the input of a convolution whose result has the gradient g."""
    return g.shape[0], *window.extent, window.groups * kernel.shape[2]


def kernel_shape(x, g, window: Window) -> tuple:
    """(k, k, i, o) of the kernel."""
    return window.size, window.size, x.shape[3] // window.groups, g.shape[3]


def plain(x: Array, kernel: Array, stride: int, padding: int, groups: int = 1) -> Array:
    """The convolution as XLA's own operation; every other formulation is tested against it."""
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), ((padding, padding),) * 2, dimension_numbers=NHWC,
        feature_group_count=groups,
    )  # fmt: skip


# Callers of the next three functions give no empty arrays, and several groups only where native code serves.


def cpu_forward(x: Array, kernel: Array, window: Window) -> Array:
    """The convolution: native, XLA's, or for 1x1 kernels a product of matrices."""
    stride, padding = window.stride, window.padding
    if native_serves_forward(x, kernel, window):
        return native.run_forward(x, kernel, result_shape(x, kernel, window), window)
    if window.size > 1 or padding:
        return plain(x, kernel, stride, padding)
    return lax.dot_general(x[:, ::stride, ::stride], kernel[0, 0], (((3,), (0,)), ((), ())))


def cpu_input_gradient(g: Array, kernel: Array, window: Window) -> Array:
    """Gradient to the input: g convolved with the turned kernel."""
    size, stride, padding, extent = window.size, window.stride, window.padding, window.extent
    shape = input_shape(g, kernel, window)
    if native_serves_input_gradient(g, kernel, window):
        return native.run_input_gradient(g, kernel, shape, window)
    low = size - 1 - padding
    highs = [n + padding - (m - 1) * stride - 1 for n, m in zip(extent, g.shape[1:3], strict=True)]
    turned = jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2)
    return lax.conv_general_dilated(
        g,
        turned,
        (1, 1),
        [(low, high) for high in highs],
        lhs_dilation=(stride, stride),
        dimension_numbers=NHWC,
    )


def cpu_kernel_gradient(x: Array, g: Array, window: Window) -> Array:
    """Gradient to the kernel, as a forward convolution of x with g over the batch."""
    size, stride, padding, extent = window.size, window.stride, window.padding, window.extent
    if native_serves_kernel_gradient(x, g, window):
        return native.run_kernel_gradient(x, g, kernel_shape(x, g, window), window)
    if size == 1 and not padding:
        return fenced(_pointwise_kernel_gradient, x[:, ::stride, ::stride], g)
    highs = [size - 1 - n - padding + (m - 1) * stride + 1 for n, m in zip(extent, g.shape[1:3], strict=True)]

    def gradient(x: Array, g: Array) -> Array:
        by_channel = lax.conv_general_dilated(
            x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), (1, 1), [(padding, high) for high in highs],
            rhs_dilation=(stride, stride), dimension_numbers=NHWC,
        )  # fmt: skip
        return by_channel.transpose(1, 2, 0, 3)

    return fenced(gradient, x, g)


def native_serves_forward(x: Array, kernel: Array, window: Window) -> bool:
    """Whether the convolution is native, of one group or several."""
    filled = 0 not in (*x.shape, *kernel.shape, *result_shape(x, kernel, window))
    return filled and _native_serves(x, kernel.shape[3], window)


def native_serves_input_gradient(g: Array, kernel: Array, window: Window) -> bool:
    """Whether the gradient to the input is native, of one group or several."""
    return _native_serves(g, input_shape(g, kernel, window)[3], window)


def native_serves_kernel_gradient(x: Array, g: Array, window: Window) -> bool:
    """Whether the gradient to the kernel is native, of one group or several."""
    return 0 not in (*x.shape, *g.shape) and _native_serves(x, g.shape[3], window)


def _native_serves(read: Array, written: int, window: Window) -> bool:
    """Whether native code computes so many channels of what it reads, an array of images, for this window."""
    # Packed images grow with the stride. One above this bound leaves a single result, which XLA computes.
    fits = window.padding < window.size and window.stride <= window.size + max(window.extent)
    if window.groups > 1:  # Groups fill blocks of channels, or hold blocks.
        channels, group = read.shape[3], read.shape[3] // window.groups
        whole = native.BLOCK % group == 0 or group % native.BLOCK == 0
        fits = fits and whole and channels == written and channels % max(group, native.BLOCK) == 0
    return fits and read.dtype == jnp.float32 and native.serves(written)


def _pointwise_kernel_gradient(x: Array, g: Array) -> Array:
    return lax.dot_general(x, g, (((0, 1, 2), (0, 1, 2)), ((), ())))[None, None]


def fenced(f: Callable[..., Array], x: Array, g: Array) -> Array:
    """f(x, g) with x and g computed once before it, not fused into it and computed again.

    XLA drops `optimization_barrier` on the CPU but keeps a conditional that it cannot fold. The condition
    holds unless the first number of x is the NaN whose bits are all set, which no operation gives; then the
    result is NaN, or 0 where f gives integers.
    """
    if 0 in x.shape:  # nothing that could be recomputed
        return f(x, g)
    shape = jax.eval_shape(f, x, g)
    lost = jnp.nan if jnp.issubdtype(shape.dtype, jnp.floating) else 0
    bits = lax.bitcast_convert_type(x.reshape(-1)[0], f"int{8 * x.dtype.itemsize}")
    return lax.cond(bits != -1, f, lambda *_: jnp.full(shape.shape, lost, shape.dtype), x, g)


def transposed(f: Callable[[Array], Array], shape: tuple[int, ...], g: Array) -> Array:
    """The gradient g to the result of a linear f, taken to its argument of this shape."""
    return jax.linear_transpose(f, jax.ShapeDtypeStruct(shape, g.dtype))(g)[0]
