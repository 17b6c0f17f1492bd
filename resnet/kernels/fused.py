"""Operations that are joined: a convolution with a norm around it, and what stands between two convolutions.

Each is one primitive with a composed form, by separate operations, which gives its derivatives and its
batching rule, and is used where no native code serves. `joining.py` finds where they serve in a program.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad
from jaxtyping import Array

from resnet.kernels import native
from resnet.kernels.backend import by_platform
from resnet.kernels.convolution import FORWARD, KERNEL_GRADIENT
from resnet.kernels.formulations import (
    Window,
    kernel_shape,
    native_serves_forward,
    native_serves_kernel_gradient,
    result_shape,
)
from resnet.kernels.moments import native_serves_sums, projections, rows_of


def of_images(values: Array, images: int) -> Array:
    """Values of channels for each of so many images, to be multiplied with them or added.

    [c] are those of all, and become [1, 1, 1, c]. [k, c] are those of k equal parts of the images, and become
    [images, 1, 1, c].
    """
    return OF_PARTS.bind(values, images=images) if values.ndim == 2 else values[None, None, None]


def _of_parts(values: Array, *, images: int) -> Array:
    parts, channels = values.shape
    spread = jnp.broadcast_to(values[:, None], (parts, images // parts, channels))
    return spread.reshape(images, 1, 1, channels)


def _affine(x: Array, scale: Array, offset: Array) -> Array:
    return x * of_images(scale, len(x)) + of_images(offset, len(x))


def _composed(*arrays: Array, window: Window, before: bool, after: bool, relu: bool) -> Array:
    """Computes a convolution and what is joined to it by separate operations."""
    x, kernel, *rest = arrays
    if before:
        scale, offset, *rest = rest
        x = jax.nn.relu(_affine(x, scale, offset))
    y = FORWARD.bind(x, kernel, window=window)
    if after:
        scale, offset, *shortcut = rest
        y = _affine(y, scale, offset)
        y = y + shortcut[0] if shortcut else y
    return jax.nn.relu(y) if relu else y


def _on_cpu(*arrays: Array, window: Window, before: bool, after: bool, relu: bool) -> Array:
    x, kernel, *rest = arrays
    reads = not before or native.serves(x.shape[3])
    if not (reads and native_serves_forward(x, kernel, window)):
        return _composed(*arrays, window=window, before=before, after=after, relu=relu)
    first, rest = ((rest[0], rest[1]), rest[2:]) if before else (None, rest)
    last, shortcut = ((rest[0], rest[1]), rest[2:]) if after else (None, rest)
    return native.run_forward(
        x, kernel, result_shape(x, kernel, window), window, before=first, after=last,
        shortcut=shortcut[0] if shortcut else None, relu=relu,
    )  # fmt: skip


def _composed_gradient(x: Array, g: Array, scale: Array, offset: Array, *, window: Window) -> Array:
    return KERNEL_GRADIENT.bind(jax.nn.relu(_affine(x, scale, offset)), g, window=window)


def _gradient_on_cpu(x: Array, g: Array, scale: Array, offset: Array, *, window: Window) -> Array:
    if not (native.serves(x.shape[3]) and native_serves_kernel_gradient(x, g, window)):
        return _composed_gradient(x, g, scale, offset, window=window)
    return native.run_kernel_gradient(x, g, kernel_shape(x, g, window), window, before=(scale, offset))


def _masked(g: Array, x: Array, *mask: Array) -> Array:
    """The gradient to what a ReLU takes, x or, with a mask, x * scale + offset; g is that to its result."""
    return jnp.where((_affine(x, *mask) if mask else x) > 0, g, jnp.zeros_like(g))


def _combined(
    first: Array, second: Array, scale: Array, second_scale: Array, offset: Array, *mask: Array, relu: bool
) -> Array:
    first = _masked(first, second, *mask) if mask else first
    y = _affine(first, scale, offset) + second * of_images(second_scale, len(second))
    return jax.nn.relu(y) if relu else y


def _combined_on_cpu(first: Array, second: Array, *of_channels: Array, relu: bool) -> Array:
    if not native.serves(first.shape[3]):
        return _combined(first, second, *of_channels, relu=relu)
    values = *map(native.rows, of_channels[:3]), *native.affine(of_channels[3:])
    return native.run_pass("combination", first, second, *values, relu=relu)


def _masked_sum(first: Array, second: Array, rectified: Array) -> Array:
    return _masked(first + second, rectified)


def _masked_sum_on_cpu(*arrays: Array) -> Array:
    serves = native.serves(arrays[0].shape[3])
    return native.run_pass("masked_sum", *arrays) if serves else _masked_sum(*arrays)


def _masked_projections(g: Array, x: Array, mean: Array, *mask: Array) -> tuple[Array, Array]:
    return projections(_masked(g, x, *mask), x, mean)


def _masked_projections_on_cpu(g: Array, x: Array, mean: Array, *mask: Array) -> tuple[Array, Array]:
    if not native_serves_sums(g, x, mean):
        return _masked_projections(g, x, mean, *mask)
    return native.sums("projections", rows_of(g, mean), rows_of(x, mean), mean, *mask)


def _operation(
    name: str,
    shapes: Callable[..., Any],
    composed: Callable,
    cpu: Callable,
    static: tuple[str, ...] = (),
    several: bool = False,
) -> Primitive:
    """Makes a primitive, lowered as `cpu` or `composed`; the derivatives are those of `composed`."""
    primitive = by_platform(name, shapes, cpu=cpu, elsewhere=composed, static=static, several=several)

    def derived(primals: Sequence[Array], tangents: Sequence[Any], **static: Any) -> Any:
        dense = tuple(ad.instantiate_zeros(tangent) for tangent in tangents)
        return jax.jvp(functools.partial(composed, **static), tuple(primals), dense)

    ad.primitive_jvps[primitive] = derived
    return primitive


def _like(array: ShapedArray) -> ShapedArray:
    return ShapedArray(array.shape, array.dtype)


def _by_window(shape: Callable[..., tuple[int, ...]]) -> Callable[..., ShapedArray]:
    return lambda a, b, *rest, window, **flags: ShapedArray(shape(a, b, window), a.dtype)


# Values of parts of the images for each image; a name of its own for `joining.py` to find them by.
OF_PARTS = _operation(
    "of_parts",
    lambda values, images: ShapedArray((images, 1, 1, values.shape[-1]), values.dtype),
    _of_parts,
    _of_parts,
    ("images",),
)
# relu(scale * convolution of relu(x * scale + offset) + offset + shortcut), all but the convolution optional.
JOINED_FORWARD = _operation(
    "convolution_joined", _by_window(result_shape), _composed, _on_cpu, ("window", "before", "after", "relu")
)
# The gradient to the kernel of a convolution of relu(x * scale + offset).
JOINED_KERNEL_GRADIENT = _operation(
    "convolution_joined_kernel_gradient",
    _by_window(kernel_shape),
    _composed_gradient,
    _gradient_on_cpu,
    ("window",),
)
# first * scale + offset + second * second_scale, and its ReLU. With a mask, a scale and an offset more,
# `first` counts where second * scale + offset is positive.
COMBINATION = _operation(
    "combination", lambda first, *rest, relu: _like(first), _combined, _combined_on_cpu, ("relu",)
)
# first + second where a third is positive.
MASKED_SUM = _operation("masked_sum", lambda first, *rest: _like(first), _masked_sum, _masked_sum_on_cpu)
# The projections of g where x * scale + offset > 0.
MASKED_PROJECTIONS = _operation(
    "masked_projections", lambda g, x, mean, *mask: [_like(mean)] * 2,
    _masked_projections, _masked_projections_on_cpu, several=True,
)  # fmt: skip
