"""Cuts a window out of an image, at a place that is computed while the program runs."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Num

from resnet.kernels.backend import xla_alone


def window(image: Num[Array, "y x c"], start: Int[Array, "2"], sides: tuple[int, int]) -> Num[Array, "h w c"]:
    """The pixels of an image from row and column `start`, which leave room for `sides`.

    For a batch of images, a TPU would cut a slice from one after the other, which takes about as long as
    ResNet-20's whole step. There, each axis is moved by the powers of two that add up to its start. The
    pixels are the same.
    """

    def sliced(image, start):
        return lax.dynamic_slice(image, (start[0], start[1], 0), (*sides, image.shape[2]))

    def moved(image, start):
        for axis in (0, 1):
            image = moved_along(image, start[axis], sides[axis], axis)
        return image

    if xla_alone():
        return sliced(image, start)
    return lax.platform_dependent(image, start, tpu=moved, default=sliced)


def moved_along(x: Num[Array, "..."], start: Int[Array, ""], length: int, axis: int) -> Num[Array, "..."]:
    """`length` elements along an axis from `start`, by one choice between two for each of its bits."""
    furthest = x.shape[axis] - length
    for bit in reversed(range(furthest.bit_length())):
        step = 1 << bit
        # So many can still be needed: the bits that are left move by less than `step`.
        needed = length + step - 1
        near = lax.slice_in_dim(x, 0, needed, axis=axis)
        far = lax.slice_in_dim(x, step, min(step + needed, x.shape[axis]), axis=axis)
        missing = [(0, needed - far.shape[axis] if each == axis else 0) for each in range(x.ndim)]
        x = jnp.where((start >> bit) & 1 == 1, jnp.pad(far, missing), near)
    return x
