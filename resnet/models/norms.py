"""Normalisation: batch (whole batch, all devices, or ghost groups), group, layer, instance, none."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from resnet.errors import InputError
from resnet.kernels.backend import computed_once
from resnet.kernels.fused import of_images
from resnet.kernels.moments import PIXELS, moments, projections
from resnet.models.config import ModelConfig


class Product(NamedTuple):
    """The product of each pixel with one matrix, as a 1x1 convolution computes it: result = x kernel."""

    x: Float[Array, "b h w i"]
    kernel: Float[Array, "1 1 i o"]
    result: Float[Array, "b h w o"]

    @property
    def serves(self) -> bool:
        """Whether the norm is computed from x: in bfloat16, if the result has twice its channels or more.

        In float32, accelerators would round the squares of x, and on the CPU our own kernels join the norm
        to the convolutions around it.
        """
        inputs, outputs = self.kernel.shape[2:]
        return outputs >= 2 * inputs and self.x.dtype == jnp.bfloat16


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over images and pixels (Ioffe 2015).

    In training, mean and variance are those of the batch: over all devices of `axis_name`, or over
    each ghost group of `ghost_batch` images. Running averages of them serve in evaluation, and, as they
    are, in training too where `bn_fixed` matches the module's path with a slash at its end. `product`: that
    of which x is the result.
    """

    config: ModelConfig
    axis_name: str | None = None
    zero_scale: bool = False
    bias_start: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool, product: Product | None = None
    ) -> Float[Array, "b h w c"]:
        config, channels = self.config, x.shape[-1]
        scale = self.param("scale", nn.initializers.constant(0.0 if self.zero_scale else 1.0), (channels,))
        bias = self.param("bias", nn.initializers.constant(self.bias_start), (channels,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        variance = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if self.is_initializing():  # only shapes count
            return x
        if not train or (config.bn_fixed and re.search(config.bn_fixed, "/".join(self.path) + "/")):
            slope = scale * lax.rsqrt(variance.value + config.norm_epsilon)
            offset = bias - mean.value * slope
            return (x * slope[None, None, None] + offset[None, None, None]).astype(x.dtype)

        axis_name = None if config.ghost_batch else self.axis_name
        groups = ghost_groups(x.shape[0], config.ghost_batch)
        shift = mean.value if groups == 1 else jnp.broadcast_to(mean.value, (groups, channels))
        constants = scale, bias, shift, config.norm_epsilon, axis_name
        if product and product.serves and groups == 1:
            y, *now = normalize_product(product.x, product.kernel, *constants)
        else:
            y, *now = batch_normalize(x, *constants)
        now = now if groups == 1 else [each.mean(0) for each in now]
        seen = x.size // channels // groups * (lax.axis_size(axis_name) if axis_name else 1)
        correction = seen / (seen - 1) if config.bn_unbiased and seen > 1 else 1.0
        now = lax.stop_gradient((now[0], now[1] * correction))
        if self.axis_name and config.ghost_batch:
            now = lax.pmean(now, self.axis_name)
        keep = config.bn_momentum
        mean.value = keep * mean.value + (1 - keep) * now[0]
        variance.value = keep * variance.value + (1 - keep) * now[1]
        return y


def ghost_groups(batch: int, ghost_batch: int) -> int:
    """Groups of images with statistics of their own in a batch on one device."""
    if not ghost_batch:
        return 1
    if batch % ghost_batch:
        raise InputError(f"`model.ghost_batch` must divide the {batch} images of a device; got {ghost_batch}")
    return batch // ghost_batch


def batch_normalize(
    x: Float[Array, "b h w c"], scale: Array, bias: Array, shift: Float[Array, "*k c"], epsilon: float,
    axis_name: str | None,
) -> tuple[Float[Array, "b h w c"], Float[Array, "*k c"], Float[Array, "*k c"]]:  # fmt: skip
    """(normalised x, mean, biased variance), statistics in float32, averaged over `axis_name` if given.

    They have the shape of `shift`: [c] is for all images, [k, c] for each of k equal parts of them.
    The gradient is in closed form: nothing but x is kept for it, a third of what autodiff keeps.
    Gradients through the returned mean and variance are dropped: they only feed running averages.
    `shift` estimates the mean, see kernels.moments: a running average, for example. With `axis_name`, the
    variance is computed about the shift on every platform; if the mean lies 1000 standard deviations from
    it, the variance is off by 3 %.
    """

    def forward(x, scale, bias, shift):
        wide = x.astype(jnp.float32)
        mean, variance = moments(wide, shift)
        if axis_name:
            # Both in one all-reduce, for which they are moments about the shift that all devices have.
            distance, square = lax.pmean((mean - shift, variance + jnp.square(mean - shift)), axis_name)
            mean, variance = shift + distance, jnp.maximum(square - jnp.square(distance), 0.0)
        rstd = lax.rsqrt(variance + epsilon)
        scale, bias = (jnp.broadcast_to(each, mean.shape) for each in (scale, bias))
        slope = scale * rstd
        slope, offset = computed_once(slope, bias - mean * slope)
        y = wide * of_images(slope, len(x)) + of_images(offset, len(x))
        return (y.astype(x.dtype), mean, variance), (x, scale, mean, rstd)

    def backward(saved, cotangents):
        x, scale, mean, rstd = saved
        wide, dy = x.astype(jnp.float32), cotangents[0].astype(jnp.float32)
        dbias, product = projections(dy, wide, mean)
        dscale = product * rstd
        count = x.size // mean.size
        dbias_mean, dscale_mean = _averaged((dbias / count, dscale / count), axis_name)
        a = scale * rstd
        slope = -a * rstd * dscale_mean
        a, slope, offset = computed_once(a, slope, -a * dbias_mean - slope * mean)
        a, slope, offset = (of_images(each, len(x)) for each in (a, slope, offset))
        dx = a * dy + slope * wide + offset
        if mean.ndim > 1:
            dscale, dbias = dscale.sum(0), dbias.sum(0)
        return dx.astype(x.dtype), dscale, dbias, None

    normalize = jax.custom_vjp(lambda *arguments: forward(*arguments)[0])
    normalize.defvjp(forward, backward)
    return normalize(x, scale, bias, shift)


def normalize_product(
    x: Float[Array, "b h w i"], kernel: Float[Array, "1 1 i o"], scale: Array, bias: Array,
    shift: Float[Array, " o"], epsilon: float, axis_name: str | None,
) -> tuple[Float[Array, "b h w o"], Float[Array, " o"], Float[Array, " o"]]:  # fmt: skip
    """Computes `batch_normalize(x kernel)`, with the statistics of all images, without forming y = x kernel.

    The moments of y follow from the sums of x and of x'x over pixels, and the gradients from the sum of x'dz,
    where dz is the gradient to the result. In bfloat16 y is not rounded, so statistics and gradients to
    parameters are more accurate. The variance loses digits where means of channels of x are far above their
    standard deviations: 0.0003 of it at 50 of them, 0.02 at 400.
    """
    pixels = x.size // x.shape[-1]

    def forward(x, matrix, scale, bias, shift):
        total, squares = x.astype(jnp.float32).sum(PIXELS), _sum_of_products(x, x)
        mean = total / pixels
        variance = (matrix * _exact(squares / pixels - jnp.outer(mean, mean), matrix)).sum(0)
        mean_y = _exact(mean, matrix)
        if axis_name:
            # In one all-reduce: the mean of x and, as in `batch_normalize`, a square about the shift.
            both = jnp.concatenate((mean, variance + jnp.square(mean_y - shift)))
            mean, square = jnp.split(lax.pmean(both, axis_name), (len(mean),))
            mean_y = _exact(mean, matrix)
            variance = square - jnp.square(mean_y - shift)
        variance = jnp.maximum(variance, 0.0)
        rstd = lax.rsqrt(variance + epsilon)
        # Rounded to the type of x, the matrix gives another mean, which the offset takes away.
        scaled = (matrix * (scale * rstd)[None]).astype(x.dtype)
        offset = bias - _exact(mean, scaled.astype(jnp.float32))
        z = _times(x, scaled) + offset[None, None, None]
        return (z.astype(x.dtype), mean_y, variance), (x, matrix, scale, mean_y, rstd, total, squares)

    def backward(saved, cotangents):
        (x, matrix, scale, mean, rstd, total, squares), dz = saved, cotangents[0]
        dbias, products = dz.astype(jnp.float32).sum(PIXELS), _sum_of_products(x, dz)
        dscale = ((matrix * products).sum(0) - mean * dbias) * rstd
        dbias_mean, dscale_mean = _averaged((dbias / pixels, dscale / pixels), axis_name)
        # The gradient to y is a * dz + slope * y + offset.
        a = scale * rstd
        slope = -a * rstd * dscale_mean
        offset = -a * dbias_mean - slope * mean
        dmatrix = a[None] * products + slope[None] * _exact(squares, matrix) + jnp.outer(total, offset)
        dx = _times(dz, (matrix * a[None]).T) + _times(x, _exact(matrix * slope[None], matrix.T))
        dx += _exact(matrix, offset)[None, None, None]
        return dx.astype(x.dtype), dmatrix, dscale, dbias, None

    normalize = jax.custom_vjp(lambda *arguments: forward(*arguments)[0])
    normalize.defvjp(forward, backward)
    return normalize(x, kernel[0, 0].astype(jnp.float32), scale, bias, shift)


def _averaged(values: Any, axis_name: str | None) -> Any:
    """Averages the values over the devices of `axis_name`; returns them unchanged if it is None."""
    return lax.pmean(values, axis_name) if axis_name else values


def _sum_of_products(a: Float[Array, "b h w i"], b: Float[Array, "b h w o"]) -> Float[Array, "i o"]:
    """Sums the outer products of the channels of a with those of b over all pixels, in float32."""
    pixels = (0, 1, 2)
    return lax.dot_general(a, b, ((pixels, pixels), ((), ())), preferred_element_type=jnp.float32)


def _times(x: Float[Array, "b h w i"], matrix: Float[Array, "i o"]) -> Float[Array, "b h w o"]:
    """Multiplies each pixel by the matrix. All is rounded to the type of x; the result is float32 then."""
    return lax.dot_general(x, matrix.astype(x.dtype), (((3,), (0,)), ((), ()))).astype(jnp.float32)


def _exact(a: Array, b: Array) -> Array:
    """A product of small matrices in float32, whose operands an accelerator would round."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


class GroupNorm(nn.Module):
    """Normalises each image over its pixels and `groups` groups of channels (Wu 2018)."""

    groups: int
    epsilon: float
    zero_scale: bool = False
    bias_start: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        scale = self.param("scale", nn.initializers.constant(0.0 if self.zero_scale else 1.0), (c,))
        bias = self.param("bias", nn.initializers.constant(self.bias_start), (c,))
        grouped = x.astype(jnp.float32).reshape(b, h * w, self.groups, c // self.groups)
        mean = _group_mean(grouped)
        variance = _group_mean(jnp.square(grouped - mean))
        y = ((grouped - mean) * lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        return (y * scale[None, None, None] + bias[None, None, None]).astype(x.dtype)


def _group_mean(x: Float[Array, "b p g c"]) -> Float[Array, "b 1 g 1"]:
    """Over pixels p, then over the channels c of a group: one long sum in float32 rounds twice as much."""
    return x.mean(1, keepdims=True).mean(3, keepdims=True)


# Groups of channels that are normalised together, from ModelConfig.norm_groups and the channels.
CHANNEL_GROUPS: dict[str, Callable[[int, int], int]] = {
    "group": lambda groups, channels: groups,
    "layer": lambda groups, channels: 1,
    "instance": lambda groups, channels: channels,
}
NORMS = ("batch", *CHANNEL_GROUPS, "none")


def norm_layer(
    config: ModelConfig, x: Array, train: bool, *, name: str, axis_name: str | None,
    zero_scale: bool = False, bias_start: float = 0.0, product: Product | None = None,
) -> Array:  # fmt: skip
    """Applies the norm that the config names, as a submodule `name` of the calling module; "none" returns x.

    `product`: the product that x is the result of, or None.
    """
    if config.norm == "none":
        return x
    if config.norm == "batch":
        return BatchNorm(config, axis_name, zero_scale, bias_start, name=name)(x, train, product)
    groups = CHANNEL_GROUPS[config.norm](config.norm_groups, x.shape[-1])
    return GroupNorm(groups, config.norm_epsilon, zero_scale, bias_start, name=name)(x)
