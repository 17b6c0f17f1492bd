"""Normalisation and random augmentation of a batch: pure, inside the jitted step, on the device.

Images are normalised first: then the zeros that `shift` and `cutout` bring in are the mean colour,
as in He 2015, who pads mean-subtracted images, and in fb.resnet.torch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Key, Num

from resnet.data.datasets import DataConfig

_PAD_MODES = {"zero": "constant", "reflect": "reflect"}


def normalize(
    images: Num[Array | np.ndarray, "b h w c"],
    mean: Float32[Array | np.ndarray, "..."],
    std: Float32[Array | np.ndarray, "..."],
) -> Float32[Array, "b h w c"]:
    """(images - mean) / std in units of 0..255; the statistics are of each channel or pixel."""
    mean, std = jnp.broadcast_to(mean, images.shape), jnp.broadcast_to(std, images.shape)
    return (jnp.asarray(images, jnp.float32) - mean) / std


def augment(
    keys: Key[Array, " b"], images: Num[Array, "b h w c"], config: DataConfig
) -> Num[Array, "b h w c"]:
    """Shifts, flips and cuts out normalised images, each by the draws of its own key.

    What becomes of an image depends on no other of its batch, so that a batch may be divided.
    """
    return jax.vmap(functools.partial(_augment_image, config))(keys, images)


def _augment_image(
    config: DataConfig, key: Key[Array, ""], image: Num[Array, "h w c"]
) -> Num[Array, "h w c"]:
    shift_key, flip_key, row_key, column_key = jax.random.split(key, 4)
    height, width, _ = image.shape
    if config.shift:
        border = (config.shift, config.shift)
        padded = jnp.pad(image, (border, border, (0, 0)), _PAD_MODES[config.shift_fill])
        top, left = jax.random.randint(shift_key, (2,), 0, 2 * config.shift + 1)
        image = jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)
    if config.flip:
        image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
    if config.cutout:
        rows = _window(row_key, height, config.cutout)
        columns = _window(column_key, width, config.cutout)
        image = jnp.where(rows[:, None, None] & columns[None, :, None], 0, image)
    return image


def _window(key: Key[Array, ""], length: int, side: int) -> Bool[Array, " length"]:
    """Marks `side` positions about a random one, fewer where they would pass the edge."""
    offset = jnp.arange(length) - jax.random.randint(key, (), 0, length) + side // 2
    return (offset >= 0) & (offset < side)
