"""Arrays that are computed once, before whatever uses them."""

from typing import Any

from jax import lax
from jaxtyping import Array

from resnet.kernels.backend import xla_alone


def computed_once(*arrays: Array) -> Any:
    """The same arrays. On a GPU, XLA does not compute them anew where they are used.

    It does otherwise: numbers of channels for each pixel, and then finds a fusion too costly that spares an
    array of all pixels; or a sum of images, and reads its addends. On a TPU neither is faster so.
    """
    if xla_alone():
        return arrays
    return lax.platform_dependent(*arrays, cpu=_same, tpu=_same, default=_barred)


def _same(*arrays: Array) -> Any:
    return arrays


def _barred(*arrays: Array) -> Any:
    return lax.optimization_barrier(arrays)
