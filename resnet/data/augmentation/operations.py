"""The operations of Pillow that policies choose from: a list, served by the four ways of pixels.py."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Float64, Int, Int32, Key

from resnet.data.augmentation import pixels
from resnet.data.augmentation.pixels import FIXED, Image

Keys = Sequence[Key[Array, ""]] | Key[Array, " n"]
"""The two keys that an operation draws from for an image."""
Matrix = tuple[float, float, float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Unchanged:
    """Leaves the image as it is."""


@dataclasses.dataclass(frozen=True)
class Lookup:
    """Replaces each value by what `table` makes of it and of the operation's argument."""

    table: Callable[[Int32[Array, "256"], Float32[Array, ""]], Int32[Array, "256"]]


@dataclasses.dataclass(frozen=True)
class OwnLookup:
    """Replaces each value by a table that also depends on the image."""

    table: Callable[[Image, Float32[Array, ""]], Int32[Array, "c 256"]]


@dataclasses.dataclass(frozen=True)
class Blend:
    """Blends a version of the image with it; the argument is the image's share, which may exceed 1."""

    base: Callable[[Image], Image]


@dataclasses.dataclass(frozen=True)
class Move:
    """Moves pixels: `matrix` maps as Pillow's AFFINE does, given the argument, the height and the width."""

    matrix: Callable[[float, int, int], Matrix]


def _posterized(value, bits):
    kept = 8 - bits.astype(jnp.int32)
    return (value >> kept) << kept


def _with_contrast(image: Image, factor: Float32[Array, ""]) -> Int32[Array, "c 256"]:
    h, w, c = image.shape
    mean = (2 * pixels.grey(image).sum(dtype=jnp.int32) + h * w) // (2 * h * w)
    return jnp.tile(pixels.blended(mean[None], jnp.arange(256), factor).astype(jnp.int32), (c, 1))


def _rotation(degrees: float, h: int, w: int) -> Matrix:
    """About the middle, anticlockwise, as Image.rotate has it."""
    angle = -math.radians(degrees % 360)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = w / 2, h / 2
    return cos, sin, -x * cos - y * sin + x, -sin, cos, x * sin - y * cos + y


# By their names in the papers. Arguments are degrees, bits that stay, a threshold, what is added, factors of
# which 1 changes nothing, pixels across for each pixel down, and pixels; some operations have none.
PILLOW: dict[str, Unchanged | Lookup | OwnLookup | Blend | Move] = {
    "Identity": Unchanged(),
    "AutoContrast": OwnLookup(lambda image, _: pixels.stretching_table(image)),
    "Equalize": OwnLookup(lambda image, _: pixels.equalizing_table(image)),
    "Invert": Lookup(lambda value, _: 255 - value),
    "Rotate": Move(_rotation),
    "Posterize": Lookup(_posterized),
    "Solarize": Lookup(lambda value, threshold: jnp.where(value < threshold, value, 255 - value)),
    "SolarizeAdd": Lookup(
        lambda value, added: jnp.where(value < 128, jnp.minimum(value + added.astype(jnp.int32), 255), value)
    ),
    "Color": Blend(lambda image: jnp.broadcast_to(pixels.grey(image)[..., None], image.shape)),
    "Contrast": OwnLookup(_with_contrast),
    "Brightness": Lookup(lambda value, factor: pixels.blended(jnp.zeros_like(value), value, factor)),
    "Sharpness": Blend(pixels.smoothed),
    "ShearX": Move(lambda shear, h, w: (1, shear, 0, 0, 1, 0)),
    "ShearY": Move(lambda shear, h, w: (1, 0, 0, shear, 1, 0)),
    "TranslateX": Move(lambda distance, h, w: (1, 0, distance, 0, 1, 0)),
    "TranslateY": Move(lambda distance, h, w: (1, 0, 0, 0, 1, distance)),
}

