"""What becomes of a decoded image before it is part of a batch: torchvision's crops and sizes, on Pillow."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageOps

from resnet.data.images import MAX_PIXELS

Size = tuple[int, int]  # width, height, in pixels
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels
RATIOS = (3 / 4, 4 / 3)  # width over height of a crop: Szegedy 2015 (arXiv 1409.4842), section 6
TRIES = 10  # as in torchvision
DRAWS = (TRIES, 4)  # numbers in 0..1 that a box is drawn by: for each try area, ratio, top and left


@dataclasses.dataclass(frozen=True, eq=False)
class RandomPart:
    """A random box, of at least the share `least_area` of the area, resized to a square.

    As in the classes below, `least` is the least size at which an image of size `whole` may be decoded
    without being enlarged later. A call takes the image, decoded at that size or a larger one.
    """

    size: int
    least_area: float
    draws: Float64[np.ndarray, "10 4"]

    def least(self, whole: Size) -> Size:
        """As far as the box is not smaller than the square."""
        left, top, right, bottom = random_box(self.draws, *whole, self.least_area)
        return _scaled(whole, max(self.size / (right - left), self.size / (bottom - top)))

    def __call__(self, image: Image.Image, whole: Size) -> Image.Image:
        box = random_box(self.draws, *whole, self.least_area)
        return cropped(image, box if image.size == whole else _scaled_box(box, whole, image.size), self.size)


@dataclasses.dataclass(frozen=True)
class Middle:
    """The square in the middle, after the shorter side is resized to `size` over `share` pixels."""

    size: int
    share: float

    def least(self, whole: Size) -> Size:
        """The size that it is resized to."""
        return _shorter_side(whole, round(self.size / self.share))

    def __call__(self, image: Image.Image, whole: Size) -> Image.Image:
        return centred(image, self.size, self.share, whole)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The largest square in the middle, resized."""

    size: int

    def least(self, whole: Size) -> Size:
        """The size at which the shorter side is the square's."""
        return _scaled(whole, self.size / min(whole))

    def __call__(self, image: Image.Image, whole: Size) -> Image.Image:
        return ImageOps.fit(image, (self.size, self.size), Image.Resampling.BILINEAR)


Cut = RandomPart | Middle | Fitted


def random_box(draws: Float64[np.ndarray, "10 4"], width: int, height: int, least: float) -> Box:
    """The box of torchvision's RandomResizedCrop by draws of ours, of at least the share `least` of the area.

    The first of ten tries that lies within the image, else the largest in the middle of a ratio in RATIOS.
    """
    low, high = map(math.log, RATIOS)
    for area, ratio, top, left in draws:
        target, aspect = width * height * (least + (1 - least) * area), math.exp(low + (high - low) * ratio)
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            y, x = int(top * (height - h + 1)), int(left * (width - w + 1))
            return x, y, x + w, y + h
    ratio = min(max(width / height, RATIOS[0]), RATIOS[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h


def cropped(image: Image.Image, box: Box, size: int) -> Image.Image:
    """The box alone, resized to a square (bilinear, antialiased)."""
    # Not resize(box=…), whose filter would also look at pixels outside the box.
    return image.crop(box).resize((size, size), Image.Resampling.BILINEAR)


def centred(image: Image.Image, size: int, share: float, whole: Size | None = None) -> Image.Image:
    """The middle of the image, after its shorter side is resized to size / share pixels.

    `whole` is the size of the image before it was decoded at a smaller one.
    """
    scaled = _shorter_side(whole or image.size, round(size / share))
    image = image.resize(scaled, Image.Resampling.BILINEAR)
    x, y = (round((side - size) / 2.0) for side in scaled)
    return image.crop((x, y, x + size, y + size))


def _shorter_side(whole: Size, short: int) -> Size:
    """The size whose shorter side is `short`, rounded as torchvision's Resize does.

    DecompressionBombError where a long and narrow image would fill the memory.
    """
    width, height = whole
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    if math.prod(size) > MAX_PIXELS:
        raise Image.DecompressionBombError
    return size


def _scaled(whole: Size, scale: float) -> Size:
    """The size times a scale, rounded up."""
    width, height = whole
    return math.ceil(width * scale), math.ceil(height * scale)


def _scaled_box(box: Box, whole: Size, decoded: Size) -> Box:
    """The box in an image that was decoded at another size, of a pixel or more."""
    x, y = decoded[0] / whole[0], decoded[1] / whole[1]
    left, top = min(round(box[0] * x), decoded[0] - 1), min(round(box[1] * y), decoded[1] - 1)
    right, bottom = round(box[2] * x), round(box[3] * y)
    return left, top, max(right, left + 1), max(bottom, top + 1)
