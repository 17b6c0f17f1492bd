"""Batches: gathered from images on the device, delivered by a stream, and those that cover a split once."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float32

from resnet.data.files.delivery import Pace
from resnet.data.files.stream import StreamSplit
from resnet.data.images import Images
from resnet.data.splits import Examples, Labels


def shape_of_rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[n, k, 128] of images [n, h, w, c] that fill tiles of 8 x 128 numbers, else [n, h * w * c]."""
    n, size = shape[0], math.prod(shape[1:])
    return (n, size // 128, 128) if size % (8 * 128) == 0 else (n, size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FlatImages:
    """Images on the device, as rows of numbers; indexing gathers images and restores their shape.

    TPUs would copy images of [n, h, w, c] to another layout, all of them at each gather, and so they would
    large ones of [n, h * w * c]. Whole tiles of 8 x 128 numbers lie as the gather takes them.
    """

    rows: Any
    """[n, ...], see `shape_of_rows`"""
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    """(h, w, c)"""

    @classmethod
    def of(cls, images: Images) -> "FlatImages":
        """The same images, not copied."""
        return cls(images.reshape(shape_of_rows(images.shape)), images.shape[1:])

    def __getitem__(self, places: Array) -> Array:
        """The images at these places, in the shape of `places` and then their own."""
        return self.rows[places].reshape(*places.shape, *self.shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Resident:
    """A batch as the arrays of all images on the device and the `places` of its examples.

    Indexing it by name gathers the examples inside the program that takes it.
    """

    arrays: Any
    """{"image": FlatImages, "label": [n]}"""
    places: Any
    """[batch]; with leading axes for several steps or seeds."""

    def __getitem__(self, name: str) -> Array:
        """The images, the labels, or the places of the batch."""
        return self.places if name == "place" else self.arrays[name][self.places]

    @property
    def own(self) -> Any:
        """The places, which differ from batch to batch."""
        return self.places

    def of(self, own: Any) -> "Resident":
        """The same images at other places."""
        return Resident(self.arrays, own)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Delivered:
    """A batch that a stream delivers."""

    own: Any
    """{"image": [batch, h, w, c], "label": [batch], "place": [batch]}; with leading axes for several steps or
    seeds."""

    def __getitem__(self, name: str) -> Array:
        """The images, the labels, or the places of the batch."""
        return self.own[name]

    def of(self, own: Any) -> "Delivered":
        """The batch of these arrays."""
        return Delivered(own)


def padded_batches(
    split: Examples, batch: int, pace: Pace | None = None
) -> Iterator[tuple[Images, Labels, Float32[np.ndarray, " batch"]]]:
    """Each example once, in order: images, labels, and a mask that is 0 where a batch is padded.

    `pace` is that of a stream; its mask is 0 too where an image cannot be read.
    """
    if isinstance(split, StreamSplit):
        yield from split.padded(batch, pace or Pace())
        return
    for start in range(0, len(split), batch):
        part = split[start : start + batch]
        padding = (0, batch - len(part))
        images = np.pad(part.images, (padding, (0, 0), (0, 0), (0, 0)))
        mask = np.pad(np.ones(len(part), np.float32), padding)
        yield images, np.pad(part.labels, padding), mask
