"""The part of a split that a question looks at: drawn by seed so that each class has its share."""

import dataclasses

import numpy as np
from absl import logging
from jaxtyping import Int, Shaped

from resnet.data.splits import stratified_order

NOISE = "noise"
LEAST = 2  # images of each class; with fewer, an answer is warned of


@dataclasses.dataclass(frozen=True)
class Sample:
    """How many images of how many, and of how many classes."""

    data: str
    """train, validation, test, or noise."""
    seed: int
    """What the images are drawn by."""
    images: int
    of_images: int | None
    """Images of the split; None for noise, of which there is no end."""
    classes: int
    of_classes: int
    """Classes of the data; 0 for a regression, and for noise."""
    fewest: int
    """Images of the class that has the fewest."""

    @property
    def small(self) -> bool:
        """Whether some class has fewer than `LEAST` images."""
        return self.of_classes > 0 and self.fewest < LEAST

    def __str__(self) -> str:
        chosen = self.seed > 0 if self.of_images is None else self.images < self.of_images
        drawn = f", drawn by seed {self.seed}" if chosen else ""
        if self.of_images is None:
            return f"{self.images:,} images ({self.data}{drawn})"
        text = f"{self.images:,} of {self.of_images:,} images ({self.data}{drawn})"
        if not self.of_classes:
            return text
        few = f": too few, as {LEAST} of each are the least" if self.small else ""
        return f"{text}, {self.classes} of {self.of_classes} classes, at least {self.fewest} of each{few}"


def draw(
    labels: Shaped[np.ndarray, " n"], count: int, *, data: str, seed: int, classes: int
) -> tuple[Int[np.ndarray, " m"], Sample]:
    """(places of at most `count` examples with each class by its share, what they are a sample of).

    The first k of them are such a sample too. `classes` of the data, 0 for a regression.
    """
    index = stratified_order(labels, seed)[:count]
    return index, describe(labels[index], of_images=len(labels), data=data, seed=seed, classes=classes)


def describe(
    labels: Shaped[np.ndarray, " m"], *, of_images: int | None, data: str, seed: int, classes: int
) -> Sample:
    """What examples with these labels are a sample of; a warning where a class has too few."""
    counts = np.bincount(labels, minlength=classes) if classes else np.zeros(0, int)
    fewest = int(counts.min(initial=len(labels)))
    sample = Sample(data, seed, len(labels), of_images, int((counts > 0).sum()), classes, fewest)
    if sample.small:
        logging.warning("%s; look at more images", sample)
    return sample
