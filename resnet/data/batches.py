"""Which examples make a batch, a function of (seed, step); and batches that cover a split once."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float32, Int32

from resnet.data.splits import Images, Labels, Split
from resnet.data.streams import ORDER, random_key
from resnet.errors import InputError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Resident:
    """A batch as the arrays of all images on the device and the `places` of its examples.

    Indexing it by name gathers the examples inside the program that takes it.
    """

    arrays: Any
    """{"image": [n, h, w, c], "label": [n]}"""
    places: Any
    """[batch]; with leading axes for several steps or seeds."""

    def __getitem__(self, name: str) -> Array:
        """The images, or the labels, of the batch."""
        return self.arrays[name][self.places]


@functools.lru_cache(maxsize=128)  # asked for at every step, for each of the seeds together
def epoch_order(seed: int, epoch: int, n: int) -> Int32[np.ndarray, " n"]:
    """The n examples in the order of this epoch (from 0); read-only."""
    key = jax.random.fold_in(random_key(seed, ORDER), epoch)
    order = np.array(jax.random.permutation(key, n), np.int32)
    order.setflags(write=False)
    return order


def steps_per_epoch(n: int, batch: int) -> int:
    """Whole batches in n examples; the rest of an epoch's order is left out."""
    if n < batch:
        raise InputError(f"`train.batch_size` must be at most {n}, the training images; got {batch}")
    return n // batch


def batch_indices(seed: int, step: int, n: int, batch: int) -> Int32[np.ndarray, " batch"]:
    """The places of the examples of a training step; steps count from 0."""
    epoch, place = divmod(step, steps_per_epoch(n, batch))
    return epoch_order(seed, epoch, n)[place * batch : (place + 1) * batch]


def padded_batches(
    split: Split, batch: int
) -> Iterator[tuple[Images, Labels, Float32[np.ndarray, " batch"]]]:
    """Each example once, in order: images, labels, and a mask that is 0 where a batch is padded."""
    for start in range(0, len(split), batch):
        part = split[start : start + batch]
        padding = (0, batch - len(part))
        images = np.pad(part.images, (padding, (0, 0), (0, 0), (0, 0)))
        mask = np.pad(np.ones(len(part), np.float32), padding)
        yield images, np.pad(part.labels, padding), mask
