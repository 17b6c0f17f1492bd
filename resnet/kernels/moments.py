"""Sums over images and pixels, channel by channel: what batch norm needs, forward and backward.

For the CPU, moments are taken in two passes, which need no shift. XLA writes deviations out there before it
sums their squares; in float32 and for a multiple of 8 channels, our own (native) reads its operands once.
On other platforms one pass about a shift goes into the convolution before it. Derivatives of all orders are
those of the plain form.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching
from jaxtyping import Array, Float

from resnet.kernels import native
from resnet.kernels.backend import by_platform, xla_alone

# Axes of images, rows and columns; more may stand before them, of what is mapped.
PIXELS = (-4, -3, -2)


def moments(
    x: Float[Array, "b h w c"], shift: Float[Array, "*k c"]
) -> tuple[Float[Array, "*k c"], Float[Array, "*k c"]]:
    """(mean, biased variance), in the type of `shift`, float32.

    With a shift [k, c], those of each of k equal parts of the images, [k, c].
    `shift` changes only the rounding, and on the CPU nothing. Elsewhere the variance loses about
    log10((mean - shift)² / variance) digits: give a mean of earlier batches.
    """
    if not _one_each(shift, x):
        raise ValueError(f"there must be a shift for each channel; got {shift.shape}, x {x.shape}")
    wide = x.astype(shift.dtype)
    return _two_passes(wide, shift) if xla_alone() else _moments(wide, shift)


def projections(
    g: Float[Array, "b h w c"], x: Float[Array, "b h w c"], mean: Float[Array, "*k c"]
) -> tuple[Float[Array, "*k c"], Float[Array, "*k c"]]:
    """(sum of g, sum of g * (x - mean)), in the type of `mean`, float32, in parts as in `moments`."""
    if g.shape != x.shape or not _one_each(mean, x):
        raise ValueError(
            f"g must have the shape of x, and a mean for each channel; got {g.shape}, {x.shape}, {mean.shape}"
        )
    arrays = g.astype(mean.dtype), x.astype(mean.dtype), mean
    return _plain_projections(*arrays) if xla_alone() else _projections(*arrays)


def _one_each(values: Array, x: Array) -> bool:
    """Whether there is a value for each channel of all images, or of each of equal parts of them."""
    *parts, channels = values.shape or (0,)
    divide = not parts or (len(parts) == 1 and x.shape[0] % parts[0] == 0)
    return divide and channels == x.shape[-1]


def in_parts(x: Array, values: Array) -> Array:
    """[…, b, h, w, c] as […, k, b / k, h, w, c] if there are values […, k, c], and as it is if […, c]."""
    if values.ndim == x.ndim - len(PIXELS):
        return x
    return x.reshape(*values.shape[:-1], -1, *x.shape[-3:])


def _two_passes(x: Array, shift: Array) -> tuple[Array, Array]:
    x = in_parts(x, shift)
    mean = x.mean(PIXELS)
    return mean, jnp.square(x - _of_pixels(mean)).mean(PIXELS)


def _one_pass(x: Array, shift: Array) -> tuple[Array, Array]:
    """E[d²] - E[d]² of d = x - shift, which cancels only where the mean is far from the shift."""
    deviations = in_parts(x, shift) - _of_pixels(shift)
    mean = deviations.mean(PIXELS)
    variance = jnp.square(deviations).mean(PIXELS) - jnp.square(mean)
    return shift + mean, jnp.maximum(variance, 0.0)


def _plain_projections(g: Array, x: Array, mean: Array) -> tuple[Array, Array]:
    g, x = in_parts(g, mean), in_parts(x, mean)
    return g.sum(PIXELS), (g * (x - _of_pixels(mean))).sum(PIXELS)


def _of_pixels(channels: Array) -> Array:
    return jnp.expand_dims(channels, PIXELS)


def _moments_on_cpu(x: Array, shift: Array) -> tuple[Array, Array]:
    if native_serves_sums(x):
        return native.sums("moments", rows_of(x, shift))
    return _two_passes(x, shift)


def _projections_on_cpu(g: Array, x: Array, mean: Array) -> tuple[Array, Array]:
    if native_serves_sums(g, x, mean):
        return native.sums("projections", rows_of(g, mean), rows_of(x, mean), mean, *native.affine(None))
    return _plain_projections(g, x, mean)


def native_serves_sums(*arrays: Array) -> bool:
    """Whether native code can sum these arrays over their images and pixels."""
    fits = all(a.dtype == jnp.float32 and a.size > 0 for a in arrays)
    return fits and native.serves(arrays[0].shape[-1])


def rows_of(x: Array, values: Array) -> Array:
    """The pixels of all images as rows, […, b * h * w, c], or of each of k parts as values […, k, c] ask."""
    return x.reshape(*values.shape[:-1], -1, x.shape[-1])


def _by_platform(name: str, plain: Callable, *, cpu: Callable, elsewhere: Callable) -> Callable:
    """Two sums over PIXELS of arrays whose last is [c], with the derivatives of their plain form."""
    primitive = by_platform(
        name,
        lambda *arrays: [ShapedArray(arrays[-1].shape, arrays[-1].dtype)] * 2,
        cpu=cpu,
        elsewhere=elsewhere,
        several=True,
    )
    batching.primitive_batchers[primitive] = functools.partial(_batched, primitive)
    function = jax.custom_jvp(lambda *arrays: tuple(primitive.bind(*arrays)))
    function.defjvp(lambda primals, tangents: (function(*primals), jax.jvp(plain, primals, tangents)[1]))
    return function


def _batched(primitive: Primitive, arrays: tuple[Array, ...], axes: tuple[int | None, ...]) -> tuple:
    """The batching rule: what is mapped stands before the axes that are summed."""
    size = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
    in_front = (batching.bdim_at_front(a, axis, size) for a, axis in zip(arrays, axes, strict=True))
    return primitive.bind(*in_front), (0, 0)


_moments = _by_platform("moments", _two_passes, cpu=_moments_on_cpu, elsewhere=_one_pass)
_projections = _by_platform(
    "projections", _plain_projections, cpu=_projections_on_cpu, elsewhere=_plain_projections
)
