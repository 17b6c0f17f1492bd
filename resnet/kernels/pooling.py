"""The max-pool of the stems: 3x3 at stride 2."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from resnet.kernels.backend import written_for_cpu

# Pixels of a window, (row, column): the first of equal ones gets the gradient, as in XLA's.
PIXELS = tuple((i, j) for i in range(3) for j in range(3))


def max_pool(x: Float[Array, "b h w c"], border: float = -np.inf) -> Float[Array, "b y x c"]:
    """3x3 at stride 2, one pixel of `border` on each side (not SAME, which pads one side only)."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=border)
    if written_for_cpu():
        return _max_pool(x)
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")


@jax.custom_jvp
def _max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b y x c"]:
    """The pooling for the CPU, where XLA's gradient builds arrays of positions, several times as slow."""
    return functools.reduce(jnp.maximum, (_pixel(x, *pixel) for pixel in PIXELS))


@_max_pool.defjvp
def _derivative(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    y = _max_pool(x)
    # In a window with a NaN, which no pixel equals, the first stands for all: g is NaN there too.
    winner = jnp.zeros(y.shape, jnp.int8)
    for k, pixel in reversed(list(enumerate(PIXELS))):
        winner = jnp.where(_pixel(x, *pixel) == y, jnp.int8(k), winner)
    parts = (jnp.where(winner == k, _pixel(dx, *pixel), 0) for k, pixel in enumerate(PIXELS))
    dy = functools.reduce(jnp.add, parts)
    return y, dy


def _pixel(x: Float[Array, "b h w c"], i: int, j: int) -> Float[Array, "b y x c"]:
    """Pixel (i, j) of each window."""
    b, h, w, c = x.shape
    return lax.slice(x, (0, i, j, 0), (b, i + h - 2, j + w - 2, c), (1, 2, 2, 1))
