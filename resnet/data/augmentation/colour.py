"""Changes of colour that are no policy: jitter, PCA lighting, grey; on uint8 images."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from resnet.data.augmentation import pixels
from resnet.data.augmentation.operations import Keys, change
from resnet.data.augmentation.pixels import Image
from resnet.errors import InputError, check_at_least, check_within


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """torchvision's: brightness, contrast and saturation times 1 ± these shares, in random order."""

    brightness: float
    contrast: float
    saturation: float

    stream: ClassVar[int] = 12
    on_pixels: ClassVar[bool] = True
    names: ClassVar = ("Brightness", "Contrast", "Color")

    @property
    def strengths(self) -> tuple[float, ...]:
        """In the order of the names."""
        return self.brightness, self.contrast, self.saturation

    def check(self, field: str, shape: tuple[int, int, int] | None) -> None:
        """None of the shares is negative."""
        for name, strength in zip(("brightness", "contrast", "saturation"), self.strengths, strict=True):
            check_at_least(f"{field} {name}", strength, 0)

    def __call__(self, keys: Keys, image: Image) -> Image:
        strengths = np.array(self.strengths, np.float32)
        low, high = np.maximum(1 - strengths, 0), 1 + strengths
        factors = jax.random.uniform(keys[0], (3,), minval=jnp.asarray(low), maxval=jnp.asarray(high))
        order = jax.random.permutation(keys[1], 3)
        for i in range(3):
            image = change(self.names, image, order[i], factors[order[i]])
        return image


@dataclasses.dataclass(frozen=True)
class Lighting:
    """Adds colour along the principal axes of ImageNet's pixels (Krizhevsky 2012).

    fb.resnet.torch's spread is 0.1. The sum is rounded and cut to 0..255.
    """

    spread: float

    stream: ClassVar[int] = 14
    on_pixels: ClassVar[bool] = True
    # For values from 0 to 1: fb.resnet.torch, datasets/imagenet.lua.
    roots: ClassVar = (0.2175, 0.0188, 0.0045)
    axes: ClassVar = (
        (-0.5675, 0.7192, 0.4009),
        (-0.5808, -0.0045, -0.8140),
        (-0.5836, -0.6948, 0.4203),
    )

    def check(self, field: str, shape: tuple[int, int, int] | None) -> None:
        """The spread is not negative, and the images are in colour."""
        check_at_least(f"{field} spread", self.spread, 0)
        if shape and shape[-1] != 3:
            raise InputError(f"`{field}` needs images in colour; these have {shape[-1]} channel(s)")

    def __call__(self, keys: Keys, image: Image) -> Image:
        weights = self.spread * jax.random.normal(keys[0], (3,)) * jnp.asarray(self.roots)
        colour = 255 * (jnp.asarray(self.axes) * weights[None]).sum(1)
        return jnp.clip(jnp.round(image + colour[None, None]), 0, 255).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class Grey:
    """Takes the colour out of this share of the images."""

    probability: float

    stream: ClassVar[int] = 16
    on_pixels: ClassVar[bool] = True

    def check(self, field: str, shape: tuple[int, int, int] | None) -> None:
        """The probability is one."""
        check_within(f"{field} probability", self.probability, 0, 1)

    def __call__(self, keys: Keys, image: Image) -> Image:
        without = jnp.broadcast_to(pixels.grey(image)[..., None], image.shape)
        return jnp.where(jax.random.bernoulli(keys[0], self.probability), without, image)
