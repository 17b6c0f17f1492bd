"""The operations of augmentation as timm and torchvision call them, on Pillow: what ours is compared with."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Key, UInt8
from PIL import Image, ImageEnhance, ImageOps

from resnet.data.augmentation.operations import FILLS

RESAMPLING = {name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic")}
Pixels = UInt8[np.ndarray, "h w *c"]


def by_pillow(
    name: str,
    argument: float,
    pixels: Pixels,
    resample: Image.Resampling = Image.Resampling.NEAREST,
    fill: tuple[int, ...] = (0, 0, 0),
) -> Pixels:
    """The pixels after one operation of PILLOW."""
    image = Image.fromarray(pixels)
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return np.asarray(getattr(ImageEnhance, name)(image).enhance(argument))
    if name in POINTS:
        return np.asarray(POINTS[name](image, argument))
    if name == "Rotate":
        return np.asarray(image.rotate(argument, resample, fillcolor=fill))
    matrix = {
        "ShearX": (1, argument, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, argument, 1, 0),
        "TranslateX": (1, 0, argument, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, argument),
    }[name]
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=fill))


def _posterized(image: Image.Image, bits: float) -> Image.Image:
    """Pillow refuses to keep no bit; before version 11 it made the image black."""
    return ImageOps.posterize(image, int(bits)) if bits else image.point([0] * 256 * len(image.getbands()))


def _with_added(image: Image.Image, added: float) -> Image.Image:
    """timm's SolarizeAdd."""
    table = [min(255, value + int(added)) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


POINTS = {
    "Identity": lambda image, _: image,
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Invert": lambda image, _: ImageOps.invert(image),
    "Posterize": _posterized,
    "Solarize": ImageOps.solarize,
    "SolarizeAdd": _with_added,
}


def drawn(policy, keys: Sequence[Key[Array, ""]], h: int, w: int) -> list[tuple[str, float]]:
    """(operation, argument) of each layer that a policy draws for an image."""
    space, (which, entry) = policy.space(h, w), policy.draw(keys)
    return [(space.names[i], float(space.arguments[i, j])) for i, j in zip(which, entry, strict=True)]


def policy_by_pillow(policy, draws: list[tuple[str, float]], pixels: Pixels) -> Pixels:
    """The pixels after what a policy has drawn; where it draws the interpolation, bicubic."""
    resample = RESAMPLING.get(policy.interpolation, RESAMPLING["bicubic"])
    for name, argument in draws:
        pixels = by_pillow(name, argument, pixels, resample, FILLS[policy.fill])
    return pixels
