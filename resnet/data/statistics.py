"""Statistics of training images: mean and standard deviation, and the principal axes of their patches."""

import math
from collections.abc import Sequence

import numpy as np
from absl import logging
from jaxtyping import Float32, Float64

from resnet.data.files.delivery import Pace
from resnet.data.files.stream import Sizes, StreamSplit
from resnet.data.images import Images
from resnet.data.splits import Examples, Statistic
from resnet.errors import InputError

NORMALIZATIONS = ("channel", "pixel_mean", "none")
SAMPLE = 4096  # images of a stream whose mean and standard deviation are taken
# Added to a variance before it is divided by: github KellerJordan/cifar10-airbench, airbench96.py.
FLAT = 5e-4
PATCHES = 2**26  # bytes of patches that are looked at together


def statistics(
    train: Examples, normalization: str, mean: Sequence[float], std: Sequence[float]
) -> tuple[Statistic, Statistic]:
    """What is subtracted from images and what they are divided by, in units of 0..255.

    `mean` and `std` are those given, in units of 0..1, or empty.
    """
    channels = train.image_shape[-1]
    given = given_statistics(mean, std, channels)
    if normalization == "none":
        found = np.zeros(channels), np.full(channels, 255.0)
    elif len(given) == 2:
        return given["mean"], given["std"]
    elif normalization == "pixel_mean":  # He 2015 divides by nothing, or does not say so
        found = _sample(train).mean(axis=0, dtype=np.float64), np.full(channels, 255.0)
    else:
        found = channel_statistics(_sample(train))
    return given.get("mean", found[0].astype(np.float32)), given.get("std", found[1].astype(np.float32))


def channel_statistics(
    images: Images,
) -> tuple[Float64[np.ndarray, " c"], Float64[np.ndarray, " c"]]:
    """Returns mean and standard deviation of each channel, in units of 0..255; a deviation of 0 becomes 1."""
    mean = images.mean(axis=(0, 1, 2), dtype=np.float64)
    variance = np.zeros_like(mean)
    for block in np.array_split(images, math.ceil(len(images) / 1024)):  # bounds the float copy
        squares = np.square(block - mean.astype(np.float32))
        variance += squares.sum(axis=(0, 1, 2), dtype=np.float64) / images[..., 0].size
    return mean, np.where(variance > 0, np.sqrt(variance), 1.0)


def check_sides(normalization: str, sides: Sizes) -> None:
    """Raises InputError where images are evaluated at another size than the mean of each pixel has."""
    if normalization == "pixel_mean" and sides.train != sides.evaluate:
        raise InputError(
            f"`data.normalization` pixel_mean has a mean for each of {sides.train}x{sides.train} pixels, and "
            f"`data.eval_size` is {sides.evaluate}; set data.eval_size=0, or choose channel or none"
        )


def given_statistics(mean: Sequence[float], std: Sequence[float], channels: int) -> dict[str, Statistic]:
    """Those of mean and std that are given in units of 0..1, in units of 0..255."""
    given = {name: values for name, values in (("mean", mean), ("std", std)) if values}
    for name, values in given.items():
        if len(values) != channels:
            raise InputError(
                f"`data.{name}` must have one value for each of {channels} channels; got {values!r}"
            )
    return {name: np.multiply(values, 255).astype(np.float32) for name, values in given.items()}


def _sample(train: Examples) -> Images:
    """The images whose statistics are taken: all, or, of a stream, the first of the shuffled order."""
    if isinstance(train, StreamSplit) and len(train) > SAMPLE:
        logging.info(
            "mean and std are taken of %d of %d images; `data.mean` and `data.std` give others",
            SAMPLE,
            len(train),
        )
        return _read(train[:SAMPLE], len(train))
    return _read(train, len(train))


def _read(examples: Examples, among: int) -> Images:
    """Reads the images of `examples`, which are some of `among` training images.

    Leaves out images of a stream that cannot be read. Raises InputError if none can be read.
    """
    if not isinstance(examples, StreamSplit):
        return examples.images
    batches = examples.padded(256, Pace(), among)
    found = np.concatenate([images[mask > 0] for images, _, mask in batches])
    if not len(found):
        raise InputError(f"none of {len(examples)} training images can be read: {examples.bad[0]}")
    return found


def whitening_kernel(
    train: Examples, images: int, mean: Statistic, std: Statistic, size: int, outputs: int
) -> Float32[np.ndarray, "size size c outputs"]:
    """A kernel whose outputs are uncorrelated and of equal variance on patches of the first images.

    Its first half are principal axes of the patches, from the largest variance on, over their deviation; the
    other half are their negatives, for what a ReLU would lose (Page 2018; Jordan 2024, arXiv 2404.00498).
    """
    taken = _read(train[:images], len(train))
    length = size * size * taken.shape[-1]
    moments, count = np.zeros((length, length)), 0
    of_image = 4 * length * (taken.shape[1] - size + 1) * (taken.shape[2] - size + 1)
    together = max(1, min(128, PATCHES // of_image))
    for start in range(0, len(taken), together):
        normalised = (taken[start : start + together].astype(np.float32) - mean) / std
        windows = np.lib.stride_tricks.sliding_window_view(normalised, (size, size), axis=(1, 2))
        patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, length)
        moments += patches.T @ patches
        count += len(patches)
    variances, axes = np.linalg.eigh(moments / count)
    axes = axes / np.sqrt(variances + FLAT)
    signs = np.sign(axes[np.abs(axes).argmax(0), np.arange(length)])  # else left to the linear algebra
    chosen = (axes * signs)[:, ::-1][:, : outputs // 2]
    return np.concatenate([chosen, -chosen], 1).reshape(size, size, -1, outputs).astype(np.float32)
