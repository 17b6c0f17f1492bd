"""The max-pool of the stems: 3x3 at stride 2."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad
from jaxtyping import Array, Float, Int8

from resnet.kernels.backend import by_platform, xla_alone
from resnet.kernels.formulations import fenced, transposed

# Pixels of a window, (row, column): the first of equal ones gets the gradient, as in XLA's.
PIXELS = tuple((i, j) for i in range(3) for j in range(3))


def max_pool(x: Float[Array, "b h w c"], border: float = -np.inf) -> Float[Array, "b y x c"]:
    """3x3 at stride 2, one pixel of `border` on each side (not SAME, which pads one side only)."""
    if xla_alone():  # as onnxruntime has no pooling over a window of four axes
        return _by_pixels(x, border)
    by_xla, ours = (functools.partial(pool, border=border) for pool in (_by_xla, _by_pixels))
    return lax.platform_dependent(x, tpu=by_xla, default=ours)


def _by_xla(x: Array, border: float) -> Array:
    """XLA's own, which pads for itself with -inf. Its gradient is the better one on TPU."""
    return _reduced(x, 1) if border == -np.inf else _reduced(_padded(x, border), 0)


def _reduced(x: Array, padding: int) -> Array:
    sides = (padding, padding)
    pads = ((0, 0), sides, sides, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)


def _by_pixels(x: Array, border: float) -> Array:
    """Ours, for CPU and GPU, where XLA's gradient builds arrays of positions, several times as slow."""
    return _max_pool(_padded(x, border))


def _padded(x: Array, border: float) -> Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=border)


@jax.custom_jvp
def _max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b y x c"]:
    """The pooling of a padded x as the maximum of nine arrays, one for each pixel of a window."""
    return functools.reduce(jnp.maximum, (_pixel(x, *pixel) for pixel in PIXELS))


@_max_pool.defjvp
def _derivative(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    y = _max_pool(x)
    # On a CPU it is computed before what uses it: the gradient then keeps a byte for each window, and not x.
    winner = lax.platform_dependent(y, x, cpu=functools.partial(fenced, _winner), default=_winner)
    return y, _TAKEN.bind(dx, winner)


def _winner(y: Float[Array, "b y x c"], x: Float[Array, "b h w c"]) -> Int8[Array, "b y x c"]:
    """The number of the pixel that is the largest of each window, the first of equal ones."""
    # In a window with a NaN, which no pixel equals, the first stands for all: the gradient is NaN there too.
    winner = jnp.zeros(y.shape, jnp.int8)
    for k, pixel in reversed(list(enumerate(PIXELS))):
        winner = jnp.where(_pixel(x, *pixel) == y, jnp.int8(k), winner)
    return winner


def _pixel(x: Float[Array, "b h w c"], i: int, j: int) -> Float[Array, "b y x c"]:
    """Pixel (i, j) of each window."""
    b, h, w, c = x.shape
    return lax.slice(x, (0, i, j, 0), (b, i + h - 2, j + w - 2, c), (1, 2, 2, 1))


# What a window takes of each of its nine pixels is linear, and so is what each pixel is given back.


def _taken(x: Float[Array, "b h w c"], winner: Int8[Array, "b y x c"]) -> Float[Array, "b y x c"]:
    """Takes from each window the pixel that its winner numbers."""
    parts = (jnp.where(winner == k, _pixel(x, *pixel), 0) for k, pixel in enumerate(PIXELS))
    return functools.reduce(jnp.add, parts)


def _given_back(
    g: Float[Array, "b y x c"], winner: Int8[Array, "b y x c"], *, extent: tuple[int, int]
) -> Float[Array, "b h w c"]:
    """The transpose of `_taken`, for images of this height and width."""
    return transposed(lambda x: _taken(x, winner), (g.shape[0], *extent, g.shape[3]), g)


def _given_back_on_cpu(g: Array, winner: Array, *, extent: tuple[int, int]) -> Array:
    """Computed before what uses it, which would else write nine arrays as large as the images."""
    return fenced(functools.partial(_given_back, extent=extent), g, winner)


def _linear(primitive: Primitive, transpose: Callable) -> None:
    """Registers derivatives for a primitive of two arrays, linear in the first; `transpose` is its own."""

    def derived(primals: Sequence[Array], tangents: Sequence[Any], **static: Any) -> tuple[Array, Array]:
        change = ad.instantiate_zeros(tangents[0])
        return primitive.bind(*primals, **static), primitive.bind(change, primals[1], **static)

    ad.primitive_jvps[primitive] = derived
    ad.primitive_transposes[primitive] = lambda g, x, winner, **static: [
        transpose(ad.instantiate_zeros(g), x.aval, winner),
        None,
    ]


_TAKEN = by_platform(
    "pool_taken", lambda x, winner: ShapedArray(winner.shape, x.dtype), cpu=_taken, elsewhere=_taken
)
_GIVEN_BACK = by_platform(
    "pool_given_back",
    lambda g, winner, extent: ShapedArray((g.shape[0], *extent, g.shape[3]), g.dtype),
    cpu=_given_back_on_cpu,
    elsewhere=_given_back,
    static=("extent",),
)
_linear(_TAKEN, lambda g, x, winner: _GIVEN_BACK.bind(g, winner, extent=x.shape[1:3]))
_linear(_GIVEN_BACK, lambda dx, g, winner: _TAKEN.bind(dx, winner))
