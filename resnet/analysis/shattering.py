"""How alike the gradients at different inputs are (shattered gradients, Balduzzi 2017).

https://arxiv.org/abs/1702.08591: at initialisation the gradients of a plain net at two inputs lose their
correlation with depth as 2^-L, like white noise; with identity shortcuts as (3/4)^L; with batch norm
beside them only as a root of L. Measured is the gradient of a random combination of the net's features
with respect to its input, and the cosine of it at two inputs: 1 everywhere for a linear net.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def input_gradients(
    function: Callable[[Array], Array], x: Float[Array, "n *shape"]
) -> Float[np.ndarray, "n d"]:
    """Directions (length 1) of the gradient of function(x) [n] at each input, which it treats apart.

    Products of many layers leave float32's range, so the sum is scaled by its own size first.
    """
    gradients = np.asarray(jax.grad(lambda x: function(x).sum())(x), np.float64).reshape(len(x), -1)
    lengths = np.linalg.norm(gradients, axis=1, keepdims=True)
    return gradients / np.where(lengths > 0, lengths, np.nan)


def mean_correlation(directions: Float[np.ndarray, "n d"]) -> float:
    """Mean cosine over all pairs of different inputs: unbiased, 0 for white noise and 1 for a linear net."""
    n = len(directions)
    total = np.square(directions.sum(0)).sum() - np.square(directions).sum()
    return float(total / (n * (n - 1)))


def autocorrelation(directions: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Mean cosine of the gradients at inputs k steps apart on a line, k = 0 … n-1."""
    cosines = directions @ directions.T
    return np.asarray([np.diagonal(cosines, k).mean() for k in range(len(directions))])


def line(start: Array, end: Array, points: int) -> Float[Array, "points *shape"]:
    """Inputs from one image to another, evenly spaced."""
    t = jnp.linspace(0, 1, points).reshape(-1, *[1] * start.ndim)
    return (1 - t) * start[None] + t * end[None]
