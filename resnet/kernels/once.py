"""Numbers of channels that are computed once, before whatever uses them for each pixel."""

from typing import Any

from jax import lax
from jaxtyping import Array

from resnet.kernels.backend import xla_alone


def computed_once(*arrays: Array) -> Any:
    """The same arrays. On a GPU, XLA does not compute them anew for each pixel.

    It does otherwise, and then finds a fusion too costly that spares an array of all pixels. On TPU it
    computes them once by itself.
    """
    if xla_alone():
        return arrays
    return lax.platform_dependent(*arrays, cpu=_same, tpu=_same, default=_barred)


def _same(*arrays: Array) -> Any:
    return arrays


def _barred(*arrays: Array) -> Any:
    return lax.optimization_barrier(arrays)