# Colours of what comes into view: torchvision's, timm's own, and timm's on ImageNet.
FILLS = {"black": (0, 0, 0), "grey": (128, 128, 128), "imagenet": (124, 116, 104)}
# "either" is drawn anew for each operation, as timm does by default.
INTERPOLATIONS = {
    "nearest": (pixels.nearest,),
    "bilinear": (pixels.bilinear,),
    "bicubic": (pixels.bicubic,),
    "either": (pixels.bilinear, pixels.bicubic),
}


@dataclasses.dataclass(frozen=True)
class Space:
    """Operations that one is drawn from, each with as many arguments.

    What depends on an argument in more than float32 is computed for each of them on the host, in float64.
    """

    names: tuple[str, ...]
    arguments: Float64[np.ndarray, "operations n"]
    interpolation: str = "nearest"
    fill: str = "black"

    def maps(self, h: int, w: int) -> Float64[np.ndarray, "operations n 2 3"]:
        """From a pixel (x, y, 1) to the middle of its source, for images of this size; zero for no Move."""
        maps = np.zeros((*self.arguments.shape, 2, 3))
        for i, name in enumerate(self.names):
            if isinstance(operation := PILLOW[name], Move):
                matrices = [operation.matrix(argument, h, w) for argument in self.arguments[i]]
                maps[i] = np.reshape(matrices, (-1, 2, 3))
        maps[..., 2] += 0.5 * (maps[..., 0] + maps[..., 1])
        return maps

    def change(
        self,
        image: Image,
        which: Int[Array, ""],
        entry: Int[Array, ""],
        either: Int[Array, ""],
    ) -> Image:
        """Applies the operation number `which` at its argument number `entry`.

        `either` is the number of the interpolation where there are two.
        """
        h, w, c = image.shape
        maps = self.maps(h, w)
        filters = INTERPOLATIONS[self.interpolation]
        maps = np.floor(maps * FIXED + 0.5).astype(np.int32) if filters == (pixels.nearest,) else maps
        map = jnp.asarray(maps, None if maps.dtype == np.int32 else jnp.float32)[which, entry]
        colour = jnp.asarray(FILLS[self.fill], jnp.uint8)
        colour = colour if c == 3 else pixels.grey(colour[None, None])[0]
        moved = [lambda image, each=each: each(image, map, colour) for each in filters]
        argument = jnp.asarray(self.arguments, jnp.float32)[which, entry]
        return change(self.names, image, which, argument, lambda image: lax.switch(either, moved, image))


def change(
    names: Sequence[str],
    image: Image,
    which: Int[Array, ""],
    argument: Float[Array, ""],
    move: Callable[[Image], Image] | None = None,
) -> Image:
    """The image after the operation number `which` of `names`; `move` stands for operations that move pixels.

    Grouped by kind: `vmap`, which computes every branch of a switch, computes four and not 15.
    """
    operations = [PILLOW[name] for name in names]
    groups: dict[type, list[Any]] = {}
    for operation in operations:
        groups.setdefault(type(operation), []).append(operation)
    place = jnp.asarray([groups[type(operation)].index(operation) for operation in operations])[which]
    kind = jnp.asarray([list(groups).index(type(operation)) for operation in operations])[which]

    def by_table(image):
        values = jnp.arange(256)
        tables = [operation.table(values, argument).astype(jnp.int32) for operation in groups[Lookup]]
        return pixels.looked_up(image, jnp.tile(jnp.stack(tables)[place], (image.shape[-1], 1)))

    def by_own_table(image):
        tables = [lambda image, each=each: each.table(image, argument) for each in groups[OwnLookup]]
        return pixels.looked_up(image, lax.switch(place, tables, image))

    def by_blend(image):
        base = lax.switch(place, [operation.base for operation in groups[Blend]], image)
        return pixels.blended(base, image, argument)

    ways: dict[type, Any] = {Unchanged: lambda image: image, Move: move}
    ways |= {Lookup: by_table, OwnLookup: by_own_table, Blend: by_blend}
    return lax.switch(kind, [ways[each] for each in groups], image)
