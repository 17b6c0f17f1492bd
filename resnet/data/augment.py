"""Normalisation and random augmentation of a batch: pure, inside the jitted step, on the device.

An augmentation is a list of operations. Each is a frozen dataclass with an entry in OPERATIONS: its fields
are the arguments, `check` refuses those that cannot work, and a call changes one image.
Operations on uint8 images, as in Pillow, come first. Then images are normalised. Crops, cutout and erasing
come last: their zeros are then the mean colour, as in fb.resnet.torch and in He 2015, where mean-subtracted
images are padded.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int, Key, Num, UInt8

from resnet.data.augmentation.colour import ColorJitter, Grey, Lighting
from resnet.data.augmentation.erasing import RandomErasing
from resnet.data.augmentation.policies import AutoAugment, RandAugment, TimmRandAugment, TrivialAugmentWide
from resnet.data.images import shrunk_shape
from resnet.errors import InputError, check_at_least, check_choice
from resnet.kernels.backend import each_image
from resnet.kernels.windows import window

Shape = tuple[int, int, int] | None


@runtime_checkable
class ImageOperation(Protocol):
    """A random change of one image."""

    stream: ClassVar[int]
    """Number that is folded into an image's key for the first of the operation's two keys; the second takes
    the next number. No two operations share a number, so that adding one changes no draw of another."""
    on_pixels: ClassVar[bool]
    """Whether it changes the uint8 image; else it changes the normalised one."""

    def check(self, field: str, shape: Shape) -> None:
        """Raises InputError, which names `field`, for arguments that do not work.

        `shape` is an image's height, width and channels, or None before the data are read.
        """
        ...

    def __call__(self, keys: Sequence[Key[Array, ""]], image: Num[Array, "h w c"]) -> Num[Array, "h w c"]:
        """The image, changed by draws from the two keys."""
        ...


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """Pads an image by so many pixels on each side, and crops its own size out at random (He 2015: 4).

    The padding is zero, the mean of normalised images, or the image reflected.
    """

    pixels: int
    fill: str = "zero"

    stream: ClassVar[int] = 0
    on_pixels: ClassVar[bool] = False
    modes: ClassVar = {"zero": "constant", "reflect": "reflect"}

    def check(self, field: str, shape: Shape) -> None:
        """The pixels are fewer than the sides have, and the fill is known."""
        _check_pixels(field, self.pixels, shape)
        check_choice(f"{field}_fill", self.fill, self.modes)

    def __call__(self, keys: Sequence[Key[Array, ""]], image: Num[Array, "h w c"]) -> Num[Array, "h w c"]:
        border = (self.pixels, self.pixels)
        padded = jnp.pad(image, (border, border, (0, 0)), self.modes[self.fill])
        start = jax.random.randint(keys[0], (2,), 0, 2 * self.pixels + 1)
        return window(padded, start, (image.shape[0], image.shape[1]))


@dataclasses.dataclass(frozen=True)
class Flip:
    """Mirrors half of the images left to right."""

    stream: ClassVar[int] = 1
    on_pixels: ClassVar[bool] = False

    def check(self, field: str, shape: Shape) -> None:
        """Nothing can be wrong."""

    def __call__(self, keys: Sequence[Key[Array, ""]], image: Num[Array, "h w c"]) -> Num[Array, "h w c"]:
        return jnp.where(jax.random.bernoulli(keys[0]), image[:, ::-1], image)


@dataclasses.dataclass(frozen=True)
class Cutout:
    """Erases a square of so many pixels a side about a random pixel (DeVries & Taylor 2017)."""

    pixels: int

    stream: ClassVar[int] = 2
    on_pixels: ClassVar[bool] = False

    def check(self, field: str, shape: Shape) -> None:
        """The pixels are fewer than the sides have."""
        _check_pixels(field, self.pixels, shape)

    def __call__(self, keys: Sequence[Key[Array, ""]], image: Num[Array, "h w c"]) -> Num[Array, "h w c"]:
        rows, columns = (self._window(key, length) for key, length in zip(keys, image.shape, strict=False))
        return jnp.where(rows[:, None, None] & columns[None, :, None], 0, image)

    def _window(self, key: Key[Array, ""], length: int) -> Bool[Array, " length"]:
        """Marks as many positions about a random one as the square has a side, fewer at an edge."""
        offset = jnp.arange(length) - jax.random.randint(key, (), 0, length) + self.pixels // 2
        return (offset >= 0) & (offset < self.pixels)


OPERATIONS: dict[str, type] = {
    "random_crop": RandomCrop,
    "flip": Flip,
    "cutout": Cutout,
    "rand_augment": RandAugment,
    "timm_rand_augment": TimmRandAugment,
    "trivial_augment": TrivialAugmentWide,
    "auto_augment": AutoAugment,
    "color_jitter": ColorJitter,
    "lighting": Lighting,
    "grey": Grey,
    "random_erasing": RandomErasing,
}


# Operations under the names that they had before, which earlier config files and runs have.
RENAMED = {"shift": "random_crop"}


def _check_pixels(field: str, pixels: int, shape: Shape) -> None:
    check_at_least(field, pixels, 0)
    if shape and pixels >= min(shape[:2]):
        height, width, _ = shape
        raise InputError(
            f"`{field}` must be less than the images' sides, {width}x{height} pixels; got {pixels!r}"
        )


def parse_operation(field: str, text: str) -> tuple[str, ImageOperation]:
    """Parses "random_crop 4 reflect" and the like: (the name for errors, the operation)."""
    name, *words = text.split() or [""]
    name = RENAMED.get(name, name)
    check_choice(field, name, OPERATIONS)
    arguments = dataclasses.fields(OPERATIONS[name])
    try:
        if len(words) > len(arguments):
            raise ValueError
        values = [argument.type(word) for argument, word in zip(arguments, words, strict=False)]  # type: ignore[operator]
        return f"{field}: {name}", OPERATIONS[name](*values)
    except (TypeError, ValueError):  # a missing argument, or one of another type
        usage = [a.name if a.default is dataclasses.MISSING else f"[{a.name}]" for a in arguments]
        raise InputError(f"`{field}` must be {' '.join([name, *usage])}; got {text!r}") from None


def normalize(
    images: Num[Array | np.ndarray, "b h w c"],
    mean: Float32[Array | np.ndarray, "..."],
    std: Float32[Array | np.ndarray, "..."],
) -> Float32[Array, "b h w c"]:
    """(images - mean) / std in units of 0..255; the statistics are of each channel or pixel."""
    mean, std = jnp.broadcast_to(mean, images.shape), jnp.broadcast_to(std, images.shape)
    return (jnp.asarray(images, jnp.float32) - mean) / std


def augment(
    keys: Key[Array, " b"],
    images: Num[Array, "b h w c"],
    operations: Sequence[ImageOperation],
    mean: Float32[Array | np.ndarray, "..."],
    std: Float32[Array | np.ndarray, "..."],
) -> Float32[Array, "b h w c"]:
    """Normalised images after the operations, one after the other, each image by the draws of its own key.

    What becomes of an image depends on no other of its batch, so that a batch may be divided. Raises
    InputError for an operation that does not suit the images' shape or type.
    """
    _, h, w, c = images.shape
    for operation in operations:
        operation.check(f"operation {operation}", (h, w, c))
    on_pixels = [operation for operation in operations if operation.on_pixels]
    after = [operation for operation in operations if not operation.on_pixels]
    if on_pixels and images.dtype != jnp.uint8:
        raise InputError(f"{on_pixels[0]} changes images of type uint8; got {images.dtype}")
    if on_pixels:
        images = each_image(functools.partial(_changed, on_pixels), keys, images)
    return jax.vmap(functools.partial(_changed, after))(keys, normalize(images, mean, std))


def mirrored_in_turn(
    key: Key[Array, ""],
    places: Int[Array, " b"],
    epoch: Int[Array, ""],
    images: Num[Array, "b h w c"],
) -> Num[Array, "b h w c"]:
    """The images, each mirrored left to right in every other epoch (Jordan 2024, arXiv 2404.00498).

    Whether it is in the first epoch is drawn from the key for each place in the data set.
    """
    first = jax.vmap(lambda place: jax.random.bernoulli(jax.random.fold_in(key, place)))(places)
    now = first ^ (epoch % 2 == 1)
    return jnp.where(now[:, None, None, None], images[:, :, ::-1], images)


def shrunk(images: UInt8[Array, "b h w c"], side: int) -> UInt8[Array, "b y x c"]:
    """The images with so many pixels on the shorter side: means under a triangle, as Pillow's bilinear."""
    shape = (len(images), *shrunk_shape(images.shape[1:], side))
    smaller = jax.image.resize(images.astype(jnp.float32), shape, "linear")
    return jnp.clip(jnp.round(smaller), 0, 255).astype(jnp.uint8)


def _changed(
    operations: Sequence[ImageOperation], key: Key[Array, ""], image: Num[Array, "h w c"]
) -> Num[Array, "h w c"]:
    for operation in operations:
        keys = [jax.random.fold_in(key, operation.stream + i) for i in range(2)]
        image = operation(keys, image)
    return image
