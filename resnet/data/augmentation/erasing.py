"""Random erasing of a rectangle (Zhong 2017, arXiv 1708.04896), as timm does it, in normalised images."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num

from resnet.data.augmentation.operations import Keys
from resnet.errors import check_choice, check_within

TRIES = 10  # of timm and torchvision; an image in which none fits stays as it is
AREA = (0.02, 1 / 3)
ASPECT = (0.3, 1 / 0.3)
# What stands in the rectangle: the mean colour, a random colour, noise.
MODES = {"const": lambda h, w, c: None, "rand": lambda h, w, c: (1, 1, c), "pixel": lambda h, w, c: (h, w, c)}


@dataclasses.dataclass(frozen=True)
class RandomErasing:
    """Erases a rectangle of 2 to 33 % of the area, of this share of the images; `mode` is as in timm."""

    probability: float
    mode: str = "const"

    stream: ClassVar[int] = 18
    on_pixels: ClassVar[bool] = False

    def check(self, field: str, shape: tuple[int, int, int] | None) -> None:
        """The probability is one, and the mode is known."""
        check_within(f"{field} probability", self.probability, 0, 1)
        check_choice(f"{field} mode", self.mode, MODES)

    def __call__(self, keys: Keys, image: Num[Array, "h w c"]) -> Num[Array, "h w c"]:
        height, width, _ = image.shape
        happens, *own = jax.random.split(keys[0], 5)
        area, aspect, top, left = (jax.random.uniform(key, (TRIES,)) for key in own)
        area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * area)
        low, high = map(math.log, ASPECT)
        aspect = jnp.exp(low + (high - low) * aspect)
        h, w = (jnp.round(jnp.sqrt(side)).astype(jnp.int32) for side in (area * aspect, area / aspect))
        fits = (h < height) & (w < width)
        first = jnp.argmax(fits)  # 0 if none does
        y = jnp.floor(top * (height - h + 1)).astype(jnp.int32)[first]
        x = jnp.floor(left * (width - w + 1)).astype(jnp.int32)[first]
        rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
        erased = (rows >= y) & (rows < y + h[first]) & (columns >= x) & (columns < x + w[first])
        erased &= fits[first] & jax.random.bernoulli(happens, self.probability)
        shape = MODES[self.mode](*image.shape)
        fill = jax.random.normal(keys[1], shape) if shape else jnp.zeros((1, 1, 1))
        return jnp.where(erased[..., None], fill.astype(image.dtype), image)
