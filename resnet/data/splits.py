"""What data are, once read: splits of images and labels, how they are drawn, their statistics."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float32, Float64, Int, Int32, Shaped, UInt8

Images = UInt8[np.ndarray, "n h w c"]
Labels = Int32[np.ndarray, " n"] | Float32[np.ndarray, " n"]
Statistic = Float32[np.ndarray, " c"] | Float32[np.ndarray, "h w c"]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels: int32 classes, or float32 targets of a regression."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Int[np.ndarray, " m"]) -> "Split":
        return Split(self.images[index], self.labels[index])


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """What a loader returns: the splits as published. A regression has no class names."""

    train: Split
    test: Split
    class_names: tuple[str, ...] = ()
    validation: Split | None = None
    unit: str = ""
    target_scale: float = 1.0
    skipped: tuple[str, ...] = ()
    """Of each image that was left out, which and why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The splits of one run, and what follows from the data: outputs, shape, normalisation."""

    train: Split
    validation: Split
    """Empty where nothing is held out."""
    test: Split
    mean: Statistic
    """Subtracted from the images, in units of 0..255."""
    std: Statistic
    """What the images are divided by afterwards, in units of 0..255."""
    class_names: tuple[str, ...]
    """Names of the classes in the order of the labels; () for a regression."""
    unit: str
    """Unit of `labels * target_scale` in a regression, e.g. degrees."""
    target_scale: float
    skipped: tuple[str, ...] = ()
    """Of each image that was left out, which and why."""

    @property
    def task(self) -> str:
        """classification or regression."""
        return "classification" if self.class_names else "regression"

    @property
    def num_outputs(self) -> int:
        """Logits of a net for these data: one a class, or 1."""
        return len(self.class_names) or 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        _, height, width, channels = self.train.images.shape
        return height, width, channels


def make_random(seed: int) -> np.random.RandomState:
    """Random numbers on the host, of a stream that NumPy promises never to change (NEP 19)."""
    return np.random.RandomState(seed)


def stratified_order(labels: Shaped[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " n"]:
    """A shuffle in which any k successive examples hold each class by its share, within 2.

    Targets of a regression are shuffled freely.
    """
    order = make_random(seed).permutation(len(labels))
    if not np.issubdtype(labels.dtype, np.integer):
        return order
    place = np.empty(len(labels))  # in 0..1, each class spread evenly over it
    for label in np.unique(labels):
        members = labels[order] == label
        place[members] = (np.arange(members.sum()) + 0.5) / members.sum()
    return order[np.argsort(place, kind="stable")]


def channel_statistics(
    images: Images,
) -> tuple[Float64[np.ndarray, " c"], Float64[np.ndarray, " c"]]:
    """Mean and standard deviation of each channel, in units of 0..255; 1 instead of 0."""
    mean = images.mean(axis=(0, 1, 2), dtype=np.float64)
    variance = np.zeros_like(mean)
    for block in np.array_split(images, math.ceil(len(images) / 1024)):  # bounds the float copy
        squares = np.square(block - mean.astype(np.float32))
        variance += squares.sum(axis=(0, 1, 2), dtype=np.float64) / images[..., 0].size
    return mean, np.where(variance > 0, np.sqrt(variance), 1.0)
