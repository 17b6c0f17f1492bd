"""Mean and standard deviation by which images are normalised: as given, or those of the training images."""

from collections.abc import Sequence

import numpy as np
from absl import logging

from resnet.data.files.delivery import Pace
from resnet.data.files.stream import StreamSplit
from resnet.data.images import Images
from resnet.data.splits import Examples, Statistic, channel_statistics
from resnet.errors import InputError

NORMALIZATIONS = ("channel", "pixel_mean", "none")
SAMPLE = 4096  # images of a stream whose mean and standard deviation are taken


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
        train = train[:SAMPLE]
    if isinstance(train, StreamSplit):  # without those that cannot be read
        return np.concatenate([images[mask > 0] for images, _, mask in train.padded(256, Pace())])
    return train.images
