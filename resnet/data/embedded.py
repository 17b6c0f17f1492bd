"""Data sets that need no file: scikit-learn's handwritten digits, digits turned, random images."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from resnet.data.splits import Examples, Source, Split, make_random, stratified_order

DIGITS_TEST = 360  # of 1,797: a fifth
DIGITS_TEST_SEED = 0  # fixed, so that every run is tested on the same digits
MAX_ANGLE = 45.0  # degrees


def load_digits() -> Source:
    """1,797 real digits of 8x8 pixels (UCI optdigits, the test part, which scikit-learn embeds)."""
    # Its file alone: to import scikit-learn takes longer than to import JAX.
    package = importlib.util.find_spec("sklearn")
    assert package and package.origin
    table = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    images = np.rint(table[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    split = Split(images, table[:, -1].astype(np.int32))
    order = stratified_order(split.labels, DIGITS_TEST_SEED)
    train, test = split[order[DIGITS_TEST:]], split[order[:DIGITS_TEST]]
    return Source(train, test, class_names=tuple("0123456789"))


def load_digits_rotation(seed: int) -> Source:
    """Each digit turned once by a random angle; its label is angle / 45 degrees, in -1..1."""
    digits, random = load_digits(), make_random(seed)

    def turned(split: Examples) -> Split:
        labels = random.uniform(-1, 1, len(split)).astype(np.float32)
        return Split(rotate(split.images, labels * MAX_ANGLE), labels)

    return Source(turned(digits.train), turned(digits.test), unit="degrees", target_scale=MAX_ANGLE)


def rotate(
    images: UInt8[np.ndarray, "n h w 1"], degrees: Float[np.ndarray, " n"]
) -> UInt8[np.ndarray, "n 2*h 2*w 1"]:
    """Turns images counter-clockwise about their centres, onto canvases of twice the sides.

    They are magnified by √2, so that a square image stays in view whole at any angle.
    """
    _, height, width, _ = images.shape
    bordered = np.pad(images[..., 0], ((0, 0), (1, 1), (1, 1)))  # else edge pixels are drawn wider
    turned = np.empty((len(images), 2 * height, 2 * width, 1), np.uint8)
    for index, angle in enumerate(np.deg2rad(degrees)):
        # Where a canvas point (x, y), y counting downwards, lies in the bordered image.
        cos, sin = np.cos(angle) / np.sqrt(2), np.sin(angle) / np.sqrt(2)
        to_x = (cos, -sin, 1 + width / 2 - cos * width + sin * height)
        to_y = (sin, cos, 1 + height / 2 - sin * width - cos * height)
        canvas = Image.fromarray(bordered[index]).transform(
            (2 * width, 2 * height),
            Image.Transform.AFFINE,
            (*to_x, *to_y),
            Image.Resampling.BILINEAR,
        )
        turned[index, ..., 0] = np.asarray(canvas)
    return turned


def load_synthetic(num_train: int = 1024, num_test: int = 256) -> Source:
    """Random 32x32x3 images: a coarse pattern for each class, under noise twice as strong."""
    random, num_classes = make_random(0), 10
    patterns = random.normal(size=(num_classes, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)

    def split(size: int) -> Split:
        labels = np.arange(size, dtype=np.int32) % num_classes
        images = 128 + 20 * patterns[labels] + 40 * random.normal(size=(size, 32, 32, 3))
        return Split(images.clip(0, 255).astype(np.uint8), labels)

    names = tuple(f"pattern{label}" for label in range(num_classes))
    return Source(split(num_train), split(num_test), class_names=names)


# By name: what reads each, given `data.split_seed`.
EMBEDDED: dict[str, Callable[[int], Source]] = {
    "digits": lambda seed: load_digits(),
    "digits_rotation": load_digits_rotation,
    "synthetic": lambda seed: load_synthetic(),
}
