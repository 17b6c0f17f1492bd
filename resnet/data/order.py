"""Which examples make a batch: a function of (seed, step)."""

import collections
import threading

import jax
import numpy as np
from jaxtyping import Int32

from resnet.data.streams import ORDER, random_key
from resnet.errors import InputError

KEPT_BYTES = 2**26  # of orders that are kept: 13 of ImageNet's

_kept: collections.OrderedDict[tuple[int, int, int], Int32[np.ndarray, " n"]] = collections.OrderedDict()
_lock = threading.Lock()


def epoch_order(seed: int, epoch: int, n: int) -> Int32[np.ndarray, " n"]:
    """The n examples in the order of this epoch (from 0); read-only."""
    key = (seed, epoch, n)
    with _lock:  # asked for at every step, for each of the seeds together
        if key not in _kept:
            _kept[key] = draw_order(*key)
        _kept.move_to_end(key)
        while len(_kept) > 1 and sum(order.nbytes for order in _kept.values()) > KEPT_BYTES:
            _kept.popitem(last=False)
        return _kept[key]


def draw_order(seed: int, epoch: int, n: int) -> Int32[np.ndarray, " n"]:
    """The same, drawn anew."""
    key = jax.random.fold_in(random_key(seed, ORDER), epoch)
    order = np.array(jax.random.permutation(key, n), np.int32)
    order.setflags(write=False)
    return order


def steps_per_epoch(n: int, batch: int) -> int:
    """Whole batches in n examples; the rest of an epoch's order is left out."""
    if n < batch:
        raise InputError(f"`train.batch_size` must be at most {n}, the training images; got {batch}")
    return n // batch


def batch_places(step: int, n: int, batch: int, repeats: int) -> tuple[int, Int32[np.ndarray, " batch"]]:
    """(epoch, places in its order) of the examples of a training step.

    A batch has each of its examples `repeats` times, if these divide it: all once, then all again. So
    neighbours differ, which are mixed with each other. What is left of the epoch's order is not seen in it.
    """
    epoch, number = divmod(step, steps_per_epoch(n, batch))
    different = -(-batch // repeats)
    return epoch, number * different + np.arange(batch, dtype=np.int32) % different


def batch_indices(seed: int, step: int, n: int, batch: int, repeats: int = 1) -> Int32[np.ndarray, " batch"]:
    """The examples of a training step (from 0)."""
    epoch, places = batch_places(step, n, batch, repeats)
    chosen = epoch_order(seed, epoch, n)[places]
    chosen.setflags(write=False)
    return chosen
