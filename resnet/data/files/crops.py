"""What becomes of a decoded image before it is part of a batch: torchvision's crops and sizes, on Pillow."""

import math

import numpy as np
from jaxtyping import Float64
from PIL import Image

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels
RATIOS = (3 / 4, 4 / 3)  # width over height of a crop: Szegedy 2015 (arXiv 1409.4842), section 6
TRIES = 10  # as in torchvision
DRAWS = (TRIES, 4)  # numbers in 0..1 that a box is drawn by: for each try area, ratio, top and left


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


def centred(image: Image.Image, size: int, share: float) -> Image.Image:
    """The middle of the image, after its shorter side is resized to size / share pixels."""
    short = round(size / share)
    width, height = image.size
    upright = width <= height
    scaled = (short, int(short * height / width)) if upright else (int(short * width / height), short)
    image = image.resize(scaled, Image.Resampling.BILINEAR)
    x, y = (round((side - size) / 2.0) for side in scaled)
    return image.crop((x, y, x + size, y + size))
